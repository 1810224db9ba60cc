defmodule Snakepit.Stats do
  @moduledoc false
  # Medians, percentiles and bootstrap intervals. Pure; the resampling is seeded, so that the same samples always give
  # the same interval.

  @resamples 1_000

  @spec median([number()]) :: number()
  def median(samples), do: percentile(samples, 50)

  @doc "Nearest rank, but between the two middle ones for an even median."
  @spec percentile([number()], number()) :: number()
  def percentile([_ | _] = samples, p) do
    sorted = samples |> Enum.sort() |> List.to_tuple()
    n = tuple_size(sorted)
    at = p / 100 * (n - 1)
    {low, high} = {elem(sorted, floor(at)), elem(sorted, ceil(at))}
    if low == high, do: low, else: low + (high - low) * (at - floor(at))
  end

  @doc "The 95 % bootstrap interval of the median."
  @spec interval([number()]) :: {number(), number()}
  def interval([one]), do: {one, one}

  def interval(samples) do
    values = List.to_tuple(samples)
    n = tuple_size(values)

    {medians, _} =
      Enum.map_reduce(1..@resamples, :rand.seed_s(:exsss, 20), fn _, seed ->
        {drawn, seed} =
          Enum.map_reduce(1..n, seed, fn _, seed ->
            {i, seed} = :rand.uniform_s(n, seed)
            {elem(values, i - 1), seed}
          end)

        {median(drawn), seed}
      end)

    {percentile(medians, 2.5), percentile(medians, 97.5)}
  end
end
