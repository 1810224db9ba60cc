defmodule Snakepit.Pool.Events do
  @moduledoc false
  # The events of pools, as messages to the processes that subscribed: `{Snakepit.Pool.Events, event}`.
  #
  # | event | when |
  # |---|---|
  # | `{:pool_started, pool}` | its handle is published: after its start, and after every start of its process |
  # | `{:worker_up, pool, worker}` | this worker process may take calls |
  # | `{:pool_stopped, pool}` | its handle was withdrawn |
  # | `{:load_changed, pool}` | memory or CPU became scarce, or are no longer: its cost model decides otherwise |
  #
  # A pool does not know its subscribers. A subscription ends with its process.

  @type event ::
          {:pool_started | :pool_stopped | :load_changed, pool :: atom()}
          | {:worker_up, pool :: atom(), pid()}

  @spec child_spec(term()) :: Supervisor.child_spec()
  def child_spec(_opts), do: Registry.child_spec(keys: :duplicate, name: __MODULE__)

  @doc "From now on, the calling process gets the events of all pools."
  @spec subscribe() :: :ok
  def subscribe do
    {:ok, _owner} = Registry.register(__MODULE__, :pools, nil)
    :ok
  end

  @spec emit(event()) :: :ok
  def emit(event) do
    Registry.dispatch(__MODULE__, :pools, fn subscribers ->
      for {pid, _value} <- subscribers, do: send(pid, {__MODULE__, event})
    end)
  end
end
