defmodule Snakepit.Demo.ReportTest do
  use ExUnit.Case, async: true
  alias Snakepit.Demo.{Examine, Report}

  defp file(size, ways, fields \\ []) do
    calls = for way <- ways, do: %{way: way, ns: 50_000 + size}
    base = %Examine{shown: "f#{size}", size: size, entropy: 4.5, ratio: 0.25, sampled: size, calls: calls}
    struct!(base, fields)
  end

  defp lines(text), do: text |> IO.iodata_to_binary() |> String.split("\n")

  # Whether there is such a row; the columns' widths are the table's business.
  defp row?(wanted, text), do: wanted in Enum.map(text, &String.replace(&1, ~r/ +/, " "))

  test "one row for each class that has files" do
    examined = [
      file(0, [:inline]),
      file(10, [:inline, :inline]),
      file(5000, [:zero_copy, :inline, :zero_copy])
    ]

    text = lines(Report.classes(examined))
    assert "empty 1 0 B inline 1 50.0 µs –" |> row?(text)
    assert "< 4 KiB 1 10 B inline 2 50.0 µs 0.20" |> row?(text)
    assert "< 64 KiB 1 4.9 KiB zero_copy 2, inline 1 55.0 µs 90.9" |> row?(text)
  end

  test "the ten largest, a sampled ratio marked and explained" do
    examined = for n <- 1..20, do: file(n * 100, [:inline])
    text = lines(Report.largest(examined))
    assert Enum.count(text, &(&1 =~ ~r/^f\d/)) == 10
    assert Enum.find(text, &(&1 =~ ~r/^f/)) =~ ~r/^f2000 +2,000 +4\.500 +0\.250 +inline/
    refute Enum.any?(text, &(&1 =~ "~"))

    sampled = lines(Report.largest([file(2 ** 30, [:zero_copy], sampled: 8 * 2 ** 20)]))
    assert Enum.any?(sampled, &(&1 =~ "~0.250"))
    assert Enum.any?(sampled, &(&1 =~ "~ zlib on a sample of 8.0 MiB"))
  end

  test "every way against the best, and what is missing by name" do
    times = %{zero_copy: [100_000, 300_000], inline: [400_000]}

    text =
      Report.ways([{"< 1 MiB", 2, times}], [:zero_copy, :inline], [{:grpc, "no grpcio"}])
      |> IO.iodata_to_binary()

    assert text =~ ~r/< 1 MiB +2 +200 µs +×1\.0 +400 µs +×2\.0/
    assert text =~ "grpc is not available: no grpcio"
    assert Report.ways([{"empty", 1, %{}}], [:inline], []) |> IO.iodata_to_binary() =~ ~r/empty +1 +–/
  end

  test "no line is wider than 100 columns, however large the numbers" do
    ways = [:zero_copy, :inline, :grpc]
    calls = for way <- ways, n <- 1..1000, do: %{way: way, ns: 12_345_678_901 + n}

    huge =
      file(2 ** 41, ways, calls: calls, shown: String.duplicate("d/", 300), sampled: 2 ** 23, ratio: 10.001)

    times = Map.new(ways, &{&1, [987_654_321_987]})

    text = [Report.classes([huge]), Report.largest([huge]), Report.ways([{"≥ 16 MiB", 3, times}], ways, [])]
    for line <- lines(text), do: assert(String.length(line) <= 100, line)
  end

  test "the closing line says whether the digests agree" do
    yes = IO.iodata_to_binary(Report.closing([file(10, [:inline, :inline])], 0, 1.5))
    assert yes == "1 file, 10 B, calls inline 2, 1.5 s, all SHA-256 agree: yes\n"
    assert IO.iodata_to_binary(Report.closing([], 2, 0.0)) =~ "all SHA-256 agree: no (2 wrong)"
  end
end
