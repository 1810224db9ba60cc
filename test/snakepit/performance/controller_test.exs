defmodule Snakepit.Performance.ControllerTest do
  use Snakepit.Case, async: true
  import ExUnit.CaptureLog
  alias Snakepit.Performance.{Controller, CostBenefitAnalyzer}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.Learning
  alias Snakepit.Pool.Handle
  alias Snakepit.Bytes

  @kib 1024
  @mib 1024 * 1024

  # A pool that knows a world in which shared memory is cheapest from 30,000 bytes on.
  @latency [enabled: true, exploration_rate: 0, goal: :minimize_latency]

  defp pool(policy \\ []) do
    pool = pool!(performance_policy: @latency ++ policy)
    {:ok, handle} = Handle.fetch(pool)
    world(handle)
    {pool, handle}
  end

  defp world(handle) do
    for n <- 1..400,
        direction <- [:request, :reply],
        {way, a, b} <- [{:inline, 20_000, 0.3}, {:zero_copy, 26_000, 0.1}] do
      size = 2 ** (10 + rem(n, 16))

      :ok =
        Model.calibrate(
          handle.performance,
          %{direction: direction, way: way, type: :binary, size: size},
          a + b * size + 10_000.0,
          20_000
        )
    end

    :ok = Model.compile(handle.performance)
  end

  defp bytes(size), do: %Bytes{data: :binary.copy(<<7>>, size)}

  # Shared memory is there, so that a call that chooses it need not go another way.
  defp warm(pool, size),
    do: {:ok, _} = Snakepit.execute("length", %{x: bytes(size)}, pool: pool, transfer: :zero_copy)

  defp way(pool, size) do
    {{:ok, ^size}, seen} = Snakepit.observe("length", %{x: bytes(size)}, pool: pool)
    seen.request_way
  end

  test "a call takes the way that costs least; replies too" do
    {pool, _} = pool()
    for size <- [8 * @kib, @mib], do: warm(pool, size)
    assert way(pool, 8 * @kib) == :inline
    assert way(pool, @mib) == :zero_copy

    # The worker is sent its table beside the calls.
    :ok = Learning.publish(pool)
    assert eventually(fn -> reply_way(pool, @mib) == :zero_copy end)
    assert reply_way(pool, 8 * @kib) == :inline
  end

  test "a worker that is started again is sent the table" do
    {pool, _} = pool()
    [%{os_pid: before}] = Snakepit.list_workers(pool)
    {:error, %Error{category: :worker}} = Snakepit.execute("die", %{signum: 9}, pool: pool)
    assert eventually(fn -> match?([%{status: :ready}], Snakepit.list_workers(pool)) end)
    [%{os_pid: pid}] = Snakepit.list_workers(pool)
    assert pid != before
    assert eventually(fn -> reply_way(pool, @mib) == :zero_copy end)
  end

  defp reply_way(pool, size) do
    {{:ok, _}, seen} = Snakepit.observe("python_value", %{code: "x = b'7' * #{size}"}, pool: pool)
    seen.reply_way
  end

  test "many small buffers are decided by the size of one" do
    {pool, _} = pool()
    list = for _ <- 1..200, do: bytes(8 * @kib)
    {{:ok, 200}, seen} = Snakepit.observe("length", %{x: list}, pool: pool)
    assert seen.request_way == :inline
  end

  test "what lies in shared memory is not copied, whatever its size" do
    {pool, _} = pool()
    {:ok, shared} = Snakepit.share(bytes(8 * @kib), pool: pool)
    {{:ok, _}, seen} = Snakepit.observe("length", %{x: shared}, pool: pool)
    assert {seen.request_way, seen.copied_bytes} == {:zero_copy, 0}
  end

  test "with something small beside it, what lies in shared memory is still not copied" do
    {pool, _} = pool()
    {:ok, shared} = Snakepit.share(bytes(@mib), pool: pool)
    warm(pool, 5_000)
    {{:ok, 2}, seen} = Snakepit.observe("length", %{x: [shared, bytes(5_000)]}, pool: pool)
    assert {seen.request_way, seen.copied_bytes} == {:zero_copy, 5_000}
  end

  test "the decision says what it rests on" do
    {pool, _} = pool()
    assert {:zero_copy, meta} = Controller.decide_transfer_method(bytes(@mib), pool: pool)
    assert %{method: :zero_copy, reason: :cheapest, data_size: @mib, explored?: false} = meta
    assert is_binary(meta.transfer_id) and meta.confidence > 0.9
    assert meta.predicted_latency_us.zero_copy < meta.predicted_latency_us.inline
    assert {:inline, %{reason: :cheapest}} = Controller.decide_transfer_method(bytes(8 * @kib), %{pool: pool})

    # As a call has it: what is small never leaves the envelope, whatever a threshold says.
    assert {:inline, %{reason: :in_envelope}} = Controller.decide_transfer_method("small", %{pool: pool})
    assert {:inline, %{reason: :in_envelope}} = Controller.decide_transfer_method(%{a: 1}, %{pool: pool})

    # Several values are judged by the size of one.
    several = %{a: for(_ <- 1..100, do: bytes(8 * @kib))}
    assert {:inline, %{data_size: 819_200}} = Controller.decide_transfer_method(several, pool: pool)
    {:ok, shared} = Snakepit.share(:binary.copy("x", 8 * @kib), pool: pool)
    shared = Snakepit.bytes(shared)
    assert {:zero_copy, %{reason: :shared}} = Controller.decide_transfer_method([shared], pool: pool)

    off = pool!(performance_policy: [enabled: false])
    assert {:inline, %{reason: :in_envelope}} = Controller.decide_transfer_method("small", pool: off)
    assert {:zero_copy, %{reason: :not_measured}} = Controller.decide_transfer_method(bytes(@mib), pool: off)

    assert {:zero_copy, _} =
             Controller.decide_transfer_method(nil, pool: pool, data_size: @mib, data_type: :tensor)

    assert {:zero_copy, _} =
             Controller.decide_transfer_method(%{a: [bytes(@mib)]}, pool: pool, direction: :reply)
  end

  test "it is total" do
    pool = pool!(performance_policy: @latency)
    inline_only = pool!(transfers: [:inline], performance_policy: @latency)

    log =
      capture_log(fn ->
        for {data, opts} <- [
              {"x", [pool: :no_such_pool]},
              {self(), [pool: pool]},
              {"x", [pool: pool, data_type: :picture]},
              {"x", [pool: pool, direction: :sideways]},
              {"x", :nonsense},
              {"x", [1]},
              {nil, [pool: inline_only, data_size: 2 ** 40]}
            ] do
          assert {:grpc, %{fallback: true, reason: _}} = Controller.decide_transfer_method(data, opts)
        end
      end)

    assert log =~ "no_such_pool"
  end

  test "a pool without inline weighs shared memory against gRPC" do
    options = [transfers: [:zero_copy, :grpc], performance_policy: @latency ++ [zero_copy_threshold_mb: 0.1]]
    pool = pool!(options)
    assert {:grpc, %{reason: :override}} = Controller.decide_transfer_method(bytes(50_000), pool: pool)

    assert {{:ok, 50_000}, %{request_way: :grpc}} =
             Snakepit.observe("length", %{x: bytes(50_000)}, pool: pool)

    assert {:zero_copy, %{reason: :override}} = Controller.decide_transfer_method(bytes(@mib), pool: pool)

    # Measured: gRPC is the cheapest up to 100,000 bytes here, for results as well.
    pool = pool!(Keyword.put(options, :performance_policy, @latency))
    {:ok, handle} = Handle.fetch(pool)

    for n <- 1..400,
        direction <- [:request, :reply],
        {way, a, b} <- [{:grpc, 30_000, 0.3}, {:zero_copy, 50_000, 0.1}] do
      size = 2 ** (10 + rem(n, 16))

      :ok =
        Model.calibrate(
          handle.performance,
          %{direction: direction, way: way, type: :binary, size: size},
          a + b * size + 10_000.0,
          20_000
        )
    end

    :ok = Model.compile(handle.performance)
    Learning.publish(pool)
    warm(pool, @mib)
    assert {:grpc, %{reason: :cheapest}} = Controller.decide_transfer_method(bytes(20_000), pool: pool)
    assert way(pool, @mib) == :zero_copy

    assert eventually(fn -> reply_way(pool, 20_000) == :grpc end)
    assert eventually(fn -> reply_way(pool, @mib) == :zero_copy end)
  end

  test "a policy is changed while calls go on; a bad one is refused and changes nothing" do
    {pool, _} = pool()
    warm(pool, 8 * @kib)
    assert way(pool, 8 * @kib) == :inline
    assert :ok = Controller.update_policy(pool, zero_copy_threshold_mb: 0.001)
    assert way(pool, 8 * @kib) == :zero_copy

    for {bad, word} <- [
          {[goal: :none], "goal"},
          {[exploration_rate: 2], "exploration_rate"},
          {:none, "none"},
          {%{enabled: false}, "enabled"}
        ] do
      assert {:error, %Error{category: :validation, message: message}} = Controller.update_policy(pool, bad)
      assert message =~ inspect(pool) and message =~ word
    end

    assert way(pool, 8 * @kib) == :zero_copy

    assert {:ok, %{policy: %{goal: :balanced, threshold_overrides: %{binary: 1049}}}} =
             Controller.get_statistics(pool)

    assert {:error, %Error{reason: :unknown_pool}} = Controller.update_policy(:no_such_pool, [])
    assert {:error, %Error{reason: :not_enabled}} = Controller.update_policy(pool!(), [])
  end

  test "a policy is taken as the struct, too, and the specification's pools as they stand" do
    {pool, _} = pool()
    policy = %Snakepit.Performance.Policy{goal: :minimize_memory, threshold_overrides: %{tensor: 7}}
    assert :ok = Controller.update_policy(pool, policy)
    assert {:ok, %{policy: ^policy}} = Controller.get_statistics(pool)

    for {given, expected} <- [
          {%{goal: :minimize_latency, zero_copy_threshold_mb: 5, learning_enabled: true}, {5_242_880, true}},
          {%{goal: :balanced, zero_copy_threshold_mb: 50, learning_enabled: false}, {52_428_800, false}}
        ] do
      pool = pool!(performance_policy: Map.put(given, :enabled, true))
      assert {:ok, stats} = Controller.get_statistics(pool)
      assert stats.policy.goal == given.goal
      assert {stats.current_thresholds.zero_copy_min, stats.policy.learning_enabled} == expected
      assert %{exploration_rate: 0.05, model_update_interval: 3_600_000} = stats.global_config
    end
  end

  test "custom rules come first; one that is broken is logged once and ignored" do
    me = self()

    rule = fn facts ->
      send(me, facts)
      if facts.data_size == @mib, do: :inline, else: :default
    end

    {pool, _} = pool(custom_rules: [rule])
    for size <- [@mib, 2 * @mib], do: warm(pool, size)
    assert way(pool, @mib) == :inline
    assert_received %{pool: ^pool, data_type: :binary, format: :raw, direction: :request, data_size: @mib}
    assert way(pool, 2 * @mib) == :zero_copy

    for {broken, word} <- [
          {fn _ -> :by_pigeon end, "by_pigeon"},
          {fn _ -> raise "no idea" end, "no idea"},
          {fn _ -> throw(:x) end, ":x"}
        ] do
      log =
        capture_log(fn ->
          :ok =
            Controller.update_policy(pool,
              custom_rules: [broken],
              goal: :minimize_latency,
              exploration_rate: 0
            )

          for _ <- 1..3, do: assert(way(pool, 2 * @mib) == :zero_copy)
        end)

      assert [_, _] = String.split(log, "Expected: :zero_copy, :inline, :grpc or :default")
      assert log =~ word
    end
  end

  test "statistics" do
    {pool, handle} = pool()
    warm(pool, @mib)
    for _ <- 1..30, do: way(pool, @mib)
    # What a killed test left behind would be counted too.
    :ok = Snakepit.Performance.Model.Learning.learn_now(pool)
    assert {:ok, stats} = Controller.get_statistics(pool)

    assert %{decisions: 30, explored: 0, recorded: 31, dropped: 0, zero_copy_count: 31, inline_count: 0} =
             stats

    assert stats.latency_us.p50 > 0 and stats.latency_us.p50 <= stats.latency_us.p99
    assert stats.prediction_error.p50 >= 0
    line = %{direction: :request, way: :zero_copy, type: :binary, size: 65_536}
    assert Model.line(handle.performance, line).samples == 400 + 31
    assert {:error, %Error{reason: :unknown_pool}} = Controller.get_statistics(:no_such_pool)
  end

  test "exploration tries the second best where that costs little, and nowhere else" do
    {pool, _} = pool()
    :ok = Controller.update_policy(pool, exploration_rate: 1.0, goal: :minimize_latency)
    # Near the crossover, and far from it.
    assert {_, %{explored?: true}} = Controller.decide_transfer_method(bytes(30_000), pool: pool)
    assert {:zero_copy, %{explored?: false}} = Controller.decide_transfer_method(bytes(16 * @mib), pool: pool)
  end

  test "fresh memory is made at once where it is the cheapest even so" do
    # What is cold costs as little as what is warm here, which nobody assumes.
    cold = fn handle ->
      for n <- 1..40, size = 2 ** (16 + rem(n, 8)) do
        :ok =
          Model.calibrate(
            handle.performance,
            %{direction: :request, way: :zero_copy, type: :binary, size: size, warm: false},
            37_000.0 + 0.1 * size,
            20_000
          )
      end

      :ok = Model.compile(handle.performance)
    end

    {pool, handle} = pool()
    observe = fn pool -> Snakepit.observe("length", %{x: bytes(4 * @mib)}, pool: pool) end
    # The arena's maintenance may make a spare chunk between the two.
    after_drop = fn ->
      :ok = Snakepit.Pool.Arena.drop_idle(handle)
      {{:ok, _}, seen} = observe.(pool)
      {seen.request_way, seen.fallback, seen.cold}
    end

    assert eventually(fn -> after_drop.() == {:inline, true, false} end)
    cold.(handle)
    assert eventually(fn -> after_drop.() == {:zero_copy, false, true} end)

    # No room for it: as before.
    small = pool!(performance_policy: @latency, memory_quota: "4MB", chunk_size: "1MB")
    {:ok, handle} = Handle.fetch(small)
    world(handle)
    cold.(handle)
    assert {{:ok, _}, %{request_way: :inline, fallback: true, cold: false}} = observe.(small)
  end

  test "how likely a choice was is reported with it, and kept with the call" do
    {pool, _} = pool()
    # Learning would move the crossover, by what this machine takes.
    :ok = Controller.update_policy(pool, exploration_rate: 0.25, goal: :minimize_latency)

    seen =
      for _ <- 1..200, uniq: true do
        {_, meta} = Controller.decide_transfer_method(bytes(30_000), pool: pool)
        {meta.explored?, Float.round(meta.propensity, 3)}
      end

    assert Enum.sort(seen) == [{false, 0.75}, {true, 0.25}]
    {_, far} = Controller.decide_transfer_method(bytes(16 * @mib), pool: pool)
    assert far.propensity == 1.0

    for _ <- 1..50, do: way(pool, 30_000)
    :ok = Snakepit.Performance.Model.Learning.learn_now(pool)

    kept =
      for {{_, ^pool, _}, %{explored?: explored?, propensity: p, metrics: %{data_size: 30_000}}} <-
            :ets.tab2list(:performance_metrics),
          do: {explored?, Float.round(p, 3)}

    assert length(kept) == 50
    assert Enum.all?(kept, &(&1 in [{false, 0.75}, {true, 0.25}]))
  end

  test "costs and benefits, in the specification's words" do
    {pool, handle} = pool()
    data = %{pool: pool, data_size: @mib, data_type: :tensor}
    state = %{system_load: 0.4, available_memory: 8, cpu_pressure: false, memory_pressure: false}
    assert {:ok, analysis} = CostBenefitAnalyzer.analyze(data, state)

    assert %{recommendation: :zero_copy, confidence: confidence, rationale: rationale, methods: methods} =
             analysis

    assert confidence > 0.9
    assert rationale =~ "zero_copy: costs least" and rationale =~ "times as long"

    assert %{data_size: @mib, system_load: 0.4, available_memory: 8, historical_performance: _} =
             analysis.factors

    for key <- [:setup_overhead_us, :cleanup_overhead_us], do: assert(is_float(methods.zero_copy[key]))

    for {_, m} <- methods,
        key <- [:estimated_latency_us, :estimated_memory, :estimated_cpu_us, :total_cost],
        do: assert(m[key] >= 0)

    assert methods.grpc.estimated_memory == 3 * @mib
    assert methods.grpc.samples == 0
    assert {:ok, m} = CostBenefitAnalyzer.estimate_performance(:inline, data)
    assert m == methods.inline

    # Under a load that is not the machine's: shared memory shall burn a second of CPU here.
    Model.calibrate_cpu(handle.performance, %{direction: :request, way: :zero_copy, size: @mib}, 1.0e9)
    Model.calibrate_cpu(handle.performance, %{direction: :request, way: :inline, size: @mib}, 1.0e3)
    Model.compile(handle.performance)
    calm = %{cpu_pressure: false, memory_pressure: false}
    assert {:ok, %{recommendation: :zero_copy}} = CostBenefitAnalyzer.analyze(data, calm)
    assert {:ok, %{recommendation: :inline}} = CostBenefitAnalyzer.analyze(data, %{calm | cpu_pressure: true})

    for bad <- [
          %{},
          %{data_size: -1},
          %{data_size: 5, pool: pool, data_type: :x},
          %{data_size: 5, pool: pool, direction: :x}
        ] do
      assert {:error, %Error{category: :validation}} = CostBenefitAnalyzer.analyze(bad)
    end

    assert {:error, %Error{}} = CostBenefitAnalyzer.estimate_performance(:by_pigeon, data)
  end

  test "explained, as data and as a table" do
    {pool, _} = pool()
    assert {:ok, e} = Snakepit.explain("length", %{x: bytes(@mib)}, pool: pool)
    # Nothing was decided by that.
    assert {:ok, %{decisions: 0}} = Controller.get_statistics(pool)

    assert [%{way: :inline, reason: :cheapest}, %{reason: :tie}, %{way: :zero_copy, reason: :cheapest}] =
             e.request

    assert {size, low, high} = e.crossover.request
    assert low <= size and size <= high and size in 20_000..45_000
    assert %{ways: [:zero_copy | _], bytes: @mib} = e.call
    text = to_string(e)
    assert text =~ "It would go by zero_copy" and text =~ "costs least" and text =~ "cheapest from"
    # Nothing was called.
    assert {:ok, %{calls: 0}} = Snakepit.get_stats(pool)

    :ok = Controller.update_policy(pool, zero_copy_threshold_mb: 10)
    assert {:ok, e} = Snakepit.explain("length", %{x: bytes(@mib)}, pool: pool)
    assert [%{best: :zero_copy, way: :inline, factor: factor} | _] = e.bound_cost
    assert factor > 2
    assert to_string(e) =~ "Bounds that were set cost"
    assert {:error, %Error{reason: :not_enabled}} = Snakepit.explain("length", %{x: 1}, pool: pool!())
    assert {:error, %Error{category: :validation}} = Snakepit.explain("length", %{x: self()}, pool: pool)
  end
end
