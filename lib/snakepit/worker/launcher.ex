defmodule Snakepit.Worker.Launcher do
  @moduledoc false
  # Starts and ends what a worker runs in: an OS process, by the companion, or what a fake pool has in its place
  # (Snakepit.Test). The caller then gets `{:companion, id, event}` messages (Snakepit.Companion).

  alias Snakepit.{Companion, Error, Pool, Python}
  alias Snakepit.Worker.Run

  @type id :: Companion.id()
  @type env :: [{String.t(), String.t()}]

  @doc "Starts one; it connects to the socket that `env` names, and is known to be gone when the monitor says so."
  @callback run(Pool.Options.t(), env()) :: {id(), monitor :: reference()}
  @doc "It was told to end: ends it if it has not after `grace_ms`."
  @callback stop(id(), grace_ms :: non_neg_integer()) :: :ok
  @doc "Ends it now."
  @callback kill(id()) :: :ok

  @doc "The program that a pool's workers run; none for a fake pool."
  @spec program(Pool.Options.t()) :: {:ok, Path.t() | nil} | {:error, Error.t()}
  def program(%Pool.Options{fake: nil} = options), do: Python.interpreter(options)
  def program(_fake), do: {:ok, nil}

  @doc "Starts the program. Exits if what starts it is gone."
  @spec run(Path.t() | nil, Pool.Options.t(), env()) :: {id(), monitor :: reference()}
  def run(python, %Pool.Options{fake: nil} = options, own) do
    monitor = Process.monitor(Companion)
    env = own ++ Python.env(options)
    unset = Python.unset_env(options, python)
    args = ["-m", "snakepit.main"]
    {Companion.run(python, args, env: env, unset_env: unset, limits: options.limits), monitor}
  end

  def run(nil, %Pool.Options{fake: {module, _}} = options, own), do: module.run(options, own)

  @spec stop(Run.t(), non_neg_integer()) :: :ok
  def stop(%Run{id: id} = run, grace_ms), do: of(run).stop(id, grace_ms)

  @spec kill(Run.t()) :: :ok
  def kill(%Run{id: id} = run), do: of(run).kill(id)

  @doc "The OS process of a run, which `Snakepit.list_workers/1` tells. A fake one runs in this VM's, which nobody is to kill."
  @spec os_pid(Run.t()) :: pos_integer() | nil
  def os_pid(%Run{pool: %{options: %{fake: nil}}, os_pid: pid}), do: pid
  def os_pid(_fake), do: nil

  defp of(%Run{pool: %{options: %{fake: nil}}}), do: Companion
  defp of(%Run{pool: %{options: %{fake: {module, _}}}}), do: module
end
