defmodule Snakepit.ConfigTest do
  use ExUnit.Case, async: true
  alias Snakepit.{Config, Error}
  alias Snakepit.Performance.Settings

  @pool %{name: :ml, python_module: "tools"}

  defp refused(env) do
    assert {:error, %Error{category: :validation} = error} = Config.validate(env)
    error
  end

  test "an empty configuration is valid" do
    assert {:ok, %Config{pools: [], default_pool: nil, venv: ".snakepit/venv", python: nil}} =
             Config.validate([])

    assert Config.validate(%{}) == Config.validate([])
  end

  test "the first pool is the default, unless another is named" do
    pools = [@pool, [name: :other, python_module: ["a", "b"], size: 1]]

    assert {:ok, %{default_pool: :ml, pools: [%{name: :ml}, %{name: :other, size: 1}]}} =
             Config.validate(pools: pools)

    assert {:ok, %{default_pool: :other}} = Config.validate(pools: pools, default_pool: :other)
  end

  test "an unknown key suggests the nearest" do
    error = refused(pols: [])
    assert error.message == "config :snakepit: unknown option :pols; did you mean :pools?"
    assert error.details.key == :pols

    assert refused(zzzzzz: 1).message =~
             "known are: :pools, :python, :venv, :reload, :requirements, :performance_optimization, :default_pool"
  end

  test "a wrong type names the key" do
    for {key, value} <- [
          python: :python3,
          venv: nil,
          venv: 'venv',
          venv: {:a},
          default_pool: "ml",
          default_pool: true
        ] do
      error = refused([{key, value}])
      assert error.message =~ "config :snakepit: expected #{inspect(key)} to be"
      assert error.details.key == key
    end

    for pools <- [nil, @pool, :ml, [@pool | @pool]],
        do: assert(refused(pools: pools).message =~ "expected :pools to be a list")

    for env <- [nil, "x", [1]], do: assert(refused(env).message =~ "expected a map or a keyword list")
  end

  @tag :"S3-98"
  test "spec/003's configuration is valid as it is, and keys without effect are known" do
    given = [
      enabled: true,
      learning_enabled: true,
      exploration_rate: 0.05,
      default_zero_copy_threshold_mb: 10,
      minimum_threshold_mb: 1,
      maximum_threshold_mb: 1024,
      metrics_retention_hours: 168,
      aggregation_interval_seconds: 60,
      regression_detection_enabled: true,
      regression_threshold_percent: 20,
      model_update_interval_seconds: 3600,
      minimum_training_samples: 1000,
      model_validation_split: 0.2,
      drift_detection_enabled: true,
      memory_pressure_threshold: 0.8,
      cpu_pressure_threshold: 0.8,
      ab_testing_enabled: false,
      ab_test_traffic_split: 0.1
    ]

    assert {:ok, %{performance_optimization: settings}} = Config.validate(performance_optimization: given)
    assert Settings.without_effect(settings) == []
    more = Keyword.merge(given, ab_testing_enabled: true, minimum_training_samples: 10)
    assert {:ok, %{performance_optimization: settings}} = Config.validate(performance_optimization: more)
    assert Settings.without_effect(settings) == [:ab_testing_enabled]

    assert refused(performance_optimization: [minimum_threshold_mb: 5, maximum_threshold_mb: 4]).message =~
             "expected :minimum_threshold_mb to be at most :maximum_threshold_mb (4), got: 5"

    for bad <- [
          [regression_threshold_percent: 0],
          [model_validation_split: 1],
          [minimum_training_samples: 0],
          [ab_test_traffic_split: 1.5],
          [ab_testing_enabled: :yes]
        ] do
      assert refused(performance_optimization: bad).message =~ inspect(bad |> Keyword.keys() |> hd())
    end
  end

  test "the environment may lie in an application's directory, which must be there" do
    assert {:ok, %{venv: {:snakepit, "priv/venv"}}} = Config.validate(venv: {:snakepit, "priv/venv"})
    assert refused(venv: {:no_such_app, "x"}).message =~ ":venv names an application that is not there"
  end

  test "an error in a pool's options names the pool and the key" do
    assert refused(pools: [@pool, %{name: :b, size: 0}]).message ==
             "pool :b: expected :size to be a positive integer, got: 0"

    assert refused(pools: [Map.put(@pool, :pyton, "x")]).message ==
             "pool :ml: unknown option :pyton; did you mean :python?"

    assert refused(pools: [Map.put(@pool, :threads_per_worker, 2)]).message =~
             "pool :ml: :threads_per_worker would be ignored"

    assert refused(pools: [nil]).message =~ "pool without a name"
  end

  test "a pool that is configured twice is an error" do
    assert refused(pools: [@pool, %{@pool | python_module: "b"}]).message == "pool :ml: configured twice"
  end
end
