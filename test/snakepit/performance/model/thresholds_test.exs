defmodule Snakepit.Performance.Model.ThresholdsTest do
  use ExUnit.Case, async: true
  import :proper_types, only: [list: 1, integer: 2]
  import Snakepit.Properties
  alias Snakepit.Performance.GuardedChange
  alias Snakepit.Performance.Model.Thresholds

  @base 10_485_760

  test "base × adjustment × resource factor, between bounds" do
    t = Thresholds.new(@base)
    assert Thresholds.bytes(t, nil, nil) == @base
    assert Thresholds.bytes(%{t | adjustment: 0.5, resource: 4.0}, nil, nil) == 2 * @base
    assert Thresholds.bytes(%{t | adjustment: 0.001}, 1_048_576, nil) == 1_048_576
    assert Thresholds.bytes(%{t | adjustment: 1.0e6}, nil, 1_073_741_824) == 1_073_741_824
    assert Thresholds.resource_factor(true, true) > 1 and Thresholds.resource_factor(false, true) < 1
  end

  test "no step is larger than a factor of two, none is made for noise, and it arrives" do
    holds({integer(1, 1_000_000_000), list(integer(1, 1_000_000_000))}, 300, fn {first, targets} ->
      Enum.reduce_while([first | targets], Thresholds.new(@base), fn target, t ->
        case Thresholds.toward(t, target) do
          :same ->
            ratio = target / Thresholds.bytes(t, nil, nil)
            if ratio < 1.3 and ratio > 0.75, do: {:cont, t}, else: {:halt, false}

          {:changed, next} ->
            step = next.adjustment / t.adjustment
            if step <= 2.0 and step >= 0.5 and step != 1.0, do: {:cont, next}, else: {:halt, false}
        end
      end) != false
    end)

    arrived =
      Enum.reduce(1..40, Thresholds.new(@base), fn _, t ->
        with({:changed, t} <- Thresholds.toward(t, 30_000), do: t, else: (:same -> t))
      end)

    assert Thresholds.bytes(arrived, nil, nil) in 24_000..37_500
    assert Thresholds.toward(arrived, nil) == :same
  end

  test "a change's verdict" do
    change = GuardedChange.new(:knob, 1, 2, reason: "try", at: 0, before: {100.0, 60})
    refute GuardedChange.due?(change, 29_999)
    assert GuardedChange.due?(change, 30_000)
    assert GuardedChange.judge(change, {109.0, 60}).verdict == :kept
    assert GuardedChange.judge(change, {50.0, 60}).verdict == :kept
    assert GuardedChange.judge(change, {111.0, 60}).verdict == :worse
    assert GuardedChange.judge(change, {999.0, 3}).verdict == :unknown
    assert GuardedChange.judge(%{change | before: nil}, {1.0, 60}).verdict == :unknown
    worse = GuardedChange.judge(change, {111.0, 60})
    refute GuardedChange.due?(worse, 99_999)
    assert %{old: 2, new: 1, reason: "slower", verdict: :kept} = GuardedChange.undo(worse, "slower", 5)
  end
end
