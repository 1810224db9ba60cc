defmodule Snakepit.Pool.Drain do
  @moduledoc false
  # The last child of a pool, so the first to be stopped: no new calls, and the running ones may finish.

  use GenServer
  alias Snakepit.Pool

  def child_spec(handle) do
    shutdown = handle.options.shutdown_timeout + 1_000
    %{id: __MODULE__, start: {__MODULE__, :start_link, [handle]}, shutdown: shutdown}
  end

  @spec start_link(Pool.Handle.t()) :: GenServer.on_start()
  def start_link(handle), do: GenServer.start_link(__MODULE__, handle)

  @impl true
  def init(handle) do
    Process.flag(:trap_exit, true)
    {:ok, handle}
  end

  @impl true
  def terminate(_reason, handle), do: Pool.drain(handle, handle.options.shutdown_timeout)
end
