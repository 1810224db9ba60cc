defmodule Snakepit.TelemetryTest do
  use Snakepit.Case, async: true
  import ExUnit.CaptureLog
  alias Snakepit.Performance.{Analyzer, Controller, MetricsStore, ThresholdManager}
  alias Snakepit.Performance.Model.{Calibration, Learning, Row}
  alias Snakepit.Pool.Handle
  alias Snakepit.Telemetry

  defp listen(events) do
    me = self()
    id = make_ref()
    :ok = Telemetry.attach(id, events, fn event, m, meta, to -> send(to, {event, m, meta}) end, me)
    on_exit(fn -> Telemetry.detach(id) end)
    id
  end

  # Those of the next test begin with these.
  @of_workers_and_pools [:worker, :pool]

  test "every event that is documented is emitted" do
    others = for [_, whose | _] = event <- Telemetry.events(), whose not in @of_workers_and_pools, do: event
    listen(others)
    pool = pool!(performance_policy: [enabled: true, exploration_rate: 0])
    :ok = Learning.await_calibrated(pool)
    {:ok, handle} = Handle.fetch(pool)
    data = Snakepit.bytes(:binary.copy("x", 20_000_000))

    # By the threshold of 10 MB: no memory is warm yet, so that the first goes another way.
    {:ok, _} = Snakepit.execute("length", %{x: data}, pool: pool, correlation_id: "c")
    {:error, _} = Snakepit.execute("fail", %{}, pool: pool)
    :ok = Controller.update_policy(pool, goal: :minimize_memory)
    {:ok, _} = Calibration.run(handle, budget_ms: 20)
    :ok = ThresholdManager.adjust_threshold(pool, %{data_type: :tensor, bytes: 77})

    assert_received {[:snakepit, :call, :stop], m,
                     %{pool: ^pool, command: "length", correlation_id: "c"} = meta}

    assert %{status: :ok, request_way: way, reply_way: :inline, retries: 0} = meta
    assert way in [:inline, :zero_copy]
    assert m.duration_ns > m.tool_ns and m.request_bytes == 20_000_000
    assert_received {[:snakepit, :call, :stop], _, %{pool: ^pool, command: "fail", status: :error}}

    assert_received {[:snakepit, :call, :fallback], %{request_bytes: 20_000_000},
                     %{pool: ^pool, request_way: :inline}}

    assert_received {[:snakepit, :performance, :decision], %{data_size: 20_000_000},
                     %{pool: ^pool} = decision}

    assert %{planned: :zero_copy, reason: :rule, explored?: false, data_type: :binary} = decision
    # The way that was taken, not the one that was chosen.
    assert decision.method == :inline

    assert_received {[:snakepit, :performance, :policy], _,
                     %{pool: ^pool, old: %{goal: :balanced}, new: %{goal: :minimize_memory}}}

    assert_received {[:snakepit, :performance, :calibration], %{probes: probes, duration_ms: ms},
                     %{pool: ^pool, result: :measured}}

    assert probes > 0 and ms >= 0

    assert_received {[:snakepit, :performance, :threshold], %{old: _, new: 77},
                     %{pool: ^pool, data_type: :tensor, reason: "set by hand"}}
  end

  @tag :tmp_dir
  test "every event of workers and pools that is documented is emitted", %{tmp_dir: dir} do
    events = for [_, whose | _] = event <- Telemetry.events(), whose in @of_workers_and_pools, do: event
    listen(events)
    pool = pool!(max_queue: 1)
    name = "#{pool}-0"
    [%{os_pid: pid}] = Snakepit.list_workers(pool)

    assert_received {[:snakepit, :worker, :up], %{start_ms: ms},
                     %{pool: ^pool, worker: ^name, os_pid: ^pid, restarts: 0}}

    assert ms > 0

    # One waits and is served, one waits in vain, one is refused.
    {busy, go_on} = busy(pool, dir)
    assert {:error, %Error{reason: :queue_timeout}} = Snakepit.execute("pid", %{}, pool: pool, timeout: 20)
    assert_received {[:snakepit, :pool, :queue], %{wait_ns: ns}, %{pool: ^pool, result: :timeout}}
    assert ns >= 20_000_000
    waiting = Task.async(fn -> Snakepit.execute("pid", %{}, pool: pool) end)
    eventually(fn -> match?({:ok, %{queued: 1}}, Snakepit.get_stats(pool)) end)
    assert {:error, %Error{reason: :pool_saturated}} = Snakepit.execute("pid", %{}, pool: pool)
    assert_received {[:snakepit, :pool, :saturated], %{busy: 1, queued: 1}, %{pool: ^pool}}
    go_on.()
    Task.await(busy)
    assert {:ok, ^pid} = Task.await(waiting)
    assert_received {[:snakepit, :pool, :queue], %{wait_ns: _}, %{pool: ^pool, result: :served}}

    # A call that did not wait has no event of the line.
    {:ok, _} = Snakepit.execute("pid", %{}, pool: pool)
    refute_received {[:snakepit, :pool, :queue], _, %{pool: ^pool}}

    {:error, _} = Snakepit.execute("die", %{signum: 11}, pool: pool, correlation_id: "c-7")

    assert_received {[:snakepit, :worker, :down], %{lived_ms: lived},
                     %{pool: ^pool, worker: ^name, os_pid: ^pid, status: {:signal, 11}, meant?: false} = meta}

    assert lived > 0
    assert [%{command: "die", correlation_id: "c-7", ms: _}] = meta.running
    assert meta.cause =~ "SIGSEGV"
    for _ <- 1..2, do: {:error, _} = Snakepit.execute("die", %{signum: 11}, pool: pool)

    assert_received {[:snakepit, :pool, :command_refused], %{deaths: 3, retry_in_ms: ms},
                     %{pool: ^pool, command: "die", last: last}}

    assert ms > 0 and last =~ "SIGSEGV"
    eventually(fn -> match?([%{status: :ready}], Snakepit.list_workers(pool)) end)
    {:ok, 2} = Snakepit.resize_pool(pool, 2)
    assert_received {[:snakepit, :pool, :resized], %{from: 1, size: 2, duration_ms: _}, %{pool: ^pool}}
    :ok = Snakepit.stop_pool(pool)
    assert_received {[:snakepit, :worker, :down], _, %{pool: ^pool, meant?: true, running: []}}
  end

  test "slower transfers, and their recovery, are events" do
    listen([:snakepit, :performance, :regression])
    pool = pool!(performance_policy: [enabled: true])
    {:ok, handle} = Handle.fetch(pool)
    # As the library hands records over: calls that went well, with 100 KB inline, of so many microseconds.
    add = fn us, count ->
      row = %Row{direction: :request, way: :inline, data_type: :binary, size: 100_000, ns: us * 1000}
      row = %{row | predicted_ns: 0, request_bytes: 100_000, reply_bytes: 20}
      :ok = MetricsStore.add(handle, List.duplicate(row, count))
      :ok = MetricsStore.flush()
    end

    add.(50, 500)
    assert {:ok, []} = Analyzer.detect_regressions(pool)

    add.(100, 100)

    assert_received {[:snakepit, :performance, :regression], m,
                     %{pool: ^pool, state: :begins, method: :inline}}

    assert m.recent_us > m.baseline_us and m.change_percent > 20

    assert {:ok, [%{method: :inline, direction: :request, data_type: :binary, data_size: {92_682, 110_218}}]} =
             Analyzer.detect_regressions(pool)

    add.(50, 300)
    assert_received {[:snakepit, :performance, :regression], _, %{pool: ^pool, state: :ends}}
    assert {:ok, []} = Analyzer.detect_regressions(pool)
    assert {:error, %Error{reason: :unknown_pool}} = Analyzer.detect_regressions(:no_such_pool)
  end

  test "a stream ends with one event, however it ends" do
    listen([:snakepit, :call, :stop])
    pool = pool!()
    [_, _, _] = Snakepit.stream("count", %{n: 3}, pool: pool) |> Enum.to_list()

    assert_received {[:snakepit, :call, :stop], %{duration_ns: _},
                     %{pool: ^pool, command: "count", status: :ok}}

    assert_raise RuntimeError, fn ->
      Snakepit.stream("count", %{n: 3}, pool: pool) |> Enum.each(fn _ -> raise "no" end)
    end

    assert_received {[:snakepit, :call, :stop], _, %{pool: ^pool, command: "count", status: :raised}}
    refute_received {[:snakepit, :call, :stop], _, %{pool: ^pool}}
  end

  test "a handler is attached once and detached once" do
    id = listen([:snakepit, :call, :stop])

    assert {:error, :already_exists} =
             Telemetry.attach(id, [:snakepit, :call, :stop], fn _, _, _, _ -> :ok end)

    assert {:error, :unknown_event} =
             Telemetry.attach(:other, [:snakepit, :no, :event], fn _, _, _, _ -> :ok end)

    assert Telemetry.listened_to?([:snakepit, :call, :stop])
    assert :ok = Telemetry.detach(id)
    assert {:error, :not_found} = Telemetry.detach(id)
  end

  test "a handler that fails is detached and reported; the call does not notice" do
    pool = pool!()
    me = self()

    :ok =
      Telemetry.attach({:bad, pool}, [:snakepit, :call, :stop], fn _, _, meta, _ ->
        if meta.pool == pool do
          send(me, :called)
          raise "no"
        end
      end)

    log =
      capture_log(fn -> for n <- 1..3, do: {:ok, _} = Snakepit.execute("add", %{a: n, b: 1}, pool: pool) end)

    assert log =~ "was detached"
    assert_received :called
    refute_received :called
    assert {:error, :not_found} = Telemetry.detach({:bad, pool})
  end
end
