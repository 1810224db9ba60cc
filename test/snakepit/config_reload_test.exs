defmodule Snakepit.ConfigReloadTest do
  # Not async: the settings are those of all pools.
  use Snakepit.Case, async: false
  alias Snakepit.Config
  alias Snakepit.Performance.{Controller, MetricsStore, ResourceMonitor, Settings, ThresholdManager}
  alias Snakepit.Pool.Handle

  setup do
    before = Application.get_env(:snakepit, :performance_optimization)

    on_exit(fn ->
      Application.put_env(:snakepit, :performance_optimization, before)
      {:ok, _} = Config.reload()
    end)

    %{before: before}
  end

  defp put(context, changes),
    do: Application.put_env(:snakepit, :performance_optimization, Keyword.merge(context.before, changes))

  defp policy(pool) do
    {:ok, handle} = Handle.fetch(pool)
    handle.performance.policy
  end

  test "changes act on running pools, and on those who measure for all", context do
    pool = pool!(performance_policy: [enabled: true])
    assert {:ok, %{changed: [], at_start: []}} = Config.reload()

    put(context,
      exploration_rate: 0.01,
      learning_enabled: false,
      default_zero_copy_threshold_mb: 2,
      maximum_threshold_mb: 1024,
      metrics_retention_hours: 5,
      cpu_pressure_threshold: 0.9
    )

    assert {:ok, %{changed: changed, at_start: []}} = Config.reload()

    assert changed == [
             :cpu_pressure_threshold,
             :default_zero_copy_threshold_mb,
             :exploration_rate,
             :learning_enabled,
             :maximum_threshold_mb,
             :metrics_retention_hours
           ]

    assert %{exploration_rate: 0.01, learning_enabled: false} = policy(pool)
    assert {:ok, 2_097_152} = ThresholdManager.get_threshold(pool, :binary)

    assert {:zero_copy, %{reason: :above_maximum}} =
             Controller.decide_transfer_method(nil, pool: pool, data_size: 2 ** 30)

    assert :sys.get_state(MetricsStore).settings.metrics_retention_hours == 5
    assert :sys.get_state(ResourceMonitor).pressure.cpu_threshold == 0.9
  end

  test "a policy that was set while the pool ran stays; a pool that names its own rate keeps it", context do
    [set, own] =
      for policy <- [[], [exploration_rate: 0.2]], do: pool!(performance_policy: [enabled: true] ++ policy)

    :ok = Controller.update_policy(set, goal: :minimize_memory, exploration_rate: 0.3)
    put(context, exploration_rate: 0.01)
    assert {:ok, _} = Config.reload()
    assert %{goal: :minimize_memory, exploration_rate: 0.3} = policy(set)
    assert %{exploration_rate: 0.2} = policy(own)
  end

  test "settings that a pool reads when it starts are named as such", context do
    put(context, enabled: true, calibrate: true)
    assert {:ok, %{changed: [:calibrate, :enabled], at_start: [:enabled, :calibrate]}} = Config.reload()
    assert Settings.current().enabled
  end

  test "what is wrong is refused by name, and everything stays as it was", context do
    pool = pool!(performance_policy: [enabled: true])
    before = {Settings.current(), policy(pool)}

    for {wrong, words} <- [
          {[exploration_rate: 2], ":exploration_rate"},
          {[minimum_threshold_mb: 5, maximum_threshold_mb: 1], ":minimum_threshold_mb"},
          {[exploration_rat: 0.1], "exploration_rate"}
        ] do
      put(context, wrong)
      assert {:error, %Error{category: :validation, reason: :invalid_config} = error} = Config.reload()
      assert error.message =~ words
      assert {Settings.current(), policy(pool)} == before
      # Pools that start meanwhile go by the settings in force, too.
      other = pool!(performance_policy: [enabled: true])
      assert policy(other) == policy(pool)
    end
  end
end
