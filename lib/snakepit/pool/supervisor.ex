defmodule Snakepit.Pool.Supervisor do
  @moduledoc false
  # One pool: its checkout queue, its memory, its workers and their manager. One for all: none of them is of use without the
  # others. They stop in reverse: the drain waits for running calls, then the manager and the workers stop, then the queue.

  use Supervisor
  alias Snakepit.{Pool, Worker}

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
    reload = if Pool.Reload.wanted?(options), do: [{Pool.Reload, options.name}], else: []

    children =
      [
        %{id: Pool, start: {Pool, :start_link, [options]}},
        %{id: Pool.Arena, start: {Pool.Arena, :start_link, [options.name]}}
      ] ++
        reload ++
        [
          %{id: :workers, start: {__MODULE__, :start_workers, [options.name]}, type: :supervisor},
          %{id: Pool.Manager, start: {Pool.Manager, :start_link, [options.name]}},
          %{id: Pool.Resizer, start: {Pool.Resizer, :start_link, [options.name]}},
          Pool.Drain.child_spec(options)
        ]

    Supervisor.init(children, strategy: :one_for_all)
  end

  @doc false
  def start_workers(pool),
    do: DynamicSupervisor.start_link(strategy: :one_for_one, name: Pool.Handle.name(:workers, pool))

  @doc "Starts the process of one run of a worker. It is never started again: the manager starts the next run."
  @spec start_worker(atom(), Worker.Spec.t()) :: {:ok, pid()} | {:error, term()}
  def start_worker(pool, spec) do
    DynamicSupervisor.start_child(Pool.Handle.name(:workers, pool), Worker.child_spec(spec))
  catch
    :exit, reason -> {:error, reason}
  end

  @doc "The worker processes of a pool."
  @spec workers(atom()) :: [pid()]
  def workers(name) do
    case Registry.lookup(Snakepit.Registry, {:workers, name}) do
      [{supervisor, _}] ->
        for {_, pid, _, _} <- DynamicSupervisor.which_children(supervisor), is_pid(pid), do: pid

      [] ->
        []
    end
  catch
    :exit, _ -> []
  end

  @doc "The workers of a pool as `Snakepit.list_workers/1` has them; none of a pool that is not there."
  @spec described(atom()) :: [map()]
  def described(name) do
    case Pool.Handle.fetch(name) do
      {:ok, handle} -> Pool.Manager.described(handle)
      {:error, _} -> []
    end
  end

  @doc """
  Stops a pool. What takes its time (running calls, hooks of workers) is waited for here: the supervisor of all pools would
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
