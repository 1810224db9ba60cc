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

  describe "slope" do
    test "of a line is exact" do
      points = for x <- 1..100, do: {x, 3 * x + 7}
      {slope, low, high} = Stats.slope(points, 20)
      assert_in_delta slope, 3.0, 1.0e-9
      assert_in_delta low, 3.0, 1.0e-6
      assert_in_delta high, 3.0, 1.0e-6
    end

    test "noise without a trend: about 95 of 100 intervals hold zero, and a trend above the noise is seen" do
      :rand.seed(:exsss, 5)

      holds = fn trend ->
        for _ <- 1..200 do
          points = for x <- 1..400, do: {x, trend * x + :rand.normal()}
          {_, low, high} = Stats.slope(points, 20)
          low <= 0 and 0 <= high
        end
        |> Enum.count(& &1)
      end

      assert holds.(0) in 180..199
      assert holds.(0.01) == 0
    end
  end

  test "the exponent of a power law" do
    for exponent <- [-1.0, 0.0, 0.5, 2.0] do
      points = for n <- [1, 3, 10, 100], do: {n, 7 * :math.pow(n, exponent)}
      assert_in_delta Stats.exponent(points), exponent, 1.0e-9
    end
  end
end
