defmodule Snakepit.Worker.OsProcess do
  @moduledoc false
  # The launcher of real workers: a Python interpreter, started and ended by the companion.

  @behaviour Snakepit.Worker.Launcher
  alias Snakepit.{Companion, Python}

  @impl true
  def run(options, own) do
    with {:ok, python} <- Python.interpreter(options) do
      monitor = Process.monitor(Companion)
      env = own ++ Python.env(options)
      unset = Python.unset_env(options, python)
      args = ["-m", "snakepit.main"]
      {Companion.run(python, args, env: env, unset_env: unset, limits: options.limits), monitor}
    end
  end

  @impl true
  defdelegate stop(id, grace_ms), to: Companion

  @impl true
  defdelegate kill(id), to: Companion
end
