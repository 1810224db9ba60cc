defmodule Snakepit.StatsTest do
  use ExUnit.Case, async: true
  alias Snakepit.Stats

  test "the median is the middle one, or between the middle two" do
    assert Stats.median([7]) == 7
    assert Stats.median([9, 1, 5]) == 5
    assert Stats.median([4, 1, 2, 9]) == 3
  end

  test "percentiles lie between the smallest and the largest" do
    samples = Enum.to_list(1..101)
    assert Stats.percentile(samples, 0) == 1
    assert Stats.percentile(samples, 99) == 100
    assert Stats.percentile(samples, 100) == 101
  end

  test "the interval holds the median, is repeatable, and narrows with more samples" do
    few = for i <- 1..10, do: rem(i * 7, 11)
    many = List.duplicate(few, 40) |> List.flatten()
    {low, high} = Stats.interval(few)
    assert low <= Stats.median(few) and Stats.median(few) <= high
    assert Stats.interval(few) == {low, high}
    {low_many, high_many} = Stats.interval(many)
    assert high_many - low_many < high - low
    assert Stats.interval([3]) == {3, 3}
  end
end
