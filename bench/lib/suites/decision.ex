defmodule Snakepit.Bench.Decision do
  @moduledoc """
  The cost of deciding and recording: in a call, through the public function, from many processes at once, and while
  the processes that tend the cost model are killed again and again.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.{Bench, Performance, Stats}
  alias Snakepit.Bench.Result
  alias Snakepit.Performance.{Controller, MetricsStore, ThresholdManager}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.{Decision, Learning}
  alias Snakepit.Transfer.Payload

  @batch 1_000
  @kib 1024

  @impl true
  def name, do: "decision"

  @impl true
  def about, do: "the cost of choosing a way, and of recording what it took"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 15, else: 60)

  @impl true
  def run(%{quick?: quick?, progress: progress}) do
    Bench.with_pool([size: 1, performance_policy: [enabled: true]], fn pool ->
      {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)
      rounds = if quick?, do: 50, else: 300
      progress.("one decision")
      one = one(handle, rounds)
      progress.("many at once")
      many = many(handle, if(quick?, do: 3, else: 10))
      progress.("while its processes are killed")
      killed = killed(handle, if(quick?, do: 2_000, else: 10_000))
      progress.("record")
      record = record(handle, rounds)
      one ++ many ++ killed ++ record ++ [Result.new("decision.table.bytes", "B", [table_bytes(handle)])]
    end) ++ overhead(if(quick?, do: 20, else: 100), progress)
  end

  # Sizes of every order of magnitude, so that the table is read all over.
  defp sizes,
    do:
      for(
        k <- 12..28,
        bytes = 2 ** k + 7,
        type = Performance.data_type(rem(k, 5)),
        do: %Payload{bytes: bytes, fresh: bytes, type: type, count: 1, envelope: 40}
      )

  defp one(handle, rounds) do
    ways = handle.options.transfers
    sizes = sizes()
    decide = fn -> Enum.each(sizes, &Decision.plan(handle, nil, &1, ways, ways, :call)) end
    nothing = fn -> Enum.each(sizes, &nothing/1) end
    data = Snakepit.bytes(:binary.copy("x", 64 * @kib))
    public = fn -> Controller.decide_transfer_method(data, pool: handle.name) end
    {way, %{reason: _}} = public.()
    true = way in ways

    {call_path, public} =
      Enum.unzip(
        for _ <- 1..rounds, do: {per(decide, length(sizes)) - per(nothing, length(sizes)), per(public, 1)}
      )

    [
      Result.new("decision.call_path.p50_ns", "ns", call_path, {:at_most, 500}),
      Result.new("decision.call_path.p99_ns", "ns", [single(handle, hd(sizes), ways)], {:at_most, 2000}),
      Result.new("decision.public.p50_ns", "ns", public, {:at_most, 1000})
    ]
  end

  defp nothing(size), do: size

  # Nanoseconds of one of `each` things that `fun` does.
  defp per(fun, each) do
    rounds = div(@batch, each)
    started = :erlang.monotonic_time(:nanosecond)
    Enum.each(1..rounds, fn _ -> fun.() end)
    (:erlang.monotonic_time(:nanosecond) - started) / (rounds * each)
  end

  # One by one, less what reading the clock twice takes at the median.
  defp single(handle, size, ways) do
    decided = Bench.times(100_000, fn -> Decision.plan(handle, nil, size, ways, ways, :call) end)
    clock = Bench.times(100_000, fn -> :ok end)
    max(Stats.percentile(decided, 99) - Stats.median(clock), 0)
  end

  defp many(%{performance: model}, rounds) do
    samples =
      for _ <- 1..rounds do
        Bench.rate(System.schedulers_online(), 300, fn -> fn -> burst(model, 50) end end) * 50
      end

    [Result.new("decision.concurrent.per_second", "1/s", samples, {:at_least, 2_000_000})]
  end

  defp burst(_model, 0), do: :ok

  defp burst(model, n) do
    Model.decide(model, :request, :tensor, true, n * 4096, 7, nil, :call)
    burst(model, n - 1)
  end

  # Decisions one by one, as for the p99 above, while the store, the threshold manager and the drain die in turn.
  defp killed(handle, ms) do
    size = hd(sizes())
    ways = handle.options.transfers
    clock = 100_000 |> Bench.times(fn -> :ok end) |> Stats.median()

    p99 = fn ->
      times = Bench.times(50_000, fn -> Decision.plan(handle, nil, size, ways, ways, :call) end)
      max(Stats.percentile(times, 99) - clock, 0)
    end

    calm = for _ <- 1..20, do: p99.()
    killer = Task.async(fn -> kill(System.monotonic_time(:millisecond) + ms, 0) end)
    killed = until_over(killer, p99, [])

    [
      Result.new("decision.while_killed.p99_ns", "ns", killed, {:at_most, 2000}),
      Result.new("decision.while_killed.p99_over_calm", "ratio", [
        Stats.median(killed) / max(Stats.median(calm), 1)
      ]),
      Result.new("decision.while_killed.kills", "", [Task.await(killer, :infinity)])
    ]
  end

  defp until_over(killer, measure, samples) do
    samples = [measure.() | samples]
    if Process.alive?(killer.pid), do: until_over(killer, measure, samples), else: samples
  end

  defp kill(until, kills) do
    if System.monotonic_time(:millisecond) < until do
      pid = [MetricsStore, ThresholdManager, Learning] |> Enum.at(rem(kills, 3)) |> Process.whereis()
      if pid, do: Process.exit(pid, :kill)

      receive do
      after
        50 -> kill(until, kills + 1)
      end
    else
      kills
    end
  end

  defp record(%{performance: model}, rounds) do
    samples =
      for _ <- 1..rounds do
        started = :erlang.monotonic_time(:nanosecond)
        # No call that is learned from.
        call = {:inline, :inline, :binary, true, false}

        Enum.each(1..@batch, fn _ ->
          Model.record(model, call, {false, 1.0, 40_000, false}, 40_000, 65_536, 20)
        end)

        recorded = :erlang.monotonic_time(:nanosecond)
        Enum.each(1..@batch, fn _ -> :ok end)
        empty = :erlang.monotonic_time(:nanosecond)
        (recorded - started - (empty - recorded)) / @batch
      end

    [Result.new("metrics.record.p50_ns", "ns", samples, {:at_most, 60})]
  end

  defp table_bytes(%{performance: model}), do: Model.counts(model).table_bytes

  # The same calls on two pools, in turn. Nothing is explored, so that both do the same.
  defp overhead(rounds, progress) do
    progress.("calls with and without")
    data = Snakepit.bytes(:binary.copy("x", 64 * @kib))

    with_cost_model = [
      size: 1,
      performance_policy: [enabled: true, exploration_rate: 0, zero_copy_threshold_mb: 0.001]
    ]

    Bench.with_pool(with_cost_model, fn on ->
      Bench.with_pool([size: 1, performance_policy: [enabled: false]], fn off ->
        call = fn pool ->
          fn -> {:ok, {_, _, 65_536}} = Snakepit.execute("ends", %{x: data}, pool: pool) end
        end

        for pool <- [on, off], do: Bench.times(1_000, call.(pool))

        samples =
          for _ <- 1..rounds do
            [a, b] = for pool <- [on, off], do: 200 |> Bench.times(call.(pool)) |> Stats.median()
            [c, d] = for pool <- [off, on], do: 200 |> Bench.times(call.(pool)) |> Stats.median()
            100 * ((a + d) / (b + c) - 1)
          end

        [Result.new("metrics.overhead_percent", "%", samples, {:at_most, 2})]
      end)
    end)
  end
end
