defmodule Snakepit.Setup do
  @moduledoc false
  # Makes the Python environment, and checks it for the pools that are configured. `Snakepit.Python.Environment` does the
  # work, and knows no pools.

  alias Snakepit.{Config, Error, Pool, Python}
  alias Snakepit.Python.{Environment, Extension, Preflight}

  @spec run(keyword() | map(), (String.t() -> any())) :: :ok | {:error, Error.t()}
  def run(options, say) do
    with :ok <- Environment.setup(options, say, &workers/2), do: extensions(say)
  end

  # For the interpreters that pools name: whatever else they need is their owner's affair.
  defp extensions(say) do
    configured()
    |> Enum.flat_map(&with({:ok, python} <- Python.interpreter(&1), do: [python], else: (_ -> [])))
    |> Enum.uniq()
    |> Enum.reduce_while(:ok, fn python, :ok ->
      with :ok <- Extension.complete(python, say), do: {:cont, :ok}, else: (error -> {:halt, error})
    end)
  end

  # Each environment once: workers with the same variables and directories find the same modules.
  defp workers(python, say) do
    configured()
    |> Enum.filter(&match?({:ok, ^python}, Python.interpreter(&1)))
    |> Enum.flat_map(&of_pool(&1, say))
    |> Enum.uniq_by(&{&1.env, &1.python_path})
  end

  defp configured do
    case Config.load() do
      {:ok, config} -> config.pools
      # The application reports a wrong configuration when it starts.
      {:error, _} -> []
    end
  end

  # A function that gives the variables may need what is not compiled or started yet.
  defp of_pool(options, say) do
    case Pool.Env.each(options, &Preflight.concerned?/1) do
      {:ok, workers} ->
        workers

      {:error, error} ->
        say.("Not checked: the variables that workers get. #{error.message}")
        [%{options | env: %{}}]
    end
  end
end
