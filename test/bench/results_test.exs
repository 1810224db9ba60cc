defmodule Snakepit.Bench.ResultsTest do
  use ExUnit.Case, async: true
  alias Snakepit.Bench.{Result, Results}

  @moduletag :tmp_dir
  @run %{
    machine: %{cores: 2, cpu: "some \"CPU\""},
    complete?: false,
    results: [
      Result.new("a", "µs", [1, 2, 4], {:at_most, 3}),
      Result.new("b", "1/s", [1.5], {:at_least, 1}),
      %Result{name: "c", unit: "MB/h", value: -1.0, low: -2, high: 1, target: {:interval_holds, 0}},
      Result.new("d", "", [0]),
      Result.absent("e", "not here")
    ]
  }

  test "what is written is read", %{tmp_dir: dir} do
    path = Path.join(dir, "run.json")
    :ok = Results.write!(path, @run)
    assert File.ls!(dir) == ["run.json"]

    assert {:ok, %{machine: %{"cores" => 2, "cpu" => "some \"CPU\""}, complete?: false, results: results}} =
             Results.read(path)

    assert results == @run.results
  end

  test "what is no run is an error that names the file", %{tmp_dir: dir} do
    path = Path.join(dir, "other.json")

    for text <- [
          "",
          "{}",
          "[1]",
          ~s({"machine":{},"results":[{"name":1}]}),
          ~s({"machine":{},"results":{}}),
          "no"
        ] do
      File.write!(path, text)
      assert {:error, why} = Results.read(path)
      assert why =~ path
    end

    assert {:error, why} = Results.read(Path.join(dir, "none.json"))
    assert why =~ "no such file"
  end
end
