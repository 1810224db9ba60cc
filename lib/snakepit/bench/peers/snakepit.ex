defmodule Snakepit.Bench.Peers.Snakepit do
  @moduledoc "Snakepit, whose pool chooses the ways."
  @behaviour Snakepit.Bench.Peer
  alias Snakepit.Bench.Peer

  @impl true
  def peers, do: [{"snakepit", "Snakepit.execute/3, ways chosen freely"}]

  @impl true
  def start(_name, %{pool: pool}), do: {:ok, pool}

  @impl true
  def round_trips(pool, data, count) do
    args = %{x: Snakepit.bytes(data)}

    Peer.measure(
      fn ->
        {:ok, got} = Snakepit.execute("echo", args, pool: pool)
        got
      end,
      data,
      count
    )
  end

  @impl true
  def stop(_pool), do: :ok
end
