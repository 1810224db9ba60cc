defmodule Snakepit.Worker.StartFailure do
  @moduledoc false
  # A worker's "failed" message (native/PROTOCOL.md), of what it does between its imports and its first call, as the error
  # its pool's start ends with.

  alias Snakepit.Error

  @doc "`options`: the pool's; `kind` is \"on_start\" or \"warm_up\"; `name` the hook or the command."
  @spec error(options :: map(), kind :: String.t(), name :: String.t(), map()) :: Error.t()
  def error(options, "on_start", hook, failure) do
    error = failure |> Map.put("category", "python_error") |> Error.from_worker()

    words =
      "pool #{inspect(options.name)}: @snakepit.on_start #{hook} failed: #{failure["type"]}: #{error.message}#{advice(failure)}"

    %{error | reason: :on_start_failed, message: words, details: %{hook: hook}}
  end

  def error(options, "warm_up", command, failure) do
    error = Error.from_worker(failure)
    words = "pool #{inspect(options.name)}: #{inspect(command)} of warm_up: failed: #{error.message}"
    %{error | reason: :warm_up_failed, message: words, details: Map.put(error.details, :command, command)}
  end

  defp advice(%{"advice" => words}) when is_binary(words), do: words
  defp advice(_failure), do: ""
end
