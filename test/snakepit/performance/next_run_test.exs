defmodule Snakepit.Performance.NextRunTest do
  # What a pool's next run goes on with. Not async: the settings of all pools that start meanwhile are others.
  use Snakepit.Case, async: false
  import ExUnit.CaptureLog
  alias Snakepit.Performance.{Controller, Model, Policy, ThresholdManager}
  alias Snakepit.Performance.Model.{Learning, Saved}
  alias Snakepit.Pool.Handle

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    before = Application.get_env(:snakepit, :performance_optimization)
    settings = [calibration_dir: dir, keep_models: true]
    put(Keyword.merge(before, settings))
    on_exit(fn -> put(before) end)
    %{name: :"kept_#{System.unique_integer([:positive])}"}
  end

  defp put(settings) do
    Application.put_env(:snakepit, :performance_optimization, settings)
    {:ok, _} = Snakepit.Config.reload()
  end

  defp start(name, policy \\ [exploration_rate: 0]) do
    pool!(name: name, performance_policy: [enabled: true] ++ policy)
    # From here on, whatever it learns is news.
    assert eventually(fn -> match?(%{task: nil, place: {_, _}}, :sys.get_state(Learning).pools[name]) end)
    {:ok, handle} = Handle.fetch(name)
    handle
  end

  # Its end is dealt with, too: what it learned is kept.
  defp stop(name) do
    :ok = Snakepit.stop_pool(name)
    assert eventually(fn -> not is_map_key(:sys.get_state(Learning).pools, name) end)
  end

  # Shared memory is cheapest from some tens of thousands of bytes on.
  defp learn(handle, factor) do
    for n <- 1..400, {way, a, b} <- [{:inline, 20_000, 0.3}, {:zero_copy, 26_000, 0.1}] do
      size = 2 ** (10 + rem(n, 16))
      transfer = %{direction: :request, way: way, type: :binary, size: size}
      Model.calibrate(handle.performance, transfer, factor * (a + b * size) + 10_000.0, 20_000)
    end
  end

  test "thresholds and policy that were set are those of the next run, until another policy is configured", %{
    name: name
  } do
    start(name)
    :ok = ThresholdManager.adjust_threshold(name, %{bytes: 12_345, data_type: :tensor})
    :ok = Controller.update_policy(name, goal: :minimize_memory, exploration_rate: 0)
    stop(name)

    level = Logger.level()
    Logger.configure(level: :info)
    on_exit(fn -> Logger.configure(level: level) end)
    {handle, log} = with_log(fn -> start(name) end)
    assert log =~ "thresholds in bytes, as set in an earlier run: tensor 12345"
    assert log =~ "policy %Snakepit.Performance.Policy{" and log =~ "as set in an earlier run"
    assert handle.performance.policy.goal == :minimize_memory
    assert {:ok, 12_345} = ThresholdManager.get_threshold(name, :tensor)

    assert {:zero_copy, %{reason: :override}} =
             Controller.decide_transfer_method(nil, pool: name, data_type: :tensor, data_size: 12_345)

    assert {:ok, 10_485_760} = ThresholdManager.get_threshold(name, :binary)
    :ok = ThresholdManager.reset_thresholds(name)
    stop(name)

    # Another one is configured by now, and the thresholds were reset.
    handle = start(name, goal: :maximize_throughput, exploration_rate: 0)
    assert handle.performance.policy.goal == :maximize_throughput
    assert {:ok, 10_485_760} = ThresholdManager.get_threshold(name, :tensor)
  end

  test "a policy with a function among its rules ends with its run; one that names a function is kept", %{
    name: name
  } do
    start(name)
    :ok = Controller.update_policy(name, goal: :minimize_memory, custom_rules: [{__MODULE__, :rule}])
    stop(name)
    assert start(name).performance.policy.custom_rules == [{__MODULE__, :rule}]
    :ok = Controller.update_policy(name, goal: :minimize_memory, custom_rules: [fn _ -> :default end])
    stop(name)
    assert start(name).performance.policy == Map.merge(%Policy{}, %{exploration_rate: 0, holdout_rate: 0})
  end

  def rule(_transfer), do: :default

  test "what was learned is there again after a restart of the pool, if probes say that it holds", %{
    name: name
  } do
    handle = start(name)
    {:ok, _} = Model.Calibration.run(handle, budget_ms: 5_000)
    learned = Model.export(handle.performance)
    stop(name)

    events = events()
    again = start(name)
    result = result(events, name)
    # A machine that became busy meanwhile is one where it does not hold.
    assert result in [:restored, :outdated]
    if result == :restored, do: assert(Model.export(again.performance) == learned)
    assert {:ok, ^learned} = Saved.get(Saved.measured(again, again.performance.settings), :lines)
  end

  test "what does not hold any more is forgotten, and what is broken is passed over for the one before", %{
    name: name
  } do
    handle = start(name)
    learn(handle, 1_000)
    place = {dir, _} = Saved.measured(handle, handle.performance.settings)
    stop(name)
    assert {:ok, _} = Saved.get(place, :lines)
    events = events()
    again = start(name)
    assert result(events, name) == :outdated
    assert Model.export(again.performance) == Model.export(Model.blank(again.performance))
    stop(name)

    path = Path.join(dir, "lines")
    File.write!(path <> ".previous", File.read!(path))
    File.write!(path, "broken")
    {_, log} = with_log(fn -> start(name) end)
    assert log =~ "lines is passed over, since it is damaged: the one before it is used"
    assert result(events, name) == :outdated
  end

  defp events do
    test = self()
    id = make_ref()
    event = [:snakepit, :performance, :calibration]

    :ok =
      Snakepit.Telemetry.attach(
        id,
        [event],
        fn _, _, meta, _ -> send(test, {id, meta.pool, meta.result}) end,
        nil
      )

    on_exit(fn -> Snakepit.Telemetry.detach(id) end)
    id
  end

  defp result(id, name) do
    assert_receive {^id, ^name, result}, 10_000
    result
  end
end
