defmodule Snakepit.Worker.Launcher do
  @moduledoc false
  # Starts and ends the process of a run: an OS process (`Snakepit.Worker.OsProcess`), or what a fake pool has in its place.
  # The caller then gets `{:companion, id, event}` messages (`Snakepit.Companion`).

  alias Snakepit.{Companion, Error}
  alias Snakepit.Worker.Run

  @type id :: Companion.id()
  @type env :: [{String.t(), String.t()}]

  @doc """
  Starts one. It connects to the socket that `env` names, and is known to be gone when the monitor says so. Exits if what
  starts it is gone.
  """
  @callback run(options :: map(), env()) :: {id(), monitor :: reference()} | {:error, Error.t()}
  @doc "It was asked to stop: ends it if it has not ended after `grace_ms`."
  @callback stop(id(), grace_ms :: non_neg_integer()) :: :ok
  @doc "Ends it now."
  @callback kill(id()) :: :ok

  @spec stop(Run.t(), non_neg_integer()) :: :ok
  def stop(%Run{id: id, spec: spec}, grace_ms), do: spec.launcher.stop(id, grace_ms)

  @spec kill(Run.t()) :: :ok
  def kill(%Run{id: id, spec: spec}), do: spec.launcher.kill(id)

  @doc "The OS process of a run. A fake worker has the VM's, which nobody is to kill: none is shown."
  @spec os_pid(Run.t()) :: pos_integer() | nil
  def os_pid(%Run{spec: %{os_process?: true}, os_pid: pid}), do: pid
  def os_pid(_fake), do: nil
end
