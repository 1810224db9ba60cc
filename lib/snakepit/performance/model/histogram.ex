defmodule Snakepit.Performance.Model.Histogram do
  @moduledoc false
  # Latencies of some calls, as the library counts them (native/snakepit_core/src/cost_model/histogram.rs): for each bucket
  # that is not empty, the nanoseconds in its middle and how many calls fell into it. There are a few hundred buckets at most,
  # so a row of a table stays below 4 KB. Histograms of several spans of time are added up bucket by bucket, so their
  # percentiles are those of all calls, which averages of percentiles are not.

  @typedoc "Pairs of nanoseconds (48 bits) and calls (32 bits), in the order of the nanoseconds."
  @type t :: binary()

  @spec new([{ns :: non_neg_integer(), calls :: pos_integer()}]) :: t()
  def new(pairs), do: for({ns, calls} <- Enum.sort(pairs), into: <<>>, do: <<ns::48, calls::32>>)

  @doc "Nanoseconds and calls, by bucket."
  @spec pairs(t()) :: [{ns :: non_neg_integer(), calls :: pos_integer()}]
  def pairs(histogram), do: for(<<ns::48, calls::32 <- histogram>>, do: {ns, calls})

  @doc "All calls of these histograms in one."
  @spec merge([t()]) :: t()
  def merge([histogram]), do: histogram

  def merge(histograms) do
    for histogram <- histograms, {ns, calls} <- pairs(histogram), reduce: %{} do
      sums -> Map.update(sums, ns, calls, &(&1 + calls))
    end
    |> Enum.map(fn {ns, calls} -> {ns, min(calls, 0xFFFF_FFFF)} end)
    |> new()
  end

  @doc "For each share (0 to 1), the nanoseconds that this share of the calls does not exceed; `nil` if there are no calls."
  @spec percentiles(t(), [float()]) :: [non_neg_integer() | nil]
  def percentiles(histogram, shares) do
    pairs = pairs(histogram)
    total = pairs |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    for share <- shares, do: at(pairs, max(ceil(total * share), 1))
  end

  defp at([], _rank), do: nil
  defp at([{ns, calls} | _], rank) when calls >= rank, do: ns
  defp at([{_, calls} | rest], rank), do: at(rest, rank - calls)
end
