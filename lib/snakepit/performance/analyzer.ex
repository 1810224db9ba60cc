defmodule Snakepit.Performance.Analyzer do
  @moduledoc """
  What transfers took: records that of others, sums up a span of time, finds what became slower, and measures scenarios on
  live pools.
  """

  alias Snakepit.{Error, Observation, Stats, Transfer}
  alias Snakepit.Performance.{MetricsStore, Model, Regression, TransferMetrics}
  alias Snakepit.Performance.Model.{Histogram, Learning, Probe}
  alias Snakepit.Pool.Handle
  require Logger

  @doc """
  Records a transfer that Snakepit did not make itself. `metrics` has the fields of
  `Snakepit.Performance.TransferMetrics.new/3`. Where `:pool` runs and learns, it learns from it, too; its statistics are of
  its own calls. A row that lacks a field, or has an absurd one, is refused: logged, counted
  (`refused/0`), and not recorded.
  """
  @spec record_metrics(String.t(), map()) :: :ok
  def record_metrics(transfer_id, metrics) do
    case TransferMetrics.new(transfer_id, metrics, DateTime.utc_now()) do
      {:ok, metrics} ->
        MetricsStore.put(metrics)
        learn(metrics)

      {:error, _key, message} ->
        MetricsStore.count_refused()

        Logger.warning(
          "the metrics of transfer #{inspect(transfer_id, limit: 5)} are not recorded: #{message}"
        )

        :ok
    end
  rescue
    # The store's tables are gone: the application is stopping.
    ArgumentError -> :ok
  end

  # As of a probe whose arguments were that large: it is no call of the pool's, and counted nowhere.
  defp learn(%TransferMetrics{data_size: size} = m) when size > 0 do
    with {:ok, %{performance: %Model{ref: ref, policy: %{learning_enabled: true}} = model}} when ref != nil <-
           Handle.fetch(m.pool) do
      probe = %{direction: :request, type: m.data_type, way: m.method, size: size}
      Model.probed(model, probe, m.latency_us * 1000)
    end

    :ok
  end

  defp learn(_nothing), do: :ok

  @doc "How many metrics were refused."
  @spec refused() :: non_neg_integer()
  defdelegate refused(), to: MetricsStore

  @doc """
  What the calls of a pool took between two times (`DateTime`), or within the last `{:last, seconds}`.

      {:ok, %{pool: :ml, from: ~U[…], to: ~U[…], count: 1200, failed: 3, bytes: …, mean_latency_us: 91.3,
              p50_latency_us: 80, p95_latency_us: 140, p99_latency_us: 300, p999_latency_us: 900,
              throughput_mbps: 1234.5, series: […]}}

  `series` are the aggregates of `MetricsStore`: of seconds for a span of up to ten minutes within the last hour, of hours for
  a span of more than two days, else of `aggregation_interval_seconds`. A row counts as a whole when a part of it lies in the
  range. The percentiles are those of all calls together, right within a sixteenth.
  """
  @spec get_statistics(atom(), {DateTime.t(), DateTime.t()} | {:last, pos_integer()}) ::
          {:ok, map()} | {:error, Error.t()}
  def get_statistics(pool, range) do
    with {:ok, from, to} <- range(range),
         {:ok, handle} <- Handle.fetch(pool) do
      if Model.enabled?(handle.performance), do: Learning.learn_now(pool)
      {:ok, pool |> series(handle.performance.settings, from, to) |> summed(pool, from, to)}
    end
  end

  defp range({:last, seconds}) when is_integer(seconds) and seconds > 0 do
    now = System.os_time(:second)
    {:ok, now - seconds, now}
  end

  defp range({%DateTime{} = from, %DateTime{} = to} = given) do
    if DateTime.compare(from, to) == :gt,
      do: refuse(given),
      else: {:ok, DateTime.to_unix(from), DateTime.to_unix(to)}
  end

  defp range(other), do: refuse(other)

  defp refuse(range) do
    words =
      "expected a range {from, to} of DateTimes, the earlier first, or {:last, seconds}, got: #{inspect(range, limit: 5)}"

    {:error, Error.new(:validation, :invalid_option, words)}
  end

  defp series(pool, settings, from, to) do
    width =
      cond do
        to - from <= 600 and MetricsStore.seconds?(from) -> 1
        to - from <= 172_800 -> settings.aggregation_interval_seconds
        true -> 3_600
      end

    MetricsStore.series(pool, width, {from - width + 1, to})
  end

  defp summed(series, pool, from, to) do
    count = sum(series, :count)
    histogram = series |> Enum.map(& &1.histogram) |> Histogram.merge()

    [p50, p95, p99, p999] =
      for ns <- Histogram.percentiles(histogram, [0.5, 0.95, 0.99, 0.999]), do: ns && div(ns, 1000)

    {us, bytes} = {sum(series, :sum_latency), sum(series, :sum_bytes)}

    %{
      pool: pool,
      from: DateTime.from_unix!(from),
      to: DateTime.from_unix!(to),
      count: count,
      failed: sum(series, :failed),
      bytes: bytes,
      mean_latency_us: if(count > 0, do: us / count),
      p50_latency_us: p50,
      p95_latency_us: p95,
      p99_latency_us: p99,
      p999_latency_us: p999,
      throughput_mbps: if(us > 0, do: bytes / us),
      series: Enum.map(series, &Map.delete(&1, :histogram))
    }
  end

  defp sum(series, key), do: series |> Enum.map(& &1[key]) |> Enum.sum()

  @doc """
  Which transfers of a pool take longer than they used to, by more than `regression_threshold_percent` and more than chance:

      {:ok, [%{direction: :request, method: :inline, data_type: :binary, data_size: {65_536, 77_936}, baseline_us: 80.1,
               recent_us: 131.0, change_percent: 63.5, samples: 4_000}]}

  Compared are the averages of the logarithms of the last 50 and the last 2,000 transfers of one direction, way, type and
  about one size (of those that `:performance_metrics` has: at most 100 of a second), since the pool was started. Calls
  that carry much both ways are not compared. When a regression begins or ends there is an event, too.
  """
  @spec detect_regressions(atom()) :: {:ok, [map()]} | {:error, Error.t()}
  def detect_regressions(pool) do
    with {:ok, handle} <- Handle.fetch(pool) do
      if Model.enabled?(handle.performance), do: Learning.learn_now(pool)

      {:ok,
       for(
         {key, found} <- Enum.sort(MetricsStore.baselines(pool)),
         found.worse?,
         do: Regression.describe(key, found)
       )}
    end
  end

  @doc """
  Measures a scenario on a live pool: `%{pool:, sizes:, types:, ways:, directions:, concurrency:, rounds:}`, of which only the
  first must be there. Probes with no tool behind them are sent by each way, in turn; calls of others go on meanwhile.

      {:ok, %{results: [%{size:, type:, way:, direction:, p50_us:, p95_us:, p99_us:, throughput_mbps:, calls:}], …}}
  """
  @spec run_benchmark(map()) :: {:ok, map()} | {:error, Error.t()}
  def run_benchmark(scenario) do
    with {:ok, handle, s} <- scenario(scenario) do
      started = System.monotonic_time(:millisecond)

      cases =
        for size <- s.sizes,
            type <- s.types,
            direction <- s.directions,
            direction == :request or type == :binary,
            do: {size, type, direction}

      results = Enum.flat_map(cases, &measured(&1, handle, s))

      {:ok,
       %{pool: handle.name, results: results, duration_ms: System.monotonic_time(:millisecond) - started}}
    end
  catch
    {:failed, error} -> {:error, error}
  end

  @schema [
    pool: [type: :atom, required: true],
    sizes: [type: {:list_of, :bytes}, default: [4_096, 65_536, 1_048_576]],
    types: [type: {:subset, [:binary, :string, :tensor]}, default: [:binary]],
    ways: [type: {:or, [{:in, [nil]}, {:subset, Transfer.ways()}]}, default: nil],
    directions: [type: {:subset, [:request, :reply]}, default: [:request, :reply]],
    concurrency: [type: {:range, 1, 1_000}, default: 1],
    rounds: [type: {:range, 1, 10_000}, default: 50]
  ]

  defp scenario(given) do
    with {:ok, s} <- Snakepit.Options.validate(given, @schema),
         {:ok, handle} <- Handle.fetch(s.pool),
         ways = s.ways || handle.options.transfers -- [:grpc],
         [] <- ways -- handle.options.transfers do
      {:ok, handle, %{s | ways: ways}}
    else
      {:error, %Error{}} = error ->
        error

      {:error, _key, message} ->
        {:error, Error.new(:validation, :invalid_option, "scenario: #{message}")}

      [way | _] ->
        {:error,
         Error.new(:validation, :way_not_allowed, "scenario: the pool does not allow #{inspect(way)}")}
    end
  end

  defp measured({size, type, direction}, handle, s) do
    data = Probe.payload(direction, type, size)
    # The first of each way makes memory, or starts gRPC.
    for way <- s.ways, do: once(handle, direction, data, size, way)

    samples =
      1..s.concurrency
      |> Task.async_stream(
        fn _ -> for _ <- 1..s.rounds, way <- s.ways, do: {way, once(handle, direction, data, size, way)} end,
        max_concurrency: s.concurrency,
        timeout: :infinity
      )
      |> Enum.flat_map(fn {:ok, samples} -> samples end)

    for {way, times} <- Enum.group_by(samples, &elem(&1, 0), &elem(&1, 1)) do
      us = Enum.map(times, &(ok!(&1) / 1000))
      p50 = Stats.median(us)

      %{
        size: size,
        type: type,
        way: way,
        direction: direction,
        calls: length(us),
        p50_us: p50,
        p95_us: Stats.percentile(us, 95),
        p99_us: Stats.percentile(us, 99),
        throughput_mbps: size / p50
      }
    end
  end

  defp ok!({:error, error}), do: throw({:failed, error})
  defp ok!(ns), do: ns

  defp once(handle, direction, data, size, way) do
    with {:ok, seen} <- Probe.run(handle, direction, data, size, way), do: Observation.transfer_ns(seen)
  end
end
