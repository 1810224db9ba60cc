defmodule Snakepit.AnnotationsTest do
  # What annotations mean, seen from Elixir: values made of what was sent, refusals, and results that differ.
  use Snakepit.Case, async: true
  import ExUnit.CaptureLog

  @moduletag :tmp_dir

  @source """
  from __future__ import annotations
  import dataclasses, enum, pathlib, uuid
  from snakepit import tool

  class Color(enum.Enum):
      RED = "red"

  @dataclasses.dataclass
  class Point:
      x: int
      y: int = 0

  @dataclasses.dataclass
  class Line:
      points: list[Point]
      color: Color

  @tool
  def line(line: Line, at: pathlib.Path, of: bytes = b"") -> list[str]:
      return [type(line.points[0]).__name__, line.color.name, type(at).__name__, type(of).__name__]

  @tool
  def wrong(x: int) -> int:
      return str(x)

  @tool
  def level() -> dict[str, int]:
      class Level(enum.IntEnum):
          LOW = 1
      return {"level": Level.LOW}
  """

  test "arguments are converted as annotations say, and errors name the place", %{tmp_dir: dir} do
    {:ok, pool} = source_pool(dir, @source)
    args = %{line: %{points: [%{x: 1}], color: :red}, at: "/tmp", of: Snakepit.bytes(<<1>>)}

    for way <- Snakepit.Transfer.ways() do
      assert Snakepit.execute("line", args, pool: pool, transfer: way) ==
               {:ok, ["Point", "RED", "PosixPath", "bytes"]}
    end

    for {line, path} <- [
          {%{points: [%{x: 1}, %{x: "1"}], color: "red"}, ~s(["points"][1]["x"])},
          {%{points: [], color: "blue"}, ~s(["color"])},
          {%{points: []}, ""}
        ] do
      assert {:error, %Error{category: :validation} = error} =
               Snakepit.execute("line", %{line: line, at: "/tmp"}, pool: pool)

      assert error.details.path == ~s(args["line"]) <> path
    end

    assert Snakepit.execute("level", %{}, pool: pool) == {:ok, %{"level" => 1}}
  end

  test "a result that does not fit its annotation is logged once per pool, and returned", %{tmp_dir: dir} do
    log =
      capture_log(fn ->
        {:ok, pool} = source_pool(dir, @source, size: 2)
        for n <- 1..20, do: assert(Snakepit.execute("wrong", %{x: n}, pool: pool) == {:ok, to_string(n)})
        send(self(), {:pool, pool})
        words = "tool wrong returned str; its annotation says int"
        manager = GenServer.whereis(Snakepit.Pool.Handle.name(:manager, pool))
        eventually(fn -> :erlang.phash2(words) in :sys.get_state(manager).warned end)
        # Each worker has read all that it was sent by now.
        Snakepit.stop_pool(pool)
      end)

    assert_received {:pool, pool}
    prefix = "pool #{inspect(pool)}: tool wrong returned str; its annotation says int"
    assert length(String.split(log, prefix)) == 2
  end

  test "check_returns: false checks no result", %{tmp_dir: dir} do
    log =
      capture_log(fn ->
        {:ok, pool} = source_pool(dir, @source, check_returns: false)
        assert Snakepit.execute("wrong", %{x: 1}, pool: pool) == {:ok, "1"}
        Snakepit.stop_pool(pool)
        send(self(), {:pool, pool})
      end)

    assert_received {:pool, pool}
    refute log =~ "pool #{inspect(pool)}: tool wrong"
  end

  test "an annotation that no value fits keeps the pool from starting, and the error says what to do", %{
    tmp_dir: dir
  } do
    source =
      "from __future__ import annotations\nimport threading\nfrom typing import TYPE_CHECKING\nfrom snakepit import tool\n" <>
        "if TYPE_CHECKING:\n    from pandas import DataFrame\n"

    assert {:error, error} = source_pool(dir, source <> "@tool\ndef f(df: DataFrame): pass\n")
    assert error.message =~ "tool f: df: 'DataFrame' cannot be checked: the name 'DataFrame' is not defined"

    assert {:error, error} = source_pool(dir, source <> "@tool\ndef f(lock: threading.Event): pass\n")
    assert error.message =~ "nothing that Elixir sends is a threading.Event: annotate it with what is sent"

    unchecked = source <> "@tool(unchecked=['df'])\ndef f(df: DataFrame): return df\n"
    assert {:ok, pool} = source_pool(dir, unchecked)
    assert Snakepit.execute("f", %{df: [1]}, pool: pool) == {:ok, [1]}
  end
end
