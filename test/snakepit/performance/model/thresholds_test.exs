defmodule Snakepit.Performance.Model.ThresholdsTest do
  use ExUnit.Case, async: true
  alias Snakepit.Performance.Model.Thresholds

  # Of a real pool's table: test/snakepit/performance/threshold_manager_test.exs.
  test "less than a quarter is no move, in either direction" do
    for {old, new} <- [{100, 100}, {100, 125}, {125, 100}], do: refute(Thresholds.moved?(old, new))
    for {old, new} <- [{100, 126}, {126, 100}, {1, 2}], do: assert(Thresholds.moved?(old, new))
  end
end
