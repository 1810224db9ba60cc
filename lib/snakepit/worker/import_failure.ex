defmodule Snakepit.Worker.ImportFailure do
  @moduledoc false
  # A worker's "failed" message (native/PROTOCOL.md) as the error its pool's start ends with.

  alias Snakepit.{Error, Python, Release}

  @doc "`options`: the pool's."
  @spec error(options :: map(), map()) :: Error.t()
  def error(options, %{"type" => "snakepit.tools.registry.NoTools", "message" => message})
      when is_binary(message) do
    Error.new(:python_error, :no_tools, "pool #{inspect(options.name)}: #{message}")
  end

  def error(options, failure) do
    what = "#{failure["type"]}: #{failure["message"]}#{searched(options, failure)}"
    message = "pool #{inspect(options.name)}: #{where(options, failure)}: #{what}"
    error = failure |> Map.merge(%{"category" => "python_error", "message" => message}) |> Error.from_worker()
    %{error | reason: :import_failed}
  end

  defp where(%{source: text}, %{"line" => line}) when text != nil and is_integer(line),
    do: "line #{line} of its source"

  defp where(%{python_module: []}, _failure), do: "its source could not be run"

  defp where(%{python_module: modules}, _failure),
    do: "#{Enum.join(modules, ", ")} could not be imported"

  # Where a module of the pool's was looked for. A module that another one imports is the interpreter's affair.
  defp searched(
         options,
         %{"type" => "ModuleNotFoundError", "message" => "No module named " <> name} = failure
       ) do
    name = String.trim(name, "'")

    if Enum.any?(options.python_module, &(&1 == name or String.starts_with?(&1, name <> "."))),
      do: "; " <> places(Python.directories(options)) <> Release.advice_on_path(options.python_path),
      else: advice(failure)
  end

  defp searched(_options, failure), do: advice(failure)

  defp advice(%{"advice" => words}) when is_binary(words), do: words
  defp advice(_failure), do: ""

  defp places([]), do: ":python_path names no directory"

  defp places(directories) do
    "looked for in " <>
      Enum.map_join(directories, ", ", &if(File.dir?(&1), do: &1, else: &1 <> " (no such directory)"))
  end
end
