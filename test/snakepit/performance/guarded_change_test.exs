defmodule Snakepit.Performance.GuardedChangeTest do
  use ExUnit.Case, async: true
  import :proper_types, only: [list: 1, integer: 2, non_empty: 1]
  import Snakepit.Properties
  alias Snakepit.Performance.GuardedChange

  # So many calls of these times, in ns, in turn.
  defp calls(kind, n, times) do
    logs = times |> Stream.cycle() |> Enum.take(n) |> Enum.map(&:math.log/1)
    %{kind => {n, Enum.sum(logs), logs |> Enum.map(&(&1 * &1)) |> Enum.sum()}}
  end

  defp change(before), do: GuardedChange.new(:knob, 1, 2, reason: "try", at: 0, before: before)
  defp verdict(before, later), do: GuardedChange.judge(change(before), later).verdict

  test "its verdict is due when its window is over, once" do
    change = change(calls(1, 60, [100]))
    refute GuardedChange.due?(change, 29_999)
    assert GuardedChange.due?(change, 30_000)
    refute change |> GuardedChange.judge(calls(1, 60, [100])) |> GuardedChange.due?(99_999)
  end

  test "calls that take a tenth longer are worse, fewer or as long as before are not" do
    before = calls(1, 60, [99, 101])
    assert verdict(before, calls(1, 60, [108, 110])) == :kept
    assert verdict(before, calls(1, 60, [50])) == :kept
    assert verdict(before, calls(1, 60, [111, 113])) == :worse
    assert verdict(before, calls(1, 49, [999])) == :unknown
    assert verdict(%{}, calls(1, 60, [999])) == :unknown
    assert verdict(before, %{}) == :unknown
  end

  test "what chance explains is not worse" do
    # Medians a fifth apart, of calls that differ a hundredfold.
    wide = [10, 1_000]
    assert verdict(calls(1, 60, wide), calls(1, 60, Enum.map(wide, &(&1 * 1.2)))) == :kept
    assert verdict(calls(1, 60_000, wide), calls(1, 60_000, Enum.map(wide, &(&1 * 1.2)))) == :worse
  end

  test "another mixture of the same calls is no effect" do
    few_large = Map.merge(calls(:small, 900, [10, 11]), calls(:large, 100, [1_000, 1_100]))
    many_large = Map.merge(calls(:small, 100, [10, 11]), calls(:large, 900, [1_000, 1_100]))
    assert %{verdict: :kept, effect: {ratio, low, high}} = GuardedChange.judge(change(few_large), many_large)
    assert_in_delta ratio, 1.0, 1.0e-9
    assert low < 1 and high > 1

    # Kinds that are on one side only say nothing.
    assert verdict(calls(:small, 900, [10]), calls(:large, 900, [1_000])) == :unknown
  end

  test "the effect is how many times as long calls take" do
    slower = Map.merge(calls(:small, 100, [30]), calls(:large, 100, [3_000]))
    before = Map.merge(calls(:small, 100, [10]), calls(:large, 100, [1_000]))
    assert %{effect: {ratio, _low, _high}, verdict: :worse} = GuardedChange.judge(change(before), slower)
    assert_in_delta ratio, 3.0, 1.0e-9
  end

  test "what came since is what is now without what was there before" do
    times = fn -> non_empty(list(integer(1, 1_000_000))) end

    holds({times.(), times.()}, 200, fn {first, later} ->
      before = calls(1, length(first), first)
      both = calls(1, length(first ++ later), first ++ later)
      %{1 => {n, sum, squares}} = GuardedChange.since(both, before)
      %{1 => {m, wanted, wanted_squares}} = calls(1, length(later), later)
      n == m and abs(sum - wanted) < 1.0e-6 and abs(squares - wanted_squares) < 1.0e-6
    end)

    same = calls(1, 3, [5])
    assert GuardedChange.since(same, same) == %{}
    assert GuardedChange.since(same, %{}) == same
  end

  test "its undoing is a change back" do
    worse = GuardedChange.judge(change(calls(1, 60, [100, 101])), calls(1, 60, [200, 201]))
    assert %{old: 2, new: 1, reason: "slower", verdict: :kept, at: 5} = GuardedChange.undo(worse, "slower", 5)
  end
end
