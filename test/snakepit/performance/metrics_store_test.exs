defmodule Snakepit.Performance.MetricsStoreTest do
  # Looks at tables that all pools share, and kills their owner.
  use Snakepit.Case, async: false
  import ExUnit.CaptureLog
  alias Snakepit.Pool.Handle
  alias Snakepit.Performance.{Analyzer, Controller, MetricsStore, Settings, TransferMetrics}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.Learning

  @given %{pool: :elsewhere, method: :zero_copy, data_size: 104_857_600, latency_us: 15_000}

  defp pool, do: pool!(performance_policy: [enabled: true, exploration_rate: 0])

  test "the struct has the specification's fields" do
    assert %TransferMetrics{} |> Map.from_struct() |> Map.keys() |> Enum.sort() ==
             ~w(available_memory compression cpu_time_us data_size data_type decision_time_us format latency_us memory_used
                method pool predicted_latency_us prediction_error system_load throughput_mbps timestamp transfer_id)a
  end

  test "calls come into the tables, one by one and in series" do
    pool = pool()
    data = Snakepit.bytes(:binary.copy("x", 50_000))
    for _ <- 1..30, do: {:ok, _} = Snakepit.execute("length", %{x: data}, pool: pool)
    {:error, _} = Snakepit.execute("fail", %{}, pool: pool)
    :ok = Learning.learn_now(pool)

    latest = MetricsStore.latest(pool, 100)
    assert length(latest) == 31

    assert [%TransferMetrics{data_size: 50_000, data_type: :binary, format: :raw, method: :inline} = m | _] =
             tl(latest)

    assert m.latency_us > 0 and m.predicted_latency_us > 0 and m.prediction_error >= 0
    assert_in_delta m.throughput_mbps, 50_000 / m.latency_us, 0.01

    now = System.os_time(:second)
    assert [%{count: 31, failed: 1} = hour] = MetricsStore.series(pool, 3_600, {now - 7_200, now})
    assert hour.p50_latency <= hour.p95_latency and hour.p99_latency <= hour.p999_latency
    assert hour.time_bucket == now - rem(now, 3_600) or rem(now, 3_600) < 5
    assert pool |> MetricsStore.series(60, {now - 120, now}) |> Enum.map(& &1.count) |> Enum.sum() == 31
    assert [{_, %{version: version, model: :lines}}] = :ets.lookup(:ml_models, {pool, :lines})
    assert version > 0

    assert {:ok, stats} = Analyzer.get_statistics(pool, {:last, 300})
    assert %{count: 31, failed: 1, bytes: bytes, pool: ^pool} = stats
    assert bytes >= 30 * 50_000
    assert stats.mean_latency_us > 0 and stats.p50_latency_us > 0 and stats.throughput_mbps > 0
    {later, earlier} = {DateTime.utc_now(), DateTime.add(DateTime.utc_now(), -1000)}
    assert {:ok, %{count: 31}} = Analyzer.get_statistics(pool, {earlier, later})

    assert {:ok, %{count: 0, p50_latency_us: nil}} =
             Analyzer.get_statistics(pool, {DateTime.add(earlier, -5000), earlier})

    for bad <- [{later, earlier}, {:last, 0}, :yesterday] do
      assert {:error, %Error{category: :validation}} = Analyzer.get_statistics(pool, bad)
    end
  end

  test "killed under load: no call fails, and the tables outlive it" do
    pool = pool()
    for _ <- 1..20, do: {:ok, _} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
    :ok = Learning.learn_now(pool)
    caller = Task.async(fn -> for n <- 1..500, do: Snakepit.execute("add", %{a: n, b: 0}, pool: pool) end)

    for _ <- 1..3 do
      pid = Process.whereis(MetricsStore)
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^ref, _, _, _}
      assert length(MetricsStore.latest(pool, 100)) >= 20
      assert eventually(fn -> Process.whereis(MetricsStore) not in [nil, pid] end)
    end

    assert Task.await(caller, 60_000) == for(n <- 1..500, do: {:ok, n})
  end

  test "somebody else's metrics: worked out, or refused and counted" do
    id = "t-#{System.unique_integer([:positive])}"
    assert :ok = Controller.record_transfer_metrics(id, Map.put(@given, :predicted_latency_us, 14_500))
    assert [%TransferMetrics{transfer_id: ^id} = m] = MetricsStore.latest(:elsewhere, 1)
    assert_in_delta m.throughput_mbps, 6990.5, 0.1
    assert_in_delta m.prediction_error, 500 / 15_000, 1.0e-9

    for {bad, word} <- [
          {Map.delete(@given, :method), "method"},
          {%{@given | method: :pigeon}, "pigeon"},
          {%{@given | latency_us: 0}, "latency_us"},
          {%{@given | latency_us: -5}, "-5"},
          {%{@given | latency_us: 1.0e300}, "latency_us"},
          {%{@given | data_size: 2 ** 70}, "data_size"},
          {%{@given | pool: "x"}, "pool"},
          {Map.put(@given, :memory_used, "much"), "memory_used"},
          {Map.put(@given, :colour, 1), "colour"},
          {Map.put(@given, :data_type, :picture), "picture"},
          {Map.put(@given, :throughput_mbps, -1), "throughput_mbps"},
          {Map.put(@given, :prediction_error, "x"), "prediction_error"},
          {Map.put(@given, :system_load, 7), "system_load"},
          {Map.put(@given, :format, :jpeg), "format"},
          {Map.put(@given, :compression, :zip), "compression"},
          {Map.put(@given, :transfer_id, "other"), "transfer_id"},
          {Map.put(@given, :timestamp, DateTime.add(DateTime.utc_now(), 3_600)), "timestamp"},
          {:none, "none"},
          {%{}, "missing"}
        ] do
      before = Analyzer.refused()
      assert capture_log(fn -> assert :ok = Analyzer.record_metrics(id, bad) end) =~ word
      assert Analyzer.refused() == before + 1
    end

    assert capture_log(fn -> Analyzer.record_metrics(nil, @given) end) =~ "an id"

    assert [%{transfer_id: ^id}] =
             :elsewhere |> MetricsStore.latest(5) |> Enum.filter(&(&1.transfer_id == id))
  end

  test "rows go by age, and when there are too many" do
    settings = %Settings{metrics_retention_hours: 2}
    now = System.os_time(:second)
    old = fn hours -> now - hours * 3_600 end
    name = :"gone_#{System.unique_integer([:positive])}"

    for {width, hours} <- [{1, 2}, {1, 0}, {60, 1}, {60, 3}, {3_600, 3}],
        do: :ets.insert(:performance_aggregates, {{name, width, old.(hours)}, %{time_bucket: old.(hours)}})

    {:ok, m} =
      TransferMetrics.new("old", %{@given | pool: name}, DateTime.add(DateTime.utc_now(), -25 * 3_600))

    :ok = MetricsStore.put(m)
    :ok = MetricsStore.put(%{m | transfer_id: "new", timestamp: DateTime.utc_now()})
    :ok = MetricsStore.sweep(settings, now)
    left = for width <- [1, 60, 3_600], do: length(MetricsStore.series(name, width, {0, now}))
    assert left == [1, 1, 0]
    assert [%{transfer_id: "new"}] = MetricsStore.latest(name, 10)

    for n <- 1..40_000, do: MetricsStore.put(%{m | transfer_id: "#{n}", timestamp: DateTime.utc_now()})
    bytes = fn -> :ets.info(:performance_metrics, :memory) * :erlang.system_info(:wordsize) end
    assert bytes.() > 20 * 1024 * 1024
    :ok = MetricsStore.sweep(settings, now)
    assert bytes.() <= 20 * 1024 * 1024 and bytes.() > 19 * 1024 * 1024
    assert [%{transfer_id: "40000"}] = MetricsStore.latest(name, 1)
  end

  test "a pool learns from somebody else's metrics of it, and counts none of them" do
    pool = pool()
    {:ok, handle} = Handle.fetch(pool)
    given = %{pool: pool, method: :zero_copy, data_size: 1_048_576, latency_us: 150, data_type: :tensor}
    for n <- 1..25, do: Controller.record_transfer_metrics("t#{n}", given)
    line = %{direction: :request, way: :zero_copy, type: :tensor, size: 1_048_576}
    assert %{samples: 25} = Model.line(handle.performance, line)
    assert {:ok, %{recorded: 0}} = Controller.get_statistics(pool)
  end

  test "a scenario is measured on a live pool" do
    pool = pool()
    scenario = %{pool: pool, sizes: ["8KB", 100_000], types: [:binary, :string], rounds: 5, concurrency: 2}
    assert {:ok, %{results: results, pool: ^pool}} = Analyzer.run_benchmark(scenario)
    assert length(results) == 2 * (2 + 1) * 2
    assert Enum.all?(results, &(&1.calls == 10 and &1.p50_us > 0 and &1.p50_us <= &1.p99_us))
    assert Enum.uniq(Enum.map(results, & &1.way)) |> Enum.sort() == [:inline, :zero_copy]

    for bad <- [
          %{},
          %{pool: pool, sizes: [-1]},
          %{pool: pool, ways: [:pigeon]},
          %{pool: :no_such_pool},
          %{pool: pool, colour: 1}
        ] do
      assert {:error, %Error{category: :validation}} = Analyzer.run_benchmark(bad)
    end
  end

  describe "statistics of earlier times" do
    alias Snakepit.Performance.Model.Histogram

    # A row of a series as the store writes it; latencies in microseconds, with how many calls took them.
    defp row(pool, seconds, bucket, latencies) do
      count = latencies |> Enum.map(&elem(&1, 1)) |> Enum.sum()
      us = latencies |> Enum.map(fn {us, n} -> us * n end) |> Enum.sum()

      row =
        Map.new([:failed, :sum_throughput, :p50_latency, :p95_latency, :p99_latency, :p999_latency], &{&1, 0})
        |> Map.merge(%{pool: pool, time_bucket: bucket, count: count, sum_latency: us, sum_bytes: count})
        |> Map.put(:histogram, Histogram.new(for {us, n} <- latencies, do: {us * 1000, n}))

      true = :ets.insert(:performance_aggregates, {{pool, seconds, bucket}, row})
    end

    test "a short span of which the seconds are gone is read from the minutes" do
      pool = pool!(performance_policy: [enabled: true])
      minute = div(System.os_time(:second) - 3 * 3600, 60) * 60
      row(pool, 60, minute, [{100, 7}])
      at = DateTime.from_unix!(minute)

      assert {:ok, %{count: 7, p50_latency_us: 100, mean_latency_us: 100.0}} =
               Analyzer.get_statistics(pool, {at, DateTime.add(at, 59)})
    end

    test "the percentiles of several rows are those of all their calls" do
      pool = pool!(performance_policy: [enabled: true])
      minute = div(System.os_time(:second) - 3 * 3600, 60) * 60
      # The average of both medians would be 5050, that of the 99th percentiles weighted by calls 1090.
      row(pool, 60, minute, [{100, 900}])
      row(pool, 60, minute + 60, [{10_000, 100}])
      at = DateTime.from_unix!(minute)
      assert {:ok, stats} = Analyzer.get_statistics(pool, {at, DateTime.add(at, 119)})
      assert %{count: 1000, p50_latency_us: 100, p95_latency_us: 10_000, p99_latency_us: 10_000} = stats
      refute Enum.any?(stats.series, &is_map_key(&1, :histogram))
    end
  end
end
