defmodule Snakepit.Pool.Supervisor do
  @moduledoc false
  # One pool: its books, its memory, its workers. One for all: books without workers, or workers of lost books, are
  # worth nothing. Stopped in reverse: the drain waits for running calls, then the workers go, then the books.

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
    # Before the workers, which tell it what they import.
    reload = if Pool.Reload.wanted?(options), do: [{Pool.Reload, options.name}], else: []

    children =
      [
        %{id: Pool, start: {Pool, :start_link, [options]}},
        %{id: Pool.Arena, start: {Pool.Arena, :start_link, [options.name]}}
      ] ++
        reload ++
        [
          %{id: :workers, start: {__MODULE__, :start_workers, [options.name]}, type: :supervisor},
          %{id: Pool.Resizer, start: {Pool.Resizer, :start_link, [options.name]}},
          Pool.Drain.child_spec(options)
        ]

    Supervisor.init(children, strategy: :one_for_all)
  end

  @doc false
  def start_workers(pool) do
    name = Pool.Handle.name(:workers, pool)
    %{options: options} = Pool.Handle.fetch!(pool)

    # Dynamic: for a while a worker that is recycled and its successor are both there.
    with {:ok, supervisor} <- DynamicSupervisor.start_link(strategy: :one_for_one, name: name) do
      for index <- 0..(options.size - 1), do: {:ok, _} = start_worker(options, index, :first)
      {:ok, supervisor}
    end
  end

  @doc "Starts a worker process, in a role that `Snakepit.Worker` knows."
  @spec start_worker(Pool.Options.t(), non_neg_integer(), Worker.role()) ::
          {:ok, pid()} | {:error, term()}
  def start_worker(options, index, role) do
    with {:ok, pid} <-
           DynamicSupervisor.start_child(
             Pool.Handle.name(:workers, options.name),
             Worker.child_spec({options, index, role})
           ) do
      {:ok, pid}
    else
      # The pool shrank in this moment.
      :ignore -> {:error, :not_wanted}
      {:error, reason} -> {:error, reason}
    end
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
    described = for pid <- workers(name), worker = Worker.describe(pid), do: worker
    Enum.sort_by(described, & &1.index)
  end

  @doc """
  Stops a pool. What takes its time (running calls, hooks of workers) is waited for here: the supervisor of all pools would
  start and stop no other one meanwhile.
  """
  @spec stop(pid()) :: :ok
  def stop(pid) do
    for slow <- [Pool.Drain, Pool.Resizer, :workers], do: Supervisor.terminate_child(pid, slow)
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
