defmodule Snakepit.Pool.Supervisor do
  @moduledoc false
  # One pool: its checkout queue, its memory, its workers and their manager. One for all: none of them is of use without the
  # others. They stop in reverse: the drain waits for running calls, then the manager and the workers stop, then the queue.

  use Supervisor
  alias Snakepit.Pool

  @spec start_link(Pool.Options.t()) :: Supervisor.on_start()
  def start_link(%Pool.Options{name: name} = options) do
    Supervisor.start_link(__MODULE__, options, name: Pool.Handle.name(:pool_supervisor, name))
  end

  def child_spec(options) do
    %{
      id: {__MODULE__, options.name},
      start: {__MODULE__, :start_link, [options]},
      type: :supervisor,
      restart: :permanent
    }
  end

  @impl true
  def init(options) do
    # Before the workers, which report what they import.
    reload = if Pool.Imports.watched?(options), do: [{Pool.Reload, options.name}], else: []

    children =
      [
        %{id: Pool, start: {Pool, :start_link, [options]}},
        %{id: Pool.Arena, start: {Pool.Arena, :start_link, [options.name]}}
      ] ++
        reload ++
        [
          %{id: :workers, start: {Pool.Workers, :start_link, [options.name]}, type: :supervisor},
          %{id: Pool.Manager, start: {Pool.Manager, :start_link, [options.name]}},
          %{id: Pool.Resizer, start: {Pool.Resizer, :start_link, [options.name]}},
          Pool.Drain.child_spec(options)
        ]

    Supervisor.init(children, strategy: :one_for_all)
  end

  @doc "The processes of a pool's workers."
  @spec workers(atom()) :: [pid()]
  defdelegate workers(name), to: Pool.Workers, as: :all

  @doc "The workers of a pool as `Snakepit.list_workers/1` has them; none of a pool that is not there."
  @spec described(atom()) :: [map()]
  def described(name) do
    case Pool.Handle.fetch(name) do
      {:ok, handle} -> Pool.Manager.described(handle)
      {:error, _} -> []
    end
  end

  @doc """
  Stops a pool. Running calls and hooks of workers, which take their time, are waited for here: the supervisor of all pools would
  start and stop no other one meanwhile.
  """
  @spec stop(pid()) :: :ok
  def stop(pid) do
    for slow <- [Pool.Drain, Pool.Resizer, Pool.Manager, :workers], do: Supervisor.terminate_child(pid, slow)
    DynamicSupervisor.terminate_child(Snakepit.Pools, pid)
    :ok
  catch
    # Somebody else stopped it in this moment.
    :exit, _ -> :ok
  end

  @doc "The pool's own supervisor."
  @spec whereis(atom()) :: pid() | nil
  def whereis(name) do
    case Registry.lookup(Snakepit.Registry, {:pool_supervisor, name}) do
      [{pid, _}] -> pid
      [] -> nil
    end
  end
end
