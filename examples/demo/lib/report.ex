defmodule Snakepit.Demo.Report do
  @moduledoc false
  # What was seen, as text of at most @width columns. Pure.

  alias Snakepit.Demo.{Compare, Examine, SizeClass}
  alias Snakepit.Stats
  alias Snakepit.Terminal.{Name, Table, Units}

  @largest 10
  @width 100

  @doc "Files, ways and transfer times by size class."
  @spec classes([Examine.t()]) :: iodata()
  def classes(examined) do
    by_class = Enum.group_by(examined, &SizeClass.of(&1.size))
    rows = for class <- SizeClass.all(), files = by_class[class], do: class_row(class, files)

    [
      "Every file, by size: its first three calls, many files at once, medians. Its bytes are seen for the\n" <>
        "first time. Transfer is a call less its wait for a worker and its tool.\n\n",
      Table.format(
        [
          {"size", :left},
          {"files", :right},
          {"bytes", :right},
          {"calls by way", :left},
          {"transfer", :right},
          {"MB/s", :right}
        ],
        rows
      )
    ]
  end

  defp class_row(class, files) do
    calls = Enum.flat_map(files, & &1.calls)
    rates = for file <- files, call <- file.calls, file.size > 0, do: file.size / max(call.ns, 1) * 1000
    bytes = files |> Enum.map(& &1.size) |> Enum.sum()

    [
      class,
      Units.count(length(files)),
      Units.bytes(bytes),
      ways(calls),
      calls |> Enum.map(& &1.ns) |> Stats.median() |> Units.time(),
      if(rates == [], do: "–", else: Units.digits(Stats.median(rates)))
    ]
  end

  defp ways(calls) do
    calls
    |> Enum.frequencies_by(& &1.way)
    |> Enum.sort_by(fn {_, count} -> -count end)
    |> Enum.map_join(", ", fn {way, count} -> "#{way} #{Units.count(count)}" end)
  end

  @doc "The largest files, one by one."
  @spec largest([Examine.t()]) :: iodata()
  def largest(examined) do
    files = examined |> Enum.sort_by(&{-&1.size, &1.shown}) |> Enum.take(@largest)
    sampled? = Enum.any?(files, &(&1.sampled < &1.size))

    columns = [
      {"name", :left},
      {"bytes", :right},
      {"bits/byte", :right},
      {"zlib", :right},
      {"way", :left},
      {"transfer", :right}
    ]

    [
      title(length(files)),
      Table.format(columns, Table.fit(columns, Enum.map(files, &file_row/1), @width)),
      if(sampled?,
        do: "~ zlib on a sample of #{Units.bytes(sampled(files))}, evenly spread over the file\n",
        else: ""
      )
    ]
  end

  defp title(1), do: "The largest file.\n\n"
  defp title(@largest), do: "The ten largest files.\n\n"
  defp title(_fewer), do: "The largest files.\n\n"

  defp sampled(files),
    do: files |> Enum.filter(&(&1.sampled < &1.size)) |> Enum.map(& &1.sampled) |> Enum.max()

  defp file_row(file) do
    mark = if file.sampled < file.size, do: "~", else: ""

    [
      file.shown,
      Units.count(file.size),
      Units.decimal(file.entropy, 3),
      if(file.ratio, do: mark <> Units.decimal(file.ratio, 3), else: "–"),
      file.calls |> Enum.map(& &1.way) |> Enum.uniq() |> Enum.join(", "),
      file.calls |> Enum.map(& &1.ns) |> Stats.median() |> Units.time()
    ]
  end

  @doc "What the same bytes cost by each way."
  @spec ways([{SizeClass.t(), non_neg_integer(), Compare.times()}], [atom()], [{atom(), String.t()}]) ::
          iodata()
  def ways(measured, ways, missing) do
    columns = Enum.flat_map(ways, &[{to_string(&1), :right}, {"", :right}])

    [
      "The same bytes by each way: a few files of each size, warm, in turn; × is the ratio to the best.\n\n",
      Table.format(
        [{"size", :left}, {"files", :right} | columns],
        for({class, files, times} <- measured, do: [class, Units.count(files) | cells(times, ways)])
      ),
      for({way, why} <- missing, do: "#{way} is not available: #{Name.show(why)}\n")
    ]
  end

  defp cells(times, ways) do
    medians = for way <- ways, do: with([_ | _] = ns <- times[way], do: Stats.median(ns), else: (_ -> nil))
    best = medians |> Enum.reject(&is_nil/1) |> Enum.min(fn -> nil end)

    Enum.flat_map(medians, fn
      nil -> ["–", ""]
      ns -> [Units.time(ns), "×" <> ratio(ns / max(best, 1))]
    end)
  end

  defp ratio(number) when number < 99.95, do: Units.decimal(number, 1)
  defp ratio(number), do: Units.count(round(number))

  @doc "One line that says it all."
  @spec closing([Examine.t()], non_neg_integer(), float()) :: iodata()
  def closing([], 0, seconds), do: "no file could be examined, #{Units.decimal(seconds, 1)} s\n"

  def closing(examined, failed, seconds) do
    bytes = examined |> Enum.map(& &1.size) |> Enum.sum()
    ways = examined |> Enum.flat_map(& &1.calls) |> ways()
    agree = if failed == 0, do: "all SHA-256 agree: yes", else: "all SHA-256 agree: no (#{failed} wrong)"
    files = Units.counted(length(examined), "file")
    ["#{files}, #{Units.bytes(bytes)}, calls #{ways}, #{Units.decimal(seconds, 1)} s, #{agree}\n"]
  end
end
