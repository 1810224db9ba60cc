defmodule Snakepit.ToolsTest do
  # What tools are given, and the errors when that does not suit them, through a real pool.
  use Snakepit.Case, async: true

  @source """
  import datetime
  import json
  from typing import Any, TypedDict
  from snakepit import tool


  class Touchy:
      # As flask's `request`: it can be called, and every look at it raises outside of a request.
      def __getattribute__(self, name):
          raise RuntimeError("working outside of request context")

      __call__ = __eq__ = __hash__ = __bool__ = __getattribute__


  request = Touchy()


  class Body(TypedDict):
      body: bytes


  @tool
  def kinds(plain, b: bytes, a: bytearray, v: memoryview, either: bytes | memoryview, parts: list[bytes], t: Body, s: set):
      given = plain, b, a, v, either, parts[0], t["body"], next(iter(s))
      return [type(value).__name__ for value in given] + [bytes(value) for value in given]


  @tool
  def starts(x, y: int = 1):
      return x.startswith(b"a")


  @tool
  def of_bytes(x: bytes | None):
      return x.startswith(b"a") and json.loads(x[1:])


  @tool
  def adds(x):
      x += 1
      return x


  @tool(writable=["x"])
  def adds_freely(x):
      for array in x.values():
          array += 1
      return x


  @tool(writable=["x"])
  def overwrites(x):
      x[:1] = b"!"
      return x


  @tool
  def same(x: Any) -> Any:
      return x


  @tool
  def zone(x: datetime.datetime):
      return [x, x.tzinfo.key]
  """

  setup_all do
    dir = Path.join(System.tmp_dir!(), "snakepit-tools-#{System.unique_integer([:positive])}")
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    {:ok, pool} = source_pool(dir, @source, inline_limit: 16 * 1024)
    %{pool: pool, dir: dir}
  end

  test "the annotation decides the type of bytes, for every size and way", %{pool: pool} do
    for size <- [0, 1, 16 * 1024 - 1, 16 * 1024, 300_000], way <- Snakepit.Transfer.ways() do
      data = :binary.copy("x", size)
      b = Snakepit.bytes(data)
      args = %{plain: b, b: b, a: b, v: b, either: b, parts: [b], t: %{body: b}, s: MapSet.new([b])}
      given = ~w(memoryview bytes bytearray memoryview memoryview bytes bytes bytes)
      assert Snakepit.execute!("kinds", args, pool: pool, transfer: way) == given ++ List.duplicate(data, 8)
    end
  end

  test "large bytes support the operations that small ones do", %{pool: pool} do
    for count <- [1, 20_000] do
      json = "a" <> "[" <> Enum.map_join(1..count, ",", fn _ -> "1" end) <> "]"

      assert Snakepit.execute!("of_bytes", %{x: Snakepit.bytes(json)}, pool: pool) ==
               List.duplicate(1, count)

      error = error("starts", %{x: Snakepit.bytes(json)}, pool)
      assert {error.category, error.reason} == {:python_error, :raised}
      assert error.message =~ "AttributeError: 'memoryview' object has no attribute 'startswith'"
      assert error.message =~ "argument x is given as a memoryview: annotate it with `bytes`"
    end

    assert error("of_bytes", %{x: "text"}, pool).message =~ "got str: send Snakepit.bytes/1 of the binary"
  end

  test "a refused write names the option that gives the tool a private copy", %{pool: pool} do
    for size <- [3, 100_000], way <- Snakepit.Transfer.ways() do
      tensor = Tensor.new(:binary.copy(<<1>>, size), :u8, {size})
      more = Tensor.new(:binary.copy(<<2>>, size), :u8, {size})
      opts = [pool: pool, transfer: way]
      {:error, error} = Snakepit.execute("adds", %{x: tensor}, opts)
      assert error.message =~ "read-only; argument x is read-only: @tool(writable=['x'])"
      assert error.message =~ "ValueError: output array is read-only"
      assert error.python_type == "ValueError"
      assert Snakepit.execute!("adds_freely", %{x: %{a: tensor}}, opts) == %{"a" => more}
      assert tensor.data == :binary.copy(<<1>>, size)

      # What lies in shared memory, as a result does, stays as it is for everybody else.
      kept = Snakepit.execute!("same", %{x: Snakepit.bytes(:binary.copy("a", size))}, opts)

      assert Snakepit.execute!("overwrites", %{x: Snakepit.bytes(kept)}, opts) ==
               "!" <> :binary.copy("a", size - 1)

      assert kept == :binary.copy("a", size)
    end
  end

  test "an unknown parameter in writable keeps the pool from starting, with an error", %{dir: dir} do
    source = "from snakepit import tool\n@tool(writable=['dta'])\ndef f(data): return data\n"
    assert {:error, error} = source_pool(dir, source)
    assert Exception.message(error) =~ "there is no parameter 'dta'; did you mean data"
  end

  test "zone UTC needs no zone data, and an unknown zone names tzdata", %{dir: dir} do
    # Packages of the tests bring zones along.
    python = bare_python(dir)
    {:ok, pool} = source_pool(dir, @source, python: python, env: %{"PYTHONTZPATH" => ""})
    utc = %{~U[2024-07-01 12:00:00.000000Z] | time_zone: "UTC"}
    assert Snakepit.execute!("zone", %{x: utc}, pool: pool) == [utc, "UTC"]
    assert Snakepit.execute!("same", %{x: ~U[2024-07-01 12:00:00.000000Z]}, pool: pool).time_zone == "Etc/UTC"

    moscow = %{utc | time_zone: "Europe/Moscow", zone_abbr: "MSK", utc_offset: 10_800}
    error = error("same", %{x: moscow}, pool)
    assert {error.category, error.details.path} == {:validation, ~s(args["x"])}
    assert error.message =~ ~r/no time zone 'Europe\/Moscow'.*tzdata/
  end

  @grpc """
  raise ImportError("no gRPC here")
  """

  @large """
  from snakepit import tool

  @tool
  def large(n: int) -> bytes:
      return b"x" * n

  @tool
  def items(n: int):
      yield b"x" * n
      yield b"y" * n
  """

  test "a first result takes no way that its worker lacks", %{dir: dir} do
    dir = Path.join(dir, "without_grpc")
    File.mkdir_p!(Path.join(dir, "grpc"))
    File.write!(Path.join(dir, "grpc/__init__.py"), @grpc)
    {:ok, pool} = source_pool(dir, @large, transfers: [:zero_copy, :grpc])
    assert Snakepit.execute!("large", %{n: 3_000_000}, pool: pool) == :binary.copy("x", 3_000_000)
  end

  test "the first large items of a stream come, whatever other ways the pool allows", %{dir: dir} do
    for transfers <- [[:zero_copy, :grpc], [:zero_copy, :inline, :grpc]] do
      {:ok, pool} = source_pool(dir, @large, transfers: transfers)

      assert Enum.to_list(Snakepit.stream("items", %{n: 3_000_000}, pool: pool)) ==
               [:binary.copy("x", 3_000_000), :binary.copy("y", 3_000_000)]
    end
  end

  defp error(command, args, pool) do
    {:error, error} = Snakepit.execute(command, args, pool: pool)
    error
  end
end
