defmodule Snakepit.Performance.ThresholdManagerTest do
  use Snakepit.Case, async: false
  import ExUnit.CaptureLog
  alias Snakepit.Performance.{Controller, MetricsStore, ThresholdManager}
  alias Snakepit.Pool.Handle
  alias Snakepit.Performance.Model

  @mib 1024 * 1024

  # Shared memory is cheapest from 30,000 bytes on.
  defp calibrated(pool) do
    {:ok, handle} = Handle.fetch(pool)

    for n <- 1..400, {way, a, b} <- [{:inline, 20_000, 0.3}, {:zero_copy, 26_000, 0.1}] do
      size = 2 ** (10 + rem(n, 16))

      :ok =
        Model.calibrate(
          handle.performance,
          %{direction: :request, way: way, type: :binary, size: size},
          a + b * size + 10_000.0,
          20_000
        )
    end
  end

  defp pool(policy \\ []),
    do: pool!(performance_policy: [enabled: true, goal: :minimize_latency, exploration_rate: 0] ++ policy)

  defp chosen(pool, size) do
    {way, _} = Controller.decide_transfer_method(nil, pool: pool, data_size: size)
    way
  end

  test "starts at the specification's 10 MB, or at the policy's" do
    assert {:ok, 10_485_760} = ThresholdManager.get_threshold(pool(), :tensor)
    assert {:ok, 5_242_880} = ThresholdManager.get_threshold(pool(zero_copy_threshold_mb: 5), :binary)
    assert {:error, %Error{reason: :unknown_pool}} = ThresholdManager.get_threshold(:no_such_pool, :tensor)
    assert {:error, %Error{category: :validation}} = ThresholdManager.get_threshold(pool(), :picture)
  end

  test "goes to the measured crossover by halves, and stays there" do
    pool = pool()
    calibrated(pool)
    now = System.monotonic_time(:millisecond)

    seen =
      for n <- 1..12 do
        :ok = ThresholdManager.tune(pool, now + n)
        {:ok, bytes} = ThresholdManager.get_threshold(pool, :binary)
        bytes
      end

    assert Enum.take(seen, 3) == [5 * @mib, div(5 * @mib, 2), div(5 * @mib, 4)]
    [last | _] = Enum.reverse(seen)
    assert last in 20_000..45_000
    assert Enum.take(seen, -3) |> Enum.uniq() |> length() == 1
    assert [%{knob: {:threshold, _}, reason: reason, expected: expected} | _] = ThresholdManager.changes(pool)
    assert reason =~ "tuned" and expected =~ "cheaper from"
  end

  test "each change begins where the last one ended, whatever becomes scarce meanwhile" do
    pool = pool()
    calibrated(pool)
    seen = scarce_at_every_other(1..12, fn n -> ThresholdManager.tune(pool, now() + n) end)
    assert Enum.take(seen, 2) == [true, false]
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 5_000, data_type: :binary})
    :ok = ThresholdManager.undo(pool)

    changes = pool |> ThresholdManager.changes() |> Enum.reverse() |> Enum.group_by(& &1.knob)
    binary = Map.fetch!(changes, {:threshold, :binary})
    assert length(binary) > 5

    for {_knob, changes} <- changes,
        [one, next] <- changes |> Enum.filter(&(&1.verdict != :undone)) |> Enum.chunk_every(2, 1, :discard),
        do: assert(one.new == next.old)
  end

  defp now, do: System.monotonic_time(:millisecond)

  # The resource factor is 1 or 1/2 as the monitor's atomics have it: here another one for each call of `fun`.
  defp scarce_at_every_other(range, fun) do
    own = :atomics.new(9, signed: true)
    true_one = :persistent_term.get(Snakepit.Performance.ResourceMonitor)
    :persistent_term.put(Snakepit.Performance.ResourceMonitor, own)

    try do
      for n <- range do
        :atomics.put(own, 9, rem(n, 2))
        fun.(n)
        Snakepit.Performance.ResourceMonitor.now().cpu_pressure?
      end
    after
      :persistent_term.put(Snakepit.Performance.ResourceMonitor, true_one)
    end
  end

  test "an idle pool that is tuned says one thing: what it settled at" do
    Logger.put_module_level(ThresholdManager, :debug)
    on_exit(fn -> Logger.delete_module_level(ThresholdManager) end)
    pool = pool()
    calibrated(pool)

    log =
      capture_log(fn ->
        for n <- 1..30, do: ThresholdManager.tune(pool, now() + n)
      end)

    lines = for line <- String.split(log, "\n"), line =~ "pool #{inspect(pool)}:", do: line
    assert [line] = lines
    assert line =~ ~r/binary 10485760 → \d+/
  end

  test "with learning off nothing is tuned" do
    pool = pool(learning_enabled: false)
    calibrated(pool)
    :ok = ThresholdManager.tune(pool)
    assert {:ok, 10_485_760} = ThresholdManager.get_threshold(pool, :binary)
  end

  test "what is set decides at once; it can be undone and reset" do
    pool = pool()
    assert chosen(pool, @mib) == :inline
    assert :ok = ThresholdManager.adjust_threshold(pool, %{bytes: "64KB", reason: "we know better"})
    assert chosen(pool, @mib) == :zero_copy
    assert {:ok, 65_536} = ThresholdManager.get_threshold(pool, :tensor)
    # Another policy does not take it back.
    assert :ok = Controller.update_policy(pool, goal: :minimize_memory, exploration_rate: 0)
    assert chosen(pool, @mib) == :zero_copy
    assert :ok = ThresholdManager.adjust_threshold(pool, %{factor: 100, data_type: :binary})
    assert {:ok, 6_553_600} = ThresholdManager.get_threshold(pool, :binary)
    assert chosen(pool, @mib) == :inline
    assert :ok = ThresholdManager.undo(pool)
    assert {:ok, 65_536} = ThresholdManager.get_threshold(pool, :binary)
    assert chosen(pool, @mib) == :zero_copy
    assert :ok = ThresholdManager.reset_thresholds(pool)
    for type <- [:binary, :tensor], do: assert({:ok, 10_485_760} = ThresholdManager.get_threshold(pool, type))
    assert chosen(pool, @mib) == :inline

    for bad <- [
          %{},
          %{bytes: 0},
          %{bytes: -1},
          %{factor: 0},
          %{bytes: 1, factor: 2},
          %{data_type: :x, bytes: 1},
          :none,
          %{colour: 1}
        ] do
      assert {:error, %Error{category: :validation}} = ThresholdManager.adjust_threshold(pool, bad)
    end

    assert {:error, %Error{reason: :not_enabled}} = ThresholdManager.adjust_threshold(pool!(), %{bytes: 5})
    fresh = pool()
    assert {:error, %Error{message: message}} = ThresholdManager.undo(fresh)
    assert message =~ "no change"
  end

  test "a change after which calls are slower is undone by itself" do
    pool = pool()
    now = System.os_time(:second)

    row = fn at, us ->
      :ets.insert(
        :performance_aggregates,
        {{pool, 1, at}, %{time_bucket: at, count: 100, sum_latency: 100 * us}}
      )
    end

    row.(now - 5, 50)
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 5_000, data_type: :binary})
    assert [%{before: {50.0, 100}, verdict: :pending}] = ThresholdManager.changes(pool)
    # Half a minute later.
    row.(now - 5, 90)
    :ok = ThresholdManager.tune(pool, System.monotonic_time(:millisecond) + 31_000)
    assert [%{after: {90.0, 100}, verdict: :undone}] = ThresholdManager.changes(pool)
    assert {:ok, 10_485_760} = ThresholdManager.get_threshold(pool, :binary)
    assert MetricsStore.series(pool, 1, {now - 10, now}) != []
  end

  test "killed: thresholds stay, and calls never noticed" do
    pool = pool()
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 5_000})
    data = Snakepit.bytes(:binary.copy("x", 20_000))

    caller = Task.async(fn -> for _ <- 1..500, do: Snakepit.execute("length", %{x: data}, pool: pool) end)

    for _ <- 1..3 do
      pid = Process.whereis(ThresholdManager)
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^ref, _, _, _}
      assert {:ok, 5_000} = ThresholdManager.get_threshold(pool, :tensor)
      assert {:zero_copy, %{reason: :override}} = Controller.decide_transfer_method(data, pool: pool)
      assert eventually(fn -> Process.whereis(ThresholdManager) not in [nil, pid] end)
    end

    assert Enum.all?(Task.await(caller, 60_000), &(&1 == {:ok, 20_000}))
  end

  test "the pool's bounds hold for what somebody sets; what they hold fast is no change" do
    pool = pool()
    {:ok, handle} = Handle.fetch(pool)
    settings = %{handle.performance.settings | minimum_threshold_mb: 1, maximum_threshold_mb: 2}
    Handle.publish(%{handle | performance: %{handle.performance | settings: settings}})
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 5_000})
    assert {:ok, 1_048_576} = ThresholdManager.get_threshold(pool, :tensor)
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 50_000_000})
    assert {:ok, 2_097_152} = ThresholdManager.get_threshold(pool, :tensor)
  end

  test "another pool of the same name has no changes yet" do
    name = pool()
    :ok = ThresholdManager.adjust_threshold(name, %{bytes: 5_000})
    assert [_ | _] = ThresholdManager.changes(name)
    {:ok, _} = Snakepit.restart_pool(name)
    assert ThresholdManager.changes(name) == []
    assert {:error, _} = ThresholdManager.undo(name)
  end

  test "a thousand who decide and a few who change: every decision is a whole one" do
    pool = pool()
    calibrated(pool)

    deciders =
      for _ <- 1..1_000 do
        Task.async(fn ->
          for n <- 1..20 do
            {way, meta} = Controller.decide_transfer_method(nil, pool: pool, data_size: n * 50_000)
            {way, meta[:method], Map.has_key?(meta, :fallback)}
          end
        end)
      end

    for n <- 1..20 do
      :ok = Controller.update_policy(pool, zero_copy_threshold_mb: n, exploration_rate: 0)
      :ok = ThresholdManager.adjust_threshold(pool, %{bytes: n * 1_000})
    end

    decisions = deciders |> Task.await_many(60_000) |> List.flatten()
    assert length(decisions) == 20_000

    assert Enum.all?(decisions, fn {way, method, fallback?} ->
             way == method and way in [:inline, :zero_copy] and not fallback?
           end)
  end
end
