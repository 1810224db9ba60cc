defmodule Mix.Tasks.Compile.SnakepitRelease do
  @moduledoc false
  # `mix release` compiles its dependencies by path each time, and has no other hook for them. So this compiler warns of
  # paths that will not work in the release (`Snakepit.Release`).
  use Mix.Task.Compiler

  @impl true
  def run(_args) do
    if releasing?(), do: Snakepit.Release.warn(app(root()), root())
    {:noop, []}
  end

  # A dependency is compiled in the process of the task that needs it, and Mix does not say which task that is.
  defp releasing? do
    {:backtrace, text} = Process.info(self(), :backtrace)
    String.contains?(text, "Mix.Tasks.Release':run/")
  end

  # While a dependency is compiled, the lock file is that of the project that needs it.
  defp root, do: Mix.Project.config() |> Keyword.fetch!(:lockfile) |> Path.expand() |> Path.dirname()

  # Its name as mix.exs has it; an umbrella has none.
  defp app(root) do
    with {:ok, text} <- File.read(Path.join(root, "mix.exs")),
         {:ok, quoted} <- Code.string_to_quoted(text) do
      quoted
      |> Macro.prewalker()
      |> Enum.find_value(fn
        {:app, app} when is_atom(app) -> app
        _ -> nil
      end)
    else
      _ -> nil
    end
  end
end
