defmodule Snakepit.Bench.Peers.Snakepit do
  @moduledoc "Snakepit, whose pool chooses the ways; and the same with callers and workers that sleep at once (`busy_poll: 0`)."
  @behaviour Snakepit.Bench.Peer
  alias Snakepit.Bench.Peer
  alias Snakepit.Performance.Model.Learning

  # The options of this pool: the other pool's, but for its own name and `busy_poll`.
  @same [:name, :busy_poll, :size, :python_module, :python_path, :memory_quota, :performance_policy]

  @impl true
  def peers do
    [
      {"snakepit", "Snakepit.execute/3, ways chosen freely"},
      {"snakepit_asleep", "the same, nobody spinning"}
    ]
  end

  @impl true
  def start("snakepit", %{pool: pool}), do: {:ok, pool}

  def start("snakepit_asleep", %{pool: pool}) do
    {:ok, %{options: options}} = Snakepit.Pool.Handle.fetch(pool)
    asleep = :"#{pool}_asleep"
    same = options |> Map.from_struct() |> Map.merge(%{name: asleep, busy_poll: 0})
    {:ok, _} = Snakepit.start_pool(Map.take(same, @same))
    Learning.await_calibrated(asleep)
    {:ok, {:own, asleep}}
  end

  @impl true
  def round_trips({:own, pool}, data, count), do: round_trips(pool, data, count)

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
  def stop({:own, pool}), do: Snakepit.stop_pool(pool)
  def stop(_pool), do: :ok
end
