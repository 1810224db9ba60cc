defmodule Snakepit.Performance.Model.Thresholds do
  @moduledoc false
  # A threshold in the parts of spec/003: base × adjustment × resource factor. Pure.
  #
  # The base is configured; the adjustment is how far measurements, or somebody, have moved it; the resource factor is what
  # scarce resources do to it now. None of them decides: they describe what the table does.

  # Nearer than this, in either direction, is the same.
  @hysteresis 1.25

  @type parts :: %{
          bytes: pos_integer(),
          base: pos_integer(),
          adjustment: float(),
          resource_factor: float(),
          reason: Snakepit.Transfer.Plan.reason()
        }

  @doc "The parts of a threshold that is `bytes` now, and `at_rest` while nothing is scarce."
  @spec parts(pos_integer(), pos_integer(), pos_integer(), atom()) :: parts()
  def parts(base, at_rest, bytes, reason) do
    %{
      bytes: bytes,
      base: base,
      adjustment: at_rest / base,
      resource_factor: bytes / at_rest,
      reason: reason
    }
  end

  @doc "Whether a threshold has moved by more than noise."
  @spec moved?(pos_integer(), pos_integer()) :: boolean()
  def moved?(old, new), do: new > old * @hysteresis or old > new * @hysteresis
end
