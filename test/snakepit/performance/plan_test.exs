defmodule Snakepit.Performance.PlanTest do
  # One plan for each call: what runs, what is shown, what is emitted and what is recorded are the same.
  use Snakepit.Case, async: true
  import ExUnit.CaptureLog
  alias Snakepit.{Breaker, Bytes, Native, Performance, Telemetry, Transfer}
  alias Snakepit.Performance.{Controller, MetricsStore, Model}
  alias Snakepit.Performance.Model.{Decision, Learning}
  alias Snakepit.Pool.Handle
  alias Snakepit.Transfer.{Payload, Plan}

  @mib 1024 * 1024
  # Near the crossover of `world/1`, where exploring costs little.
  @near 30_000
  @ways [:zero_copy, :inline, :grpc]
  @decision [:snakepit, :performance, :decision]
  @failed [:snakepit, :performance, :decision_failed]

  # A pool that knows a world in which shared memory is cheapest from 30,000 bytes on, and learns nothing else.
  defp pool(policy \\ [], options \\ []) do
    latency = [enabled: true, exploration_rate: 0, goal: :minimize_latency]
    pool = pool!([performance_policy: Keyword.merge(latency, policy)] ++ options)
    {:ok, handle} = Handle.fetch(pool)
    world(handle.performance, 1)
    {pool, handle}
  end

  defp world(model, slower) do
    for n <- 1..400,
        direction <- [:request, :reply],
        {way, a, b} <- [{:inline, 20_000, 0.3}, {:zero_copy, 26_000, 0.1}] do
      size = 2 ** (10 + rem(n, 16))
      ns = slower * (a + b * size + 10_000)

      Model.calibrate(
        model,
        %{direction: direction, way: way, type: :binary, size: size},
        ns,
        slower * 20_000
      )
    end

    Model.compile(model)
  end

  defp bytes(size), do: %Bytes{data: :binary.copy(<<7>>, size)}
  defp payload(size), do: %Payload{bytes: size, fresh: size, type: :binary, count: 1, envelope: 40}

  defp warm(pool, size),
    do: {:ok, _} = Snakepit.execute("length", %{x: bytes(size)}, pool: pool, transfer: :zero_copy)

  defp call(pool, size) do
    {{:ok, ^size}, seen} = Snakepit.observe("length", %{x: bytes(size)}, pool: pool)
    seen
  end

  defp listen(event, pool) do
    me = self()
    id = make_ref()

    handler = fn _event, _measurements, metadata, _config ->
      if metadata.pool == pool, do: send(me, {id, metadata})
    end

    :ok = Telemetry.attach(id, event, handler)
    on_exit(fn -> Telemetry.detach(id) end)
    id
  end

  defp decision(id) do
    assert_received {^id, metadata}
    metadata
  end

  test "the call, its explanation, the controller and the event show the same" do
    {pool, _} = pool()
    events = listen(@decision, pool)
    for size <- [8 * 1024, @mib], do: warm(pool, size)

    for {size, way} <- [{8 * 1024, :inline}, {@mib, :zero_copy}] do
      assert {^way, %{reason: :cheapest}} = Controller.decide_transfer_method(bytes(size), pool: pool)
      assert %{method: ^way, planned: ^way, reason: :cheapest} = decision(events)

      assert {:ok, %{call: %{ways: [^way | _], reason: "costs least" <> _}}} =
               Snakepit.explain("length", %{x: bytes(size)}, pool: pool)

      refute_received {^events, _}
      assert call(pool, size).request_way == way
      assert %{method: ^way, planned: ^way, reason: :cheapest} = decision(events)
    end
  end

  test "a custom rule that chose is the reason that is given, whether it changed the order or not" do
    for way <- [:inline, :zero_copy] do
      {pool, _} = pool(custom_rules: [fn _facts -> way end])
      warm(pool, @mib)
      events = listen(@decision, pool)
      assert {^way, %{reason: :custom_rule}} = Controller.decide_transfer_method(bytes(@mib), pool: pool)
      assert %{method: ^way, reason: :custom_rule} = decision(events)

      assert {:ok, %{call: %{ways: [^way | _], reason: reason}}} =
               Snakepit.explain("length", %{x: bytes(@mib)}, pool: pool)

      assert reason =~ "custom rule"
      assert call(pool, @mib).request_way == way
      assert %{method: ^way, reason: :custom_rule} = decision(events)
    end

    # One that names a way that is not allowed chose nothing.
    {pool, _} = pool([custom_rules: [fn _facts -> :grpc end]], transfers: [:zero_copy, :inline])
    assert {:zero_copy, %{reason: :cheapest}} = Controller.decide_transfer_method(bytes(@mib), pool: pool)
  end

  test "the event names the way that was taken" do
    {pool, handle} = pool()
    events = listen(@decision, pool)

    # No memory is at hand.
    :ok = Snakepit.Pool.Arena.drop_idle(handle)
    assert %{request_way: :inline, fallback: true} = call(pool, 4 * @mib)
    assert %{method: :inline, planned: :zero_copy} = decision(events)

    # Shared memory is not to be used.
    :ok = Snakepit.isolate_way(pool, :zero_copy)
    assert %{request_way: :inline, fallback: false} = call(pool, @mib)
    assert %{method: :inline, planned: :inline} = decision(events)
    assert {:ok, %{call: %{ways: [:inline | _]}}} = Snakepit.explain("length", %{x: bytes(@mib)}, pool: pool)
  end

  test "exploration that is overruled is not counted" do
    explore = [exploration_rate: 1.0]

    # By the table alone.
    {pool, _} = pool(explore)
    warm(pool, @near)
    events = listen(@decision, pool)
    call(pool, @near)
    assert %{explored?: true, propensity: 1.0} = decision(events)
    assert {:ok, %{decisions: 1, explored: 1}} = Controller.get_statistics(pool)

    # By a rule.
    {pool, _} = pool(explore ++ [custom_rules: [fn _facts -> :inline end]])
    events = listen(@decision, pool)
    assert call(pool, @near).request_way == :inline
    assert %{explored?: false, propensity: 1.0, reason: :custom_rule} = decision(events)
    assert {:ok, %{decisions: 1, explored: 0}} = Controller.get_statistics(pool)

    # Since one of the two ways is left alone.
    {pool, _} = pool(explore)
    :ok = Snakepit.isolate_way(pool, :zero_copy)
    assert call(pool, @near).request_way == :inline
    assert {:inline, %{explored?: false}} = Controller.decide_transfer_method(bytes(@near), pool: pool)
    assert {:ok, %{decisions: 2, explored: 0}} = Controller.get_statistics(pool)

    # Since the explored way had no memory at hand.
    {pool, handle} = pool(explore)
    first = Model.cell(handle.performance, :request, :binary, @near).order |> hd()
    events = listen(@decision, pool)
    :ok = Snakepit.Pool.Arena.drop_idle(handle)
    seen = call(pool, @near)
    emitted = decision(events)
    assert emitted.explored? == (seen.request_way != first)
    explored = if emitted.explored?, do: 1, else: 0
    assert {:ok, %{decisions: 1, explored: ^explored}} = Controller.get_statistics(pool)
  end

  test "the prediction that is kept with a call is the one its decision used" do
    {pool, handle} = pool()
    warm(pool, @mib)
    {way, meta} = Controller.decide_transfer_method(bytes(@mib), pool: pool)
    call(pool, @mib)
    # What the model says from now on is another matter.
    world(Map.update!(handle.performance, :policy, & &1), 50)
    :ok = Learning.learn_now(pool)
    [metrics | _] = MetricsStore.latest(pool, 1)
    assert metrics.method == way
    usual = meta.predicted_latency_us[way]
    # The reply carried next to nothing.
    assert metrics.predicted_latency_us >= usual and metrics.predicted_latency_us < 2 * usual
  end

  describe "a decision that fails" do
    test "does not fail the call: the next way is taken, counted and emitted" do
      {pool, handle} = pool()
      warm(pool, @mib)
      events = listen(@failed, pool)
      # No model: the library refuses.
      Handle.publish(%{handle | performance: %{handle.performance | ref: make_ref()}})
      assert {:ok, @mib} = Snakepit.execute("length", %{x: bytes(@mib)}, pool: pool)
      assert [@mib] = Snakepit.stream("length", %{x: bytes(@mib)}, pool: pool) |> Enum.to_list()
      Handle.publish(handle)
      assert %{what: :model, why: why} = decision(events)
      assert why =~ "argument error"
      assert {:ok, %{failed_decisions: 2, errors: 0}} = Snakepit.get_stats(pool)
    end

    test "a custom rule that raises is passed over, counted and emitted each time" do
      {pool, _} = pool(custom_rules: [fn _facts -> raise "no idea" end])
      events = listen(@failed, pool)
      warm(pool, @mib)

      capture_log(fn -> for _ <- 1..3, do: assert(call(pool, @mib).request_way == :zero_copy) end)

      for _ <- 1..3, do: assert(%{what: :custom_rule, why: "It raised: no idea"} = decision(events))
      assert {:ok, %{failed_decisions: 3}} = Snakepit.get_stats(pool)
    end
  end

  test "what a worker lacks, and an open breaker, are masks of the plan" do
    {_pool, handle} = pool()
    [{_, lane}] = :ets.tab2list(handle.lanes)
    plan = &Decision.plan(handle, &1, payload(@mib), @ways, @ways, :look)
    assert %Plan{request: [:zero_copy, :inline | _], reply: @ways, wanted: :zero_copy} = whole = plan.(lane)
    refute Plan.diverted?(whole)

    assert %Plan{request: [:inline | _], reply: [:inline, :grpc], wanted: :zero_copy} =
             without = plan.(%{lane | zero_copy: false})

    assert Plan.diverted?(without) and :zero_copy not in without.request
    assert %Plan{request: [:zero_copy, :inline]} = plan.(%{lane | grpc: false})

    for _ <- 1..50, do: Breaker.record(handle.breaker, :zero_copy, :failure)
    assert %Plan{request: [:inline | _] = ways, wanted: :zero_copy, explored?: false} = plan.(lane)
    assert :zero_copy not in ways

    # Nothing else is allowed: the call says why that fails.
    assert %Plan{request: [:zero_copy], reason: :only_way} =
             Decision.plan(handle, lane, payload(@mib), [:zero_copy], @ways, :look)
  end

  test "the library's words are those of Elixir" do
    assert Native.cost_model_types() == Performance.data_types()
    {_pool, %{performance: model} = handle} = pool()

    for goal <- Performance.goals(), type <- Performance.data_types(), direction <- [:request, :reply] do
      goal = %{model | policy: %{model.policy | goal: goal}}
      prices = Model.prices(goal, direction, type, @mib, true, {false, false})
      assert prices |> Map.keys() |> Enum.sort() == Enum.sort(Transfer.ways())
      cell = Model.cell(goal, direction, type, @mib)
      assert is_binary(Plan.words(cell.reason)) and Enum.sort(cell.order) == Enum.sort(Transfer.ways())
    end

    {:ok, _} = Handle.fetch(handle.name)
  end
end
