defmodule Snakepit.Bench.Regret do
  @moduledoc """
  How good the choices are: over sizes from 256 B to 256 MiB every way a pool allows is taken, in turn, and the way the pool
  chooses is held against the fastest; and what the model expects is held against what calls then take.

  Each size is gone through in rounds, one call by each way. The pool learns from every other round, as from any calls; the
  rounds between are held out. The sweep is made twice, and all figures come from the held-out rounds of the second. Data
  are used again and again, so that they lie in the caches as far as they fit. In a third sweep shared memory is given back
  before each call, so that it would have to be made.

  Regret is (time by the chosen way − time by the fastest) / time by the fastest. Beside it stands that of spec/003's fixed
  threshold of 10 MB (below it the frame, from it on shared memory). `prediction.within_15_percent` is the share of single
  transfers that took within 15 % of what was expected; beside it `prediction.of_own_median` is the share within 15 % of the median
  of their own like, which nobody knows beforehand: how noisy the machine is; `prediction.medians` is the share of
  those medians that lie within 15 % of what was expected.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.{Bench, Observation, Pool, Stats}
  alias Snakepit.Bench.Result
  alias Snakepit.Performance.Controller
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.{Calibration, Probe}

  @kib 1024
  @mib 1024 * 1024
  @fixed 10 * @mib
  @near 0.15

  @impl true
  def name, do: "regret"

  @impl true
  def about, do: "the ways chosen against the fastest, predictions against what calls took, the crossover"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 20, else: 130)

  @impl true
  def wants, do: ["numpy", "grpc"]

  @impl true
  def run(%{quick?: quick?, has: has, progress: progress}) do
    options = [
      size: 1,
      transfers: if("grpc" in has, do: Pool.Options.ways(), else: Pool.Options.ways() -- [:grpc]),
      memory_quota: "4GB",
      performance_policy: [enabled: true, goal: :minimize_latency, exploration_rate: 0]
    ]

    Bench.with_pool(options, fn pool ->
      {:ok, handle} = Pool.Handle.fetch(pool)
      progress.("calibrate")
      crossovers = crossovers(handle)
      {:ok, _} = Calibration.run(handle, budget_ms: 5_000)

      # This suite itself decides, round by round, what the pool learns from.
      :ok = Controller.update_policy(pool, %{goal: :minimize_latency, learning_enabled: false})
      {:ok, handle} = Pool.Handle.fetch(pool)
      tensor? = "numpy" in has
      sweep(handle, tensor?, quick?, progress)
      warm = sweep(handle, tensor?, quick?, progress)
      cold = cold(handle, quick?, progress)

      regrets(warm, cold) ++ predictions(warm) ++ crossovers ++ by_size(warm)
    end)
  end

  # Two calibrations from nothing, as a pool makes them when it starts.
  defp crossovers(handle) do
    [first, second] =
      for _ <- 1..2 do
        fresh = %{handle | performance: Model.blank(handle.performance)}
        {:ok, _} = Calibration.run(fresh, budget_ms: 300)
        Model.crossover(fresh.performance, :request, :binary)
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

  # ---- sweeps -----------------------------------------------------------------------------------------------------

  defp powers(quick?), do: if(quick?, do: 8..26//2, else: 8..28)

  defp sweep(handle, tensor?, quick?, progress) do
    :rand.seed(:exsss, 7)

    cases =
      for k <- powers(quick?),
          {direction, type} <- [request: :binary, request: :string, request: :tensor, reply: :binary],
          type != :tensor or tensor?,
          do: {direction, type, 2 ** k}

    for {direction, type, size} <- Enum.shuffle(cases) do
      progress.("#{direction} #{type} #{size}")
      teach(handle, direction, type, size, rounds(size, quick?))
    end
  end

  # About as long for every size.
  defp rounds(size, quick?),
    do:
      (if(quick?, do: 15, else: 75) * @mib)
      |> div(size + div(@mib, 4))
      |> max(5)
      |> min(if(quick?, do: 25, else: 100))

  defp teach(handle, direction, type, size, rounds) do
    data = Probe.payload(direction, type, size)
    ways = different(direction, size, handle.options)
    call = &once(handle, direction, data, size, &1)
    for way <- ways, do: call.(way)

    samples =
      for round <- 1..rounds do
        round = ways_of(ways, round)
        Enum.each(round, call)
        Model.drain(handle.performance, 0, true)
        predicted = predicted(handle, direction, type, size)
        held_out = for way <- round, do: {way, call.(way), predicted[way]}
        Model.drain(handle.performance, 0, false)
        held_out
      end
      |> List.flatten()

    Model.compile(handle.performance)
    by_way = Enum.group_by(samples, &elem(&1, 0), fn {_way, ns, predicted} -> {ns, predicted} end)

    %{
      size: size,
      direction: direction,
      type: type,
      samples: by_way,
      medians: Map.new(by_way, fn {way, samples} -> {way, Stats.median(Enum.map(samples, &elem(&1, 0)))} end),
      chosen: chosen(handle, direction, type, size)
    }
  end

  # Nothing that small leaves the envelope: by shared memory it goes inline, and a result does by gRPC, too.
  defp different(:reply, size, options) when size < options.inline_limit, do: [:inline]

  defp different(:request, size, options) when size < options.inline_limit,
    do: options.transfers -- [:zero_copy]

  defp different(_direction, _size, options), do: options.transfers

  # gRPC is far behind at every size: what it takes is seen after a few calls.
  defp ways_of(ways, round), do: if(round <= 3, do: ways, else: ways -- [:grpc])

  # Nanoseconds beside the tool and the wait for a lane.
  defp once(handle, direction, data, size, way) do
    {command, args, opts} =
      if direction == :request,
        do: {"ends", %{x: data}, [request_transfer: way]},
        else: {"block", %{n: size}, [reply_transfer: way]}

    {{:ok, result}, seen} = Snakepit.observe(command, args, [pool: handle.name] ++ opts)
    right!(result, size)
    Observation.transfer_ns(seen)
  end

  defp right!({7, 7, size}, size), do: :ok
  defp right!(data, size) when byte_size(data) == size, do: 7 = :binary.last(data)

  defp chosen(%{options: %{inline_limit: limit}}, _direction, _type, size) when size < limit, do: :inline

  defp chosen(handle, direction, type, size),
    do: hd(Model.cell(handle.performance, direction, type, size).order)

  # The predictions for a call that carries so much in one direction, and nothing in the other.
  defp predicted(handle, direction, type, size) do
    Map.new(handle.options.transfers, fn way ->
      probe = %{direction: direction, type: type, way: way, size: size}
      {way, Model.predict(handle.performance, probe)}
    end)
  end

  # The way that a call takes by itself when no shared memory is at hand, and what the ways take then.
  defp cold(handle, quick?, progress) do
    for k <- powers(quick?), k >= 12, k <= 26 do
      size = 2 ** k
      progress.("fresh memory: #{size}")
      data = Probe.payload(:request, :binary, size)

      samples =
        for round <- 1..if(quick?, do: 3, else: 7),
            way <- handle.options.transfers,
            way != :grpc or round <= 3 do
          Pool.Arena.drop_idle(handle)
          {way, once(handle, :request, data, size, way)}
        end

      Pool.Arena.drop_idle(handle)
      {{:ok, _}, %{request_way: chosen}} = Snakepit.observe("ends", %{x: data}, pool: handle.name)
      by_way = Enum.group_by(samples, &elem(&1, 0), &elem(&1, 1))

      %{
        size: size,
        chosen: chosen,
        medians: Map.new(by_way, fn {way, times} -> {way, Stats.median(times)} end)
      }
    end
  end

  # ---- figures ----------------------------------------------------------------------------------------------------

  defp regrets(warm, cold) do
    of = fn tells, choose -> for tell <- tells, do: 100 * (over_fastest(tell, choose) - 1) end
    ours = of.(warm ++ cold, & &1.chosen)

    [
      mean("regret.mean_percent", ours, {:at_most, 3}),
      mean("regret.warm.mean_percent", of.(warm, & &1.chosen), nil),
      mean("regret.cold.mean_percent", of.(cold, & &1.chosen), nil),
      mean("regret.fixed_10MB.mean_percent", of.(warm ++ cold, &fixed/1), nil),
      Result.new("regret.worst_percent", "%", [Enum.max(ours)])
    ] ++ of_each_size(warm ++ cold)
  end

  defp over_fastest(tell, choose),
    do: tell.medians[choose.(tell)] / (tell.medians |> Map.values() |> Enum.min())

  defp fixed(%{size: size}), do: if(size < @fixed, do: :inline, else: :zero_copy)

  # For the picture: mean, least and most over directions, types, warm and cold.
  defp of_each_size(tells) do
    for {size, tells} <- tells |> Enum.group_by(& &1.size) |> Enum.sort(),
        {who, choose} <- [chosen: & &1.chosen, fixed_10MB: &fixed/1] do
      ratios = for tell <- tells, do: over_fastest(tell, choose)
      name = "regret.2^#{round(:math.log2(size))}.#{who}.over_fastest"
      %{mean(name, ratios, nil) | unit: "ratio"}
    end
  end

  defp predictions(tells) do
    large = for tell <- tells, tell.size >= 64 * @kib, way <- [:inline, :zero_copy], do: {tell, way}

    single =
      for {tell, way} <- large, {ns, predicted} <- tell.samples[way], do: {ns, predicted, tell.medians[way]}

    typical =
      for {tell, way} <- large,
          do: {Stats.median(Enum.map(tell.samples[way], &elem(&1, 1))), tell.medians[way]}

    [
      share("prediction.within_15_percent", for({ns, predicted, _} <- single, do: near?(predicted, ns)), 0.9),
      share("prediction.of_own_median", for({ns, _, median} <- single, do: near?(median, ns)), nil),
      share("prediction.medians", for({predicted, median} <- typical, do: near?(predicted, median)), nil)
    ]
  end

  defp near?(predicted, ns), do: abs(ns - predicted) <= @near * ns

  # With the 95 % interval of a share (Wilson, 1927).
  defp share(name, yes, target) do
    {n, p} = {length(yes), Enum.count(yes, & &1) / length(yes)}
    z2 = 1.96 * 1.96
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = 1.96 * :math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)

    %Result{
      name: name,
      unit: "share",
      value: p,
      low: middle - half,
      high: middle + half,
      target: target && {:at_least, target}
    }
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

  # Figures for a reader to look up: each way's median for plain bytes.
  defp by_size(tells) do
    for %{direction: :request, type: :binary} = tell <- Enum.sort_by(tells, & &1.size),
        rem(round(:math.log2(tell.size)), 4) == 0,
        {way, ns} <- tell.medians do
      Result.new("regret.request.2^#{round(:math.log2(tell.size))}.#{way}", "µs", [ns / 1000])
    end
  end
end
