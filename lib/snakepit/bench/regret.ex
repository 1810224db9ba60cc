defmodule Snakepit.Bench.Regret do
  @moduledoc """
  How good the choices are: over sizes from 256 B to 256 MiB, every way a pool allows is measured, in turn, and the way
  the pool chooses is held against the fastest; and what it had predicted against what calls then took.

  Regret is (time by the chosen way − time by the fastest) / time by the fastest. Beside it stands that of spec/003's fixed
  threshold of 10 MB (below it the frame, from it on shared memory). Memory is warm throughout.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.{Bench, Native, Observation, Performance, Pool, Stats, Transfer}
  alias Snakepit.Bench.Result
  alias Snakepit.Performance.{Calibration, Decision, Probe}

  @mib 1024 * 1024
  @fixed 10 * @mib

  @impl true
  def name, do: "regret"

  @impl true
  def about, do: "the ways chosen against the fastest, predictions against what calls took, the crossover"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 40, else: 300)

  @impl true
  def run(%{quick?: quick?, progress: progress}) do
    options = [
      size: 1,
      memory_quota: "4GB",
      performance_policy: [enabled: true, goal: :minimize_latency, exploration_rate: 0]
    ]

    Bench.with_pool(options, fn pool ->
      {:ok, handle} = Pool.Handle.fetch(pool)
      progress.("calibrate")
      crossovers = crossovers(handle)
      {:ok, _} = Calibration.run(handle, budget_ms: 5_000, ways: Transfer.ways())
      tells = tells(quick?, progress, handle)
      summary(tells) ++ crossovers
    end)
  end

  # Two calibrations from nothing, as a pool makes them when it starts.
  defp crossovers(handle) do
    [first, second] =
      for _ <- 1..2 do
        brain = Native.brain_new()
        {:ok, _} = Calibration.run(%{handle | brain: brain}, budget_ms: 300)
        Performance.crossover(%{handle | brain: brain}, :request, :binary)
      end

    for {found, n} <- [{first, 1}, {second, 2}], found != nil do
      {size, low, high} = found
      %Result{name: "calibrate.crossover.#{n}", value: size, low: low, high: high, unit: "B"}
    end ++ overlap(first, second)
  end

  defp overlap({_, low1, high1}, {_, low2, high2}) do
    overlap? = low1 <= high2 and low2 <= high1
    [Result.new("calibrate.crossover.overlap", "0 or 1", [if(overlap?, do: 1, else: 0)], {:at_least, 1})]
  end

  defp overlap(_, _), do: [Result.new("calibrate.crossover.overlap", "0 or 1", [0], {:at_least, 1})]

  defp tells(quick?, progress, handle) do
    powers = if quick?, do: 8..26//2, else: 8..28

    for k <- powers,
        {direction, type} <- [request: :binary, request: :string, request: :tensor, reply: :binary] do
      size = 2 ** k
      progress.("#{direction} #{type} 2^#{k}")
      tell(handle, direction, type, size, rounds(size, quick?))
    end
  end

  # About as long for every size.
  defp rounds(size, quick?),
    do:
      (if(quick?, do: 30, else: 150) * @mib)
      |> div(size + div(@mib, 4))
      |> max(3)
      |> min(if(quick?, do: 40, else: 200))

  defp tell(handle, direction, type, size, rounds) do
    data = Probe.payload(direction, type, size)
    # gRPC is far behind at every size: what it takes is seen after a few calls.
    ways = handle.options.transfers
    for way <- ways, do: once(handle, direction, data, size, way)

    samples =
      for round <- 1..rounds,
          way <- ways,
          way != :grpc or round <= 3,
          do: {way, once(handle, direction, data, size, way)}

    by_way = Enum.group_by(samples, &elem(&1, 0), &elem(&1, 1))
    medians = Map.new(by_way, fn {way, times} -> {way, Stats.median(times)} end)

    %{
      size: size,
      direction: direction,
      medians: medians,
      samples: by_way,
      chosen: chosen(handle, direction, type, size),
      predicted: predicted(handle, direction, type, size)
    }
  end

  # Nanoseconds beside the tool and the wait for a lane.
  defp once(handle, direction, data, size, way) do
    {command, args, opts} =
      if direction == :request,
        do: {Probe.command(), %{x: data}, [request_transfer: way]},
        else: {"block", %{n: size}, [reply_transfer: way]}

    {{:ok, result}, seen} = Snakepit.observe(command, args, [pool: handle.name] ++ opts)
    if direction == :reply, do: right!(result, size)
    Observation.transfer_ns(seen)
  end

  defp right!(data, size) when byte_size(data) == size, do: 7 = :binary.last(data)

  # Nothing that small leaves the envelope, whichever way it is asked to go.
  defp chosen(%{options: %{inline_limit: limit}}, _direction, _type, size) when size < limit, do: :inline

  defp chosen(handle, direction, type, size) do
    {order, _, _, _, _} =
      Native.brain_cell(handle.brain, Performance.number(direction), Performance.number(type), true, size)

    hd(Decision.in_order(order))
  end

  # Of a call that carries so much one way, and nothing the other.
  defp predicted(handle, direction, type, size) do
    of = fn direction, type, size ->
      handle.brain
      |> Native.brain_prices(Performance.number(direction), Performance.number(type), true, size, 0, 0)
      |> Enum.map(fn {{ns, _, _, _}, _} -> ns end)
    end

    back = if direction == :request, do: :reply, else: :request
    [empty | _] = of.(back, :mixed, 20)
    Map.new(Transfer.ways(), &{&1, Enum.at(of.(direction, type, size), Transfer.number(&1)) + empty})
  end

  defp summary(tells) do
    regret = fn choose ->
      for tell <- tells,
          do: 100 * (tell.medians[choose.(tell)] / (tell.medians |> Map.values() |> Enum.min()) - 1)
    end

    fixed = fn %{size: size} -> if size < @fixed, do: :inline, else: :zero_copy end
    ours = regret.(& &1.chosen)

    large = Enum.filter(tells, &(&1.size >= 64 * 1024))

    within =
      for tell <- large,
          way <- [:inline, :zero_copy],
          ns <- tell.samples[way],
          do: if(abs(ns - tell.predicted[way]) <= 0.15 * ns, do: 1, else: 0)

    [
      mean("regret.mean_percent", ours, {:at_most, 3}),
      mean("regret.fixed_10MB.mean_percent", regret.(fixed), nil),
      Result.new("regret.worst_percent", "%", [Enum.max(ours)]),
      %Result{
        name: "prediction.within_15_percent",
        unit: "share",
        value: Enum.sum(within) / length(within),
        low: Enum.sum(within) / length(within),
        high: Enum.sum(within) / length(within),
        target: {:at_least, 0.9}
      }
    ] ++ by_size(tells)
  end

  defp mean(name, percents, target) do
    mean = Enum.sum(percents) / length(percents)

    %Result{
      name: name,
      unit: "%",
      value: mean,
      low: Enum.min(percents),
      high: Enum.max(percents),
      target: target
    }
  end

  # What a reader may want to look up: each way's median for plain bytes.
  defp by_size(tells) do
    for %{direction: :request} = tell <- tells,
        rem(round(:math.log2(tell.size)), 4) == 0,
        {way, ns} <- tell.medians do
      Result.new("regret.request.2^#{round(:math.log2(tell.size))}.#{way}", "µs", [ns / 1000])
    end
    |> Enum.uniq_by(& &1.name)
  end
end
