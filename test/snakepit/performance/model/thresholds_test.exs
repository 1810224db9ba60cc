defmodule Snakepit.Performance.Model.ThresholdsTest do
  use ExUnit.Case, async: true
  alias Snakepit.Performance.Model.Thresholds

  test "the parts multiply to the whole" do
    parts = Thresholds.parts(10_485_760, 40_960, 163_840, :cheapest)
    assert %{bytes: 163_840, base: 10_485_760, resource_factor: 4.0, reason: :cheapest} = parts
    assert_in_delta parts.base * parts.adjustment * parts.resource_factor, 163_840, 0.5
  end

  test "less than a quarter is no move, in either direction" do
    for {old, new} <- [{100, 100}, {100, 125}, {125, 100}], do: refute(Thresholds.moved?(old, new))
    for {old, new} <- [{100, 126}, {126, 100}, {1, 2}], do: assert(Thresholds.moved?(old, new))
  end
end
