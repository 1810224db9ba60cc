defmodule Mix.Tasks.Compile.SnakepitWorker do
  @moduledoc false
  # Builds the native part of workers anew where `mix snakepit.setup` built it and its sources have changed since.
  use Mix.Task.Compiler

  @impl true
  def run(_args) do
    case Snakepit.Python.Extension.refresh(&Mix.shell().info/1) do
      :ok -> {:noop, []}
      {:error, error} -> Mix.raise("snakepit: " <> error.message)
    end
  end
end
