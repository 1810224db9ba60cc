defmodule Snakepit.ChunkReaper do
  @moduledoc false
  # Unmaps chunks whose last reference went: a destructor must not, for it takes milliseconds. Pools do so when they ask
  # for memory; this process does when no pool asks any more.

  use GenServer

  @every_ms 1_000

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(_opts), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil), do: {:ok, nil, @every_ms}

  @impl true
  def handle_info(:timeout, nil) do
    Snakepit.Native.unmap_unused()
    {:noreply, nil, @every_ms}
  end

  def handle_info(_other, nil), do: {:noreply, nil, @every_ms}
end
