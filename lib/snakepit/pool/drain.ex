defmodule Snakepit.Pool.Drain do
  @moduledoc false
  # The last child of a pool, so the first to be stopped: no new calls, and the running ones may finish.

  use GenServer
  alias Snakepit.Pool

  def child_spec(options) do
    %{id: __MODULE__, start: {__MODULE__, :start_link, [options]}, shutdown: options.shutdown_timeout + 1_000}
  end

  @spec start_link(Pool.Options.t()) :: GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options)

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    {:ok, Pool.Handle.fetch!(options.name)}
  end

  @impl true
  def terminate(_reason, handle) do
    Pool.drain(handle, handle.options.shutdown_timeout)
    # If the pool's own process died, those who wait have got no message.
    Pool.close(handle)
  end
end
