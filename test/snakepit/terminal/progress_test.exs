defmodule Snakepit.Terminal.ProgressTest do
  use ExUnit.Case, async: true
  import ExUnit.CaptureIO
  alias Snakepit.Terminal.Progress

  defp bar(fields), do: struct!(%Progress{width: 80, label: "Reading", total: 100}, fields)

  test "the bar fills with the share that is done" do
    assert Progress.line(bar(done: 0), "x") == "Reading " <> String.duplicate("─", 40) <> "   0 %  x"
    half = String.duplicate("━", 20) <> String.duplicate("─", 20)
    assert Progress.line(bar(done: 50), "x") == "Reading #{half}  50 %  x"
    assert Progress.line(bar(done: 100), "x") =~ " 100 %"
    assert Progress.line(bar(done: 300), "x") =~ " 100 %"
    assert Progress.line(bar(total: 0), "x") =~ " 100 %"
  end

  test "it never fills the terminal's last column" do
    for width <- 1..120, done <- [0, 33, 100] do
      line = Progress.line(bar(width: width, done: done), "1 of 2 files, 3.0 MiB")
      assert String.length(line) < width or width == 1
    end
  end

  test "files, of which there may be one" do
    assert Progress.files(0, 1, 0) == "0 of 1 file, 0 B"
    assert Progress.files(1, 1200, 3) == "1 of 1,200 files, 3 B"
  end

  test "colour only where it was asked for" do
    refute Progress.line(bar(done: 50), "") =~ "\e["
    assert Progress.line(bar(done: 50, colour?: true), "") =~ "\e[32m"
  end

  test "without a terminal nothing is written" do
    assert capture_io(fn ->
             %Progress{} |> Progress.begin("Reading", 2) |> Progress.advance(1, "x") |> Progress.clear()
           end) == ""
  end
end
