defmodule Snakepit.Pool.Workers do
  @moduledoc false
  # The supervisor of a pool's workers: a process for each run. None is started again: the manager starts the next run.

  alias Snakepit.Pool.Handle
  alias Snakepit.Worker

  @spec start_link(atom()) :: Supervisor.on_start()
  def start_link(pool),
    do: DynamicSupervisor.start_link(strategy: :one_for_one, name: Handle.name(:workers, pool))

  @doc "Starts the process of one run."
  @spec start(atom(), Worker.Spec.t()) :: {:ok, pid()} | {:error, term()}
  def start(pool, spec) do
    DynamicSupervisor.start_child(Handle.name(:workers, pool), Worker.child_spec(spec))
  catch
    :exit, reason -> {:error, reason}
  end

  @doc "The processes of a pool's workers."
  @spec all(atom()) :: [pid()]
  def all(name) do
    case Registry.lookup(Snakepit.Registry, {:workers, name}) do
      [{supervisor, _}] ->
        for {_, pid, _, _} <- DynamicSupervisor.which_children(supervisor), is_pid(pid), do: pid

      [] ->
        []
    end
  catch
    :exit, _ -> []
  end
end
