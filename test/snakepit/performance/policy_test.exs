defmodule Snakepit.Performance.PolicyTest do
  use ExUnit.Case, async: true
  alias Snakepit.Performance.{Policy, Settings}

  @settings %Settings{learning_enabled: true, exploration_rate: 0.05, holdout_rate: 0.01}

  def rule(_facts), do: :inline

  test "the struct has the fields and defaults of the specification" do
    assert %Policy{
             goal: :balanced,
             custom_rules: [],
             threshold_overrides: %{},
             learning_enabled: true,
             exploration_rate: 0.05
           } == %Policy{}
  end

  test "what is not said comes from the settings" do
    assert {:ok, %Policy{} = policy} = Policy.new([], @settings)
    assert policy == %Policy{}
    assert {:ok, %{learning_enabled: false}} = Policy.new(%{learning_enabled: false}, @settings)
    assert {:ok, %{learning_enabled: false}} = Policy.new([], %{@settings | learning_enabled: false})
    assert {:ok, %{exploration_rate: 0}} = Policy.new([exploration_rate: 0], @settings)
    assert {:ok, %{holdout_rate: 0.05}} = Policy.new([holdout_rate: 0.05], @settings)
    assert {:ok, %{rollout: :auto}} = Policy.new([rollout: :auto], @settings)
    assert {:error, :rollout, _} = Policy.new([rollout: :always], @settings)
  end

  test "a threshold for all types, and one for some" do
    assert {:ok, policy} =
             Policy.new([zero_copy_threshold_mb: 5, threshold_overrides: %{tensor: "64KB"}], @settings)

    assert policy.threshold_overrides.binary == 5 * 1024 * 1024
    assert policy.threshold_overrides.tensor == 65_536
  end

  test "rules are functions of one argument" do
    rules = [{__MODULE__, :rule}, &__MODULE__.rule/1]
    assert {:ok, %{custom_rules: ^rules}} = Policy.new([custom_rules: rules], @settings)
  end

  test "what cannot be is refused, and named" do
    for {given, key, word} <- [
          {[goal: :fastest], :goal, "minimize_latency"},
          {[zero_copy_threshold_mb: 0], :zero_copy_threshold_mb, "a number from"},
          {[zero_copy_threshold_mb: -1], :zero_copy_threshold_mb, "-1"},
          {[exploration_rate: 1.5], :exploration_rate, "from 0 to 1"},
          {[threshold_overrides: %{picture: 5}], :threshold_overrides, "picture"},
          {[custom_rules: [&is_map_key/2]], :custom_rules, "one argument"},
          {[custom_rules: [{__MODULE__, :none}]], :custom_rules, "none"},
          {[custom_rules: :none], :custom_rules, "none"},
          {[gaol: :balanced], :gaol, "goal"}
        ] do
      assert {:error, ^key, message} = Policy.new(given, @settings)
      assert message =~ word
    end
  end
end
