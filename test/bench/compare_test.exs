defmodule Snakepit.Bench.CompareTest do
  use ExUnit.Case, async: true
  alias Snakepit.Bench.{Compare, Result}

  defp figure(name, unit, value, spread, target \\ nil),
    do: %Result{
      name: name,
      unit: unit,
      value: value,
      low: value - spread,
      high: value + spread,
      target: target
    }

  defp verdict(now, before), do: hd(Compare.compare([now], [before], 0.1)).verdict

  test "worse is beyond the threshold and beyond chance" do
    assert verdict(figure("a", "µs", 130, 5), figure("a", "µs", 100, 5)) == :worse
    assert verdict(figure("a", "µs", 70, 5), figure("a", "µs", 100, 5)) == :better
    # Within the threshold, and within the intervals.
    assert verdict(figure("a", "µs", 108, 1), figure("a", "µs", 100, 1)) == :same
    assert verdict(figure("a", "µs", 130, 40), figure("a", "µs", 100, 5)) == :same
  end

  test "more is better of rates, and of what has to be at least so much" do
    assert verdict(figure("a", "1/s", 70, 1), figure("a", "1/s", 100, 1)) == :worse
    assert verdict(figure("a", "1/s", 130, 1), figure("a", "1/s", 100, 1)) == :better
    target = {:at_least, 1}
    assert verdict(figure("a", "ratio", 2, 0.1, target), figure("a", "ratio", 4, 0.1, target)) == :worse
    target = {:at_most, 10}
    assert verdict(figure("a", "ratio", 4, 0.1, target), figure("a", "ratio", 2, 0.1, target)) == :worse
    assert verdict(figure("a", "ratio", 4, 0.1), figure("a", "ratio", 2, 0.1)) == :other
  end

  test "what is not Snakepit's is neither better nor worse" do
    for name <- ["floor.futex.0B.roundtrip", "peers.port.0B.roundtrip"],
        do: assert(verdict(figure(name, "µs", 200, 1), figure(name, "µs", 100, 1)) == :other)

    name = "peers.snakepit.0B.roundtrip"
    assert verdict(figure(name, "µs", 200, 1), figure(name, "µs", 100, 1)) == :worse
    over = "peers.port.0B.roundtrip.over_snakepit"
    was = figure(over, "ratio", 3, 0.1, {:at_least, 1})
    assert verdict(figure(over, "ratio", 2, 0.1, {:at_least, 1}), was) == :worse
  end

  test "only what both have, in the same unit, and is not nothing" do
    now = [
      figure("a", "ns", 10, 1),
      figure("b", "ns", 10, 1),
      figure("c", "ns", 0, 0),
      Result.absent("d", "why")
    ]

    before = [
      figure("a", "µs", 10, 1),
      figure("b", "ns", 10, 1),
      figure("c", "ns", 5, 1),
      figure("d", "ns", 5, 1)
    ]

    assert [%{name: "b", ratio: 1.0, verdict: :same}] = Compare.compare(now, before, 0.1)
    # An interval that reaches down to nothing.
    assert [%{verdict: :same}] = Compare.compare([figure("a", "ns", 2, 2)], [figure("a", "ns", 1, 1)], 0.1)
  end
end
