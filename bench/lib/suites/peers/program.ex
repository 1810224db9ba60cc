defmodule Snakepit.Bench.Peers.Program do
  @moduledoc false
  # A Python program of the bench, as a port.

  alias Snakepit.Bench

  @doc "Starts a program; it ends at the end of its input."
  @spec open(Path.t(), [String.t()], keyword()) :: port()
  def open(python, args, options) do
    of_pool = [name: :peers, python_module: "snakepit_bench.peers", python_path: Bench.python_path()]
    {:ok, pool} = Snakepit.Pool.Options.new(of_pool)

    env =
      for {name, value} <- Snakepit.Python.env(pool),
          do: {String.to_charlist(name), String.to_charlist(value)}

    Port.open(
      {:spawn_executable, python},
      [:binary, :use_stdio, :exit_status, args: args, env: env] ++ options
    )
  end

  @doc "Ends such a program."
  @spec close(port()) :: true
  def close(port) do
    Port.close(port)
  rescue
    # It ended by itself.
    ArgumentError -> true
  end
end
