defmodule Snakepit.LogCatcher do
  @moduledoc false
  # Sends the log events of one pool to a test, whole: `{:logged, level, message, metadata}`.

  @doc "From now on, until the test ends."
  def start(pool) do
    id = :"snakepit_catcher_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, __MODULE__, %{config: %{pool: pool, test: self()}})
    ExUnit.Callbacks.on_exit(fn -> :logger.remove_handler(id) end)
  end

  @doc "Keeps whoever logs for the pool, once it says `text`, until `go_on/1`: `{:kept, pid}` says who that is."
  def keep(pool, text) do
    id = :"snakepit_blocker_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, __MODULE__, %{config: %{pool: pool, test: self(), keep: text}})
    ExUnit.Callbacks.on_exit(fn -> :logger.remove_handler(id) end)
  end

  def go_on(pid), do: send(pid, {__MODULE__, :go_on})

  @doc false
  def log(%{msg: {:string, said}, meta: %{pool: pool}}, %{config: %{pool: pool, test: test, keep: text}}) do
    if IO.chardata_to_string(said) =~ text do
      send(test, {:kept, self()})

      receive do
        {__MODULE__, :go_on} -> :ok
      end
    end
  end

  def log(%{level: level, msg: {:string, text}, meta: %{pool: pool} = meta}, %{
        config: %{pool: pool, test: test}
      }),
      do: send(test, {:logged, level, IO.chardata_to_string(text), meta})

  def log(_event, _config), do: :ok
end
