defmodule Snakepit.Performance.RolloutManagerTest do
  use Snakepit.Case, async: true
  import ExUnit.CaptureLog
  alias Snakepit.Performance.{Controller, LearningEngine, Model, RolloutManager, ThresholdManager}
  alias Snakepit.Pool.Handle
  alias Snakepit.Telemetry

  # By measurements, shared memory is the way for this size, and inline takes less than twice as long; by the rules it is inline.
  @size 60_000

  defp pool(policy \\ []) do
    pool =
      pool!(
        performance_policy:
          [enabled: true, goal: :minimize_latency, exploration_rate: 0, holdout_rate: 0.01] ++ policy
      )

    {:ok, handle} = Handle.fetch(pool)

    for n <- 1..400, {way, a, b} <- [{:inline, 20_000, 0.3}, {:zero_copy, 26_000, 0.1}] do
      size = 2 ** (10 + rem(n, 16))
      transfer = %{direction: :request, way: way, type: :binary, size: size}
      Model.calibrate(handle.performance, transfer, a + b * size + 10_000.0, 20_000)
    end

    Model.anchor(handle.performance)
    Model.compile(handle.performance)
    pool
  end

  defp model(pool) do
    {:ok, handle} = Handle.fetch(pool)
    handle.performance
  end

  defp decided(pool), do: Controller.decide_transfer_method(nil, pool: pool, data_size: @size)

  defp subscribe(event) do
    test = self()
    id = make_ref()
    :ok = Telemetry.attach(id, [event], fn _, values, meta, _ -> send(test, {id, values, meta}) end, nil)
    on_exit(fn -> Telemetry.detach(id) end)
    id
  end

  # So many calls by a way, which took so many times as long as was predicted for shared memory. `noise` is a share.
  defp calls(pool, count, way, factor, held_out? \\ false) do
    model = model(pool)
    %{ns: %{zero_copy: predicted}} = Model.cell(model, :request, :binary, @size)
    %{ns: %{inline: back}} = Model.cell(model, :reply, :mixed, 20)

    for n <- 1..count do
      ns = round((predicted + back) * factor * (1 + (rem(n, 11) - 5) / 50))

      :ok =
        Model.record(model, {way, :inline, :binary, true, true}, {false, 0.99, nil, held_out?}, ns, @size, 20)
    end

    Model.drain(model, 0, false)
  end

  test "a share of the calls goes by the rules where these choose otherwise, and only there" do
    pool =
      pool!(
        performance_policy: [enabled: true, goal: :minimize_latency, exploration_rate: 0, holdout_rate: 0.01]
      )

    assert Enum.all?(1..2_000, fn _ -> match?({_, %{reason: :rule}}, decided(pool)) end)
    pool = pool()
    seen = Enum.frequencies(for _ <- 1..20_000, do: elem(decided(pool), 1).reason)
    # One in a hundred, give or take.
    assert seen.holdout in 50..500
    assert seen.holdout + seen.cheapest == 20_000

    assert Enum.all?(1..2_000, fn _ ->
             elem(Controller.decide_transfer_method(nil, pool: pool, data_size: 20_000), 1).reason in [
               :cheapest,
               :tie
             ]
           end)

    # Where it would take more than twice as long, nobody pays for it.
    assert Enum.all?(1..2_000, fn _ ->
             elem(Controller.decide_transfer_method(nil, pool: pool, data_size: 5_000_000), 1).reason ==
               :cheapest
           end)

    off = pool(learning_enabled: false)
    assert Enum.all?(1..2_000, fn _ -> elem(decided(off), 1).reason == :cheapest end)
  end

  test "what was learned and is worse than the rules is rolled back, said, shown, and resumed by hand" do
    pool = pool()
    events = subscribe([:snakepit, :performance, :rollout])
    calls(pool, 5_000, :zero_copy, 1.0)
    calls(pool, 500, :inline, 1.4, true)
    :ok = RolloutManager.look(pool)
    {:ok, %{holdout: holdout, rollout: %{stage: :adaptive}}} = Controller.get_statistics(pool)
    assert %{learned: 5_000, held_out: 500, worse: false} = holdout
    assert_in_delta holdout.ratio, 1.4, 0.01
    assert {low, high} = holdout.interval
    assert low > 1.2 and high < 1.6

    # Another policy, and it begins anew: now the rules are faster.
    :ok = Controller.update_policy(pool, goal: :minimize_latency, exploration_rate: 0)
    calls(pool, 5_000, :zero_copy, 1.3)
    calls(pool, 500, :inline, 1.0, true)
    log = capture_log(fn -> :ok = RolloutManager.look(pool) end)

    assert log =~
             "pool #{inspect(pool)}: learning: adaptive → rolled_back: calls by the rules take 0.77 times as long"

    assert_receive {^events, %{bar: bar}, %{pool: ^pool, stage: :rolled_back, before: :adaptive, reason: _}}
    assert bar > 1
    assert {:inline, %{reason: :rule}} = decided(pool)
    assert {:ok, 10_485_760} = ThresholdManager.get_threshold(pool, :binary)
    {:ok, %{rollout: %{stage: :rolled_back, reason: reason}}} = Controller.get_statistics(pool)
    assert reason =~ "500 and 5000 calls"

    :ok = LearningEngine.resume(pool)
    assert {_, %{reason: reason}} = decided(pool)
    assert reason in [:cheapest, :holdout]
    assert {:ok, %{rollout: %{stage: :adaptive}}} = Controller.get_statistics(pool)
  end

  test "a pool that observes decides by the rules; one that is confident where measurements are" do
    pool = pool(rollout: :observe)
    assert {:inline, %{reason: :rule}} = decided(pool)
    assert {:ok, %{rollout: %{stage: :observe}}} = Controller.get_statistics(pool)
    pool = pool(rollout: :confident)
    near = fn size -> Controller.decide_transfer_method(nil, pool: pool, data_size: size) end
    assert {:zero_copy, %{reason: :cheapest, confidence: confidence}} = near.(5_000_000)
    assert confidence >= 0.9
    # Near the crossover nobody is certain.
    assert {:inline, %{reason: :rule, confidence: confidence}} = near.(30_500)
    assert confidence < 0.9
  end

  test "a policy that names another stage acts at once", do: acts_at_once(pool())

  defp acts_at_once(pool) do
    assert {_, %{reason: reason}} = decided(pool)
    assert reason in [:cheapest, :holdout]
    :ok = Controller.update_policy(pool, rollout: :observe)
    assert {:inline, %{reason: :rule}} = decided(pool)
    assert {:ok, %{rollout: %{stage: :observe}}} = Controller.get_statistics(pool)
    :ok = Controller.update_policy(pool, rollout: :adaptive, holdout_rate: 0, exploration_rate: 0)
    assert {:zero_copy, %{reason: :cheapest}} = decided(pool)
  end

  test "auto moves by itself once enough calls were predicted well" do
    pool = pool(rollout: :auto)
    assert {:ok, %{rollout: %{stage: :observe}}} = Controller.get_statistics(pool)
    events = subscribe([:snakepit, :performance, :rollout])

    for _ <- 1..6 do
      calls(pool, 1_000, :zero_copy, 1.0)
      :ok = RolloutManager.look(pool)
    end

    stages =
      for _ <- 1..5,
          do:
            (
              assert_receive({^events, _, %{pool: ^pool, stage: stage}})
              stage
            )

    assert stages == [:confident, :confident, :confident, :confident, :adaptive]
    assert {:zero_copy, _} = Controller.decide_transfer_method(nil, pool: pool, data_size: 5_000_000)
  end

  @tag :tmp_dir
  test "one call takes everything back, and keeps the transfers for who looks for the reason", %{tmp_dir: dir} do
    pool = pool()
    {:ok, 5} = Snakepit.execute("length", %{x: Snakepit.bytes("12345")}, pool: pool)

    for _ <- 1..3,
        do: {:ok, _} = Snakepit.execute("length", %{x: Snakepit.bytes(:binary.copy("x", 50_000))}, pool: pool)

    :ok = Model.Learning.learn_now(pool)
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 7_000})
    path = Path.join(dir, "transfers.ndjson")
    assert :ok = LearningEngine.roll_back(pool, export: path, clear_models: true)
    assert {:inline, %{reason: :rule}} = decided(pool)
    assert {:ok, 10_485_760} = ThresholdManager.get_threshold(pool, :tensor)

    assert %{samples: 0} =
             Model.line(model(pool), %{direction: :request, way: :zero_copy, type: :binary, size: @size})

    lines = path |> File.read!() |> String.split("\n", trim: true)
    assert length(lines) == 4

    assert Enum.all?(
             lines,
             &(&1 =~
                 ~r/^\{"available_memory":\d+,"compression":false,.*"data_size":\d+,.*"pool":"#{pool}",.*\}$/)
           )

    assert {:error, %Error{reason: :invalid_option, message: message}} =
             LearningEngine.roll_back(pool, export: "/proc/nowhere/x")

    assert message =~ "nothing was rolled back"
    assert {:error, %Error{reason: :invalid_option}} = LearningEngine.roll_back(pool, clear: true)
    assert {:error, %Error{reason: :not_enabled}} = LearningEngine.roll_back(pool!())
    assert {:error, %Error{reason: :unknown_pool}} = LearningEngine.resume(:no_such_pool)
  end

  test "transfers that take longer than they used to are an alarm, and then the usual" do
    pool = pool()
    model = model(pool)
    events = subscribe([:snakepit, :performance, :drift])
    assert {:ok, false} = LearningEngine.detect_drift(pool)

    slower = fn count ->
      for n <- 1..count do
        size = Enum.at([30_000, 60_000, 120_000], rem(n, 3))
        ns = round((20_000 + 0.3 * size + 10_000) * 3 * (1 + (rem(n, 11) - 5) / 50))
        :ok = Model.record(model, {:inline, :inline, :binary, true, true}, nil, ns, size, 20)
      end

      Model.drain(model, 0, true)
      :ok = RolloutManager.look(pool)
    end

    slower.(25)

    assert_receive {^events, %{alarms: 1},
                    %{pool: ^pool, step: :widened, direction: :request, method: :inline, longer?: true}}

    assert {:ok, true} = LearningEngine.detect_drift(pool)
    assert {:ok, %{drift: %{alarms: 1, open?: true}}} = Controller.get_statistics(pool)
    slower.(300)
    assert_receive {^events, _, %{pool: ^pool, step: :accepted, method: :inline}}
    assert {:error, %Error{reason: :not_enabled}} = LearningEngine.detect_drift(pool!())
  end
end
