defmodule Snakepit.Performance.Model.Tuning do
  @moduledoc false
  # A cost model, and the rules it compiles its table by: settings, a policy and thresholds as the library takes them.

  alias Snakepit.{Native, Performance, Transfer}
  alias Snakepit.Performance.{Policy, Settings}
  alias Snakepit.Performance.Model.Thresholds

  # A way that is cheaper by less than this share is no reason to leave the simpler one.
  @tie 0.05
  # What exploring may cost, as a share of the best way's cost.
  @bounded_loss 0.25

  @doc "A cost model that knows nothing yet, of a pool that has these ways."
  @spec cost_model([Transfer.way()], Settings.t(), Policy.t()) :: Native.cost_model()
  def cost_model(transfers, settings, policy) do
    cost_model = Native.cost_model_new()
    :ok = set(cost_model, transfers, settings, policy)
    cost_model
  end

  @doc "Compiles the cost model's table by these; `thresholds`, in bytes by type, for as long as nothing was measured."
  @spec set(Native.cost_model(), [Transfer.way()], Settings.t(), Policy.t(), %{
          Performance.data_type() => pos_integer()
        }) :: :ok
  def set(cost_model, transfers, settings, policy, thresholds \\ %{}) do
    overrides = policy.threshold_overrides

    {minimum, maximum} =
      {Settings.bytes(settings.minimum_threshold_mb), Settings.bytes(settings.maximum_threshold_mb)}

    base = settings |> Settings.base_threshold() |> Thresholds.new() |> Thresholds.bytes(minimum, maximum)
    types = Performance.data_types()

    Native.cost_model_rules(
      cost_model,
      Performance.number(policy.goal),
      Transfer.mask(transfers),
      minimum,
      maximum,
      Enum.map(types, &(overrides[&1] || thresholds[&1] || base)),
      Enum.map(types, &is_map_key(overrides, &1)),
      @tie,
      @bounded_loss,
      if(policy.learning_enabled, do: policy.exploration_rate * 1.0, else: 0.0)
    )
  end
end
