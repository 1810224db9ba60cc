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

  # Student's t, two-sided 95 %, by degrees of freedom; beyond the table the normal distribution is close.
  @t95 %{
    1 => 12.71,
    2 => 4.30,
    3 => 3.18,
    4 => 2.78,
    5 => 2.57,
    6 => 2.45,
    7 => 2.36,
    8 => 2.31,
    9 => 2.26,
    10 => 2.23,
    12 => 2.18,
    14 => 2.14,
    16 => 2.12,
    18 => 2.10,
    20 => 2.09,
    25 => 2.06,
    30 => 2.04
  }

  @doc """
  The slope of `y` over `x` by least squares, with its 95 % interval. The points, in order of `x`, are averaged over
  `blocks` first: neighbours in time are alike, and would count for more than they say.
  """
  @spec slope([{number(), number()}], pos_integer()) :: {slope :: float(), low :: float(), high :: float()}
  def slope(points, blocks) do
    size = max(ceil(length(points) / blocks), 1)
    means = for block <- Enum.chunk_every(points, size), do: {mean(block, 0), mean(block, 1)}
    n = length(means)
    {mx, my} = {mean(means, 0), mean(means, 1)}
    sxx = Enum.sum(for {x, _} <- means, do: (x - mx) * (x - mx))
    slope = Enum.sum(for {x, y} <- means, do: (x - mx) * (y - my)) / sxx
    rest = Enum.sum(for {x, y} <- means, do: :math.pow(y - my - slope * (x - mx), 2))
    half = t95(n - 2) * :math.sqrt(rest / (n - 2) / sxx)
    {slope, slope - half, slope + half}
  end

  @doc "The exponent of y = c · x^exponent, by least squares of the logarithms; all numbers are above 0."
  @spec exponent([{number(), number()}, ...]) :: float()
  def exponent(points) do
    logs = for {x, y} <- points, do: {:math.log(x), :math.log(y)}
    {mx, my} = {mean(logs, 0), mean(logs, 1)}
    sxx = Enum.sum(for {x, _} <- logs, do: (x - mx) * (x - mx))
    Enum.sum(for {x, y} <- logs, do: (x - mx) * (y - my)) / sxx
  end

  defp mean(points, at), do: Enum.sum(for point <- points, do: elem(point, at)) / length(points)

  # The next smaller one of the table, which is on the safe side.
  defp t95(freedom), do: @t95[@t95 |> Map.keys() |> Enum.filter(&(&1 <= freedom)) |> Enum.max()]

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
