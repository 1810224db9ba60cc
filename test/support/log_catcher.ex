defmodule Snakepit.LogCatcher do
  @moduledoc false
  # Sends the log events of one pool to a test, whole: `{:logged, level, message, metadata}`.

  @doc "From now on, until the test ends."
  def start(pool) do
    id = :"snakepit_catcher_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, __MODULE__, %{config: %{pool: pool, test: self()}})
    ExUnit.Callbacks.on_exit(fn -> :logger.remove_handler(id) end)
  end

  @doc false
  def log(%{level: level, msg: {:string, text}, meta: %{pool: pool} = meta}, %{
        config: %{pool: pool, test: test}
      }),
      do: send(test, {:logged, level, IO.chardata_to_string(text), meta})

  def log(_event, _config), do: :ok
end
