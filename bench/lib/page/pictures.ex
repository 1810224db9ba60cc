defmodule Snakepit.Bench.Pictures do
  @moduledoc false
  # Which charts a run's figures make. Pure: a chart is made of figures whose names say what they are.

  alias Snakepit.Bench.{Chart, Result}
  alias Snakepit.Terminal.Units

  @units %{"B" => 1, "KiB" => 1024, "MiB" => 1024 * 1024}
  @us {"median, logarithmic", &__MODULE__.microseconds/1}
  @size {"bytes, there and back", &__MODULE__.size/1}

  @doc "Those that there are figures for."
  @spec charts([Result.t()]) :: [Chart.t()]
  def charts(results) do
    [peers(results), over(results), ways(results), regret(results), scale(results)]
    |> List.flatten()
    |> Enum.reject(&(&1.series == []))
  end

  # peers.NAME.SIZE.roundtrip, and floor.NAME.SIZE.roundtrip of the same run
  defp peers(results) do
    floors =
      for {name, points} <- named(results, ~r/^floor\.(\w+)\.(\d+)(B|KiB|MiB)\.roundtrip$/),
          do: {"floor: " <> String.replace(name, "_", " "), points}

    %Chart{
      id: "peers",
      title: "A round trip to Python, by size",
      note: "the same bytes there and back, each result compared; less is better",
      x: @size,
      y: @us,
      series:
        (results |> named(~r/^peers\.(\w+)\.(\d+)(B|KiB|MiB)\.roundtrip$/) |> first("snakepit")) ++ floors,
      floors: Enum.map(floors, &elem(&1, 0))
    }
  end

  defp over(results) do
    %Chart{
      id: "peers-over",
      title: "How many times as long as Snakepit",
      note: "above 1 Snakepit is ahead",
      x: @size,
      y: {"rival over Snakepit", &__MODULE__.times/1},
      lead?: false,
      rule: 1,
      series: named(results, ~r/^peers\.(\w+)\.(\d+)(B|KiB|MiB)\.roundtrip\.over_snakepit$/)
    }
  end

  # regret.request.2^K.WAY
  defp ways(results) do
    series = results |> by_power(~r/^regret\.request\.2\^(\d+)\.(\w+)$/) |> first("zero_copy")

    crossover = Enum.find(results, &(&1.name == "calibrate.crossover.1"))

    %Chart{
      id: "ways",
      title: "What each way takes, by size",
      note: "bytes to Python, beside the tool",
      x: {"bytes of the arguments", &__MODULE__.size/1},
      y: @us,
      series: series,
      bands: if(crossover, do: [{crossover.low, crossover.high, "crossover, 95 %"}], else: [])
    }
  end

  # regret.2^K.WHO.over_fastest
  defp regret(results) do
    series =
      for {who, points} <- by_power(results, ~r/^regret\.2\^(\d+)\.(\w+)\.over_fastest$/),
          do: {String.replace(who, "_", " at "), points}

    %Chart{
      id: "regret",
      title: "What the way that is taken costs, over the fastest",
      note:
        "mean, least and most over directions, types, warm and cold memory; less is better, 1 is the fastest",
      x: {"bytes", &__MODULE__.size/1},
      y: {"times the fastest way", &__MODULE__.times/1},
      rule: 1,
      series: series
    }
  end

  # scale.WHAT.BY.N.FIGURE
  defp scale(results) do
    found =
      for %Result{value: value} = r when is_number(value) <- results,
          [_, by, n, figure] <- [Regex.run(~r/^scale\.(\w+)\.(\d+)\.(\w+)$/, r.name)],
          do: {{by, figure, r.unit}, {String.to_integer(n), r.value, r.low, r.high}}

    for {{by, figure, unit}, points} <- grouped(found), length(points) > 1 do
      %Chart{
        id: "scale-#{by}-#{figure}",
        title: "#{String.replace(figure, "_", " ")} by #{by}",
        x: {by, if(by == "payload", do: &__MODULE__.size/1, else: &Units.count/1)},
        y: {unit, &Units.digits/1},
        series: [{figure, points}]
      }
    end
  end

  defp named(results, pattern) do
    for %Result{value: value} = r when is_number(value) <- results,
        [_, name, n, unit] <- [Regex.run(pattern, r.name)] do
      {name, {String.to_integer(n) * @units[unit], r.value, r.low, r.high}}
    end
    |> grouped()
  end

  # The pattern finds a power of two, and the series.
  defp by_power(results, pattern) do
    for %Result{value: value} = r when is_number(value) <- results,
        [_, power, name] <- [Regex.run(pattern, r.name)] do
      {name, {2 ** String.to_integer(power), r.value, r.low, r.high}}
    end
    |> grouped()
  end

  defp grouped(pairs), do: pairs |> Enum.group_by(&elem(&1, 0), &elem(&1, 1)) |> Enum.sort()

  defp first(series, name) do
    {mine, others} = Enum.split_with(series, &(elem(&1, 0) == name))
    mine ++ others
  end

  @doc false
  def microseconds(us), do: Units.time(us * 1000)
  @doc false
  def size(bytes), do: Units.bytes(bytes)
  @doc false
  def times(ratio), do: "#{Units.digits(ratio)} ×"
end
