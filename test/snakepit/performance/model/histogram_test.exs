defmodule Snakepit.Performance.Model.HistogramTest do
  use ExUnit.Case, async: true
  import :proper_types, only: [integer: 2, list: 1]
  import Snakepit.Properties
  alias Snakepit.Performance.Model.Histogram

  test "no calls have no percentile" do
    assert Histogram.percentiles(Histogram.new([]), [0.5, 0.999]) == [nil, nil]
  end

  test "percentiles of merged histograms are those of all calls" do
    holds(list(list(integer(0, 300))), 300, fn parts ->
      values = parts |> Enum.concat() |> Enum.sort()
      merged = parts |> Enum.map(&histogram/1) |> Histogram.merge()

      exact? =
        for share <- [0.01, 0.5, 0.95, 1.0], values != [] do
          rank = max(ceil(length(values) * share), 1)
          Histogram.percentiles(merged, [share]) == [Enum.at(values, rank - 1)]
        end

      Enum.all?(exact?) and Histogram.pairs(merged) == values |> Enum.frequencies() |> Enum.sort()
    end)
  end

  test "counts stop at 32 bits" do
    many = Histogram.new([{7, 0xFFFF_FFFF}])
    assert [{7, 0xFFFF_FFFF}] = Histogram.pairs(Histogram.merge([many, many]))
  end

  defp histogram(values), do: values |> Enum.frequencies() |> Histogram.new()
end
