defmodule Snakepit.Performance.ThresholdManagerTest do
  use Snakepit.Case, async: false
  import ExUnit.CaptureLog
  alias Snakepit.Performance.{Controller, ThresholdManager}
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

  test "is the size at which the table that was measured changes its mind: every question has one answer" do
    pool = measured_pool()
    {:ok, bytes} = ThresholdManager.get_threshold(pool, :binary)
    assert bytes in 30_000..60_000
    assert chosen(pool, bytes) == :zero_copy and chosen(pool, bytes - 1) == :inline

    assert {:inline, %{threshold: ^bytes}} =
             Controller.decide_transfer_method(nil, pool: pool, data_size: 5_000)

    assert {:ok, %{bytes: ^bytes, reason: :cheapest, base: 10_485_760} = parts} =
             ThresholdManager.get_parts(pool, :binary)

    assert parts.resource_factor == 1.0
    assert_in_delta parts.base * parts.adjustment, bytes, 1

    {:ok, statistics} = Controller.get_statistics(pool)
    assert statistics.current_thresholds == %{zero_copy_min: bytes}
    assert statistics.thresholds.binary == parts
    {:ok, explanation} = Snakepit.explain("length", %{x: Snakepit.bytes(<<0::80_000>>)}, pool: pool)
    assert %{from: ^bytes} = Enum.find(explanation.request, &(&1.way == :zero_copy))
  end

  test "where nothing is measured, scarce resources move it, and what somebody set stays" do
    pool = pool()
    {:ok, handle} = Handle.fetch(pool)
    bytes = fn -> ThresholdManager.get_threshold(pool, :tensor) end
    Model.set_load(handle.performance, true, false)
    assert {:ok, 5_242_880} = bytes.()
    assert chosen(pool, 5_242_880) == :zero_copy and chosen(pool, 5_242_879) == :inline
    Model.set_load(handle.performance, false, true)
    assert {:ok, 41_943_040} = bytes.()
    assert {:ok, %{adjustment: 1.0, resource_factor: 4.0}} = ThresholdManager.get_parts(pool, :tensor)
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 300_000})
    assert {:ok, 300_000} = bytes.()
    assert {:ok, %{resource_factor: 1.0, reason: :override}} = ThresholdManager.get_parts(pool, :tensor)
    Model.set_load(handle.performance, false, false)
    assert {:ok, 300_000} = bytes.()
  end

  test "a pool that measures nothing, or has no shared memory, says what its calls do" do
    assert {:ok, 4_096} = ThresholdManager.get_threshold(pool!(inline_limit: 4_096), :binary)
    without = pool!(performance_policy: [enabled: true], transfers: [:inline])
    assert {:ok, bytes} = ThresholdManager.get_threshold(without, :binary)
    assert bytes == 2 ** 60
    only = pool!(performance_policy: [enabled: true], transfers: [:zero_copy])
    assert {:ok, 1} = ThresholdManager.get_threshold(only, :binary)
  end

  test "what is measured is a change with its reason, once, and one line when it comes to rest" do
    Logger.put_module_level(ThresholdManager, :debug)
    on_exit(fn -> Logger.delete_module_level(ThresholdManager) end)
    pool = measured_pool()
    {:ok, bytes} = ThresholdManager.get_threshold(pool, :binary)
    log = capture_log(fn -> for n <- 1..5, do: ThresholdManager.tune(pool, now() + n) end)

    assert [%{old: 10_485_760, new: ^bytes} = change] =
             for(%{knob: {:threshold, :binary}} = change <- ThresholdManager.changes(pool), do: change)

    assert change.reason =~ "measured" and change.expected =~ "cheaper from"
    lines = for line <- String.split(log, "\n"), line =~ "pool #{inspect(pool)}:", do: line
    assert [line] = lines
    assert line =~ "binary 10485760 → #{bytes}"
  end

  test "a measured threshold that is undone is held, and not found again" do
    pool = measured_pool()
    :ok = ThresholdManager.tune(pool, now())
    {:ok, measured} = ThresholdManager.get_threshold(pool, :binary)
    :ok = ThresholdManager.undo(pool)
    [%{knob: {:threshold, type}, old: before} | _] = ThresholdManager.changes(pool)
    assert {:ok, ^before} = ThresholdManager.get_threshold(pool, type)
    count = length(ThresholdManager.changes(pool))
    for n <- 1..3, do: ThresholdManager.tune(pool, now() + n)
    assert {:ok, ^before} = ThresholdManager.get_threshold(pool, type)
    assert length(ThresholdManager.changes(pool)) == count
    # Until it is reset.
    :ok = ThresholdManager.reset_thresholds(pool)
    assert {:ok, ^measured} = ThresholdManager.get_threshold(pool, type)
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp measured_pool do
    pool = pool()
    calibrated(pool)
    {:ok, handle} = Handle.fetch(pool)
    Model.compile(handle.performance)
    pool
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

  # So many calls with arguments of so many bytes, which took `us` each.
  defp calls(pool, count, size, us) do
    {:ok, handle} = Handle.fetch(pool)
    for n <- 1..count, do: record(handle.performance, size, 1_000 * us + rem(n, 7) * 100)
    Model.drain(handle.performance, 0, false)
  end

  defp record(model, size, ns),
    do: Model.record(model, {:inline, :inline, :binary, true, true}, nil, ns, size, 20)

  test "a change after which calls of its sizes are slower is undone by itself, and a change of all types as one" do
    pool = pool()
    # Calls of other sizes became rarer and slower meanwhile, which is no effect of the change.
    calls(pool, 100, 20_000, 50)
    calls(pool, 1_000, 2_000, 5)
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 5_000})
    assert length(ThresholdManager.changes(pool)) == 5
    change = Enum.find(ThresholdManager.changes(pool), &(&1.knob == {:threshold, :binary}))
    assert change.verdict == :pending
    assert [{100, _, _}] = Map.values(change.before)
    calls(pool, 100, 20_000, 90)
    # Half a minute later.
    :ok = ThresholdManager.tune(pool, now() + 31_000)
    change = Enum.find(ThresholdManager.changes(pool), &(&1.knob == {:threshold, :binary}))
    assert %{verdict: :undone, effect: {ratio, low, _}} = change
    assert ratio > 1.5 and low > 1.1
    assert Enum.all?(ThresholdManager.changes(pool), &(&1.verdict == :undone))
    for type <- [:binary, :tensor], do: assert({:ok, 10_485_760} = ThresholdManager.get_threshold(pool, type))
  end

  test "a change that concerns no calls, or after which they are as fast, is kept" do
    pool = pool()
    calls(pool, 100, 20_000, 50)
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 5_000, data_type: :binary})
    calls(pool, 100, 20_000, 52)
    calls(pool, 100, 2_000, 9_999)
    :ok = ThresholdManager.adjust_threshold(pool, %{bytes: 5_000, data_type: :tensor})
    :ok = ThresholdManager.tune(pool, now() + 31_000)
    assert [%{verdict: :unknown}, %{verdict: :kept}] = ThresholdManager.changes(pool)
    assert {:ok, 5_000} = ThresholdManager.get_threshold(pool, :binary)
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
