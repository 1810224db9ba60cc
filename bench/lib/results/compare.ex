defmodule Snakepit.Bench.Compare do
  @moduledoc false
  # A run against an earlier one. Pure. Only what is Snakepit's is better or worse: neither floors nor peers by themselves.

  alias Snakepit.Bench.Result

  @typedoc """
  `ratio` is now over then; `low` and `high` are its interval, as wide as both intervals allow. A figure is better or worse
  when that interval lies on one side of 1 and the ratio is beyond the threshold; figures of which neither is known to be
  good are `:other`.
  """
  @type t :: %{
          name: String.t(),
          unit: String.t(),
          now: number(),
          before: number(),
          ratio: float(),
          low: float(),
          high: float(),
          verdict: :better | :worse | :same | :other
        }

  @rates ["1/s", "calls/s"]
  @costs ["ns", "µs", "ms", "s", "B", "bytes", "%"]

  @doc "Compares the figures that both runs have. `threshold` is a share: 0.1 is a tenth."
  @spec compare([Result.t()], [Result.t()], threshold :: float()) :: [t()]
  def compare(now, before, threshold) do
    before = Map.new(before, &{{&1.name, &1.unit}, &1})

    for %Result{value: value} = new when is_number(value) and value > 0 <- now,
        %Result{value: was} = old when is_number(was) and was > 0 <- [before[{new.name, new.unit}]] do
      {ratio, low, high} = {value / was, over(new.low, old.high), over(new.high, old.low)}

      %{
        name: new.name,
        unit: new.unit,
        now: value,
        before: was,
        ratio: ratio,
        low: low,
        high: high,
        verdict: verdict(good(new), ratio, low, high, threshold)
      }
    end
  end

  defp over(a, b) when b > 0, do: a / b
  defp over(a, _b) when a > 0, do: 1.0e9
  defp over(_a, _b), do: 0.0

  defp good(%Result{name: "floor." <> _}), do: nil
  defp good(%Result{name: "peers.snakepit." <> _}), do: :less
  defp good(%Result{name: "peers." <> _, target: nil}), do: nil
  defp good(%Result{target: {:at_least, _}}), do: :more
  defp good(%Result{target: {:at_most, _}}), do: :less
  defp good(%Result{unit: unit}) when unit in @rates, do: :more
  defp good(%Result{unit: unit}) when unit in @costs, do: :less
  defp good(_unknown), do: nil

  defp verdict(nil, _ratio, _low, _high, _threshold), do: :other

  defp verdict(:more, ratio, low, high, threshold),
    do: verdict(:less, 1 / ratio, inverse(high), inverse(low), threshold)

  defp verdict(:less, ratio, low, _high, threshold) when ratio > 1 + threshold and low > 1, do: :worse
  defp verdict(:less, ratio, _low, high, threshold) when ratio < 1 / (1 + threshold) and high < 1, do: :better
  defp verdict(:less, _ratio, _low, _high, _threshold), do: :same

  defp inverse(x) when x > 0, do: 1 / x
  defp inverse(_zero), do: 1.0e9
end
