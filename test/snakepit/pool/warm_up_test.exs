defmodule Snakepit.Pool.WarmUpTest do
  use Snakepit.Case, async: true
  alias Snakepit.Pool.Options

  @moduletag :python
  @moduletag :tmp_dir

  @source """
  import asyncio, os, signal, sys
  import snakepit

  SEEN = []

  @snakepit.tool
  def note(x, y: bytes = b""):
      SEEN.append([str(x), len(y), snakepit.worker().lane])

  @snakepit.tool
  async def later():
      await asyncio.sleep(0)
      SEEN.append("later")

  @snakepit.tool
  def items(n: int):
      for i in range(n):
          SEEN.append(i)
          yield i

  @snakepit.tool
  def seen():
      return SEEN

  @snakepit.tool
  def pid():
      return os.getpid()

  @snakepit.tool
  def fails():
      raise KeyError("cold")

  @snakepit.tool
  def unfit():
      return object()

  @snakepit.tool
  def dies():
      os.kill(os.getpid(), signal.SIGSEGV)

  @snakepit.tool
  def leaves():
      sys.exit(3)

  @snakepit.tool
  def waits():
      import time
      time.sleep(600)
  """

  test "they run on every worker, in order, before its first call, also after a restart", %{tmp_dir: dir} do
    array = Tensor.new([1.0, 2.0], :f64)
    large = Snakepit.bytes(:binary.copy("y", 1_000_000))
    warm_up = [{"note", %{x: array, y: large}}, "later", {:items, %{n: 2}}]
    {:ok, pool} = source_pool(dir, @source, size: 2, warm_up: warm_up)
    expected = [["[1. 2.]", 1_000_000, 0], "later", 0, 1]
    seen = fn session -> Snakepit.execute("seen", %{}, pool: pool, session_id: session, idempotent: true) end
    # One session of each worker.
    for session <- ["a", "b", "c", "d", "e", "f"], do: assert(seen.(session) == {:ok, expected})
    assert {:error, _} = Snakepit.execute("dies", %{}, pool: pool)
    for session <- ["a", "b", "c", "d", "e", "f"], do: assert(seen.(session) == {:ok, expected})
  end

  test "they are nobody's calls", %{tmp_dir: dir} do
    {:ok, pool} = source_pool(dir, @source, warm_up: ["later", {"items", %{n: 3}}])
    {:ok, stats} = Snakepit.get_stats(pool)
    assert %{calls: 0, errors: 0, request_bytes: 0} = stats
    assert stats.breakers.commands == %{}
    assert {:ok, _} = Snakepit.execute("pid", %{}, pool: pool)
    assert {:ok, %{calls: 1}} = Snakepit.get_stats(pool)
  end

  test "in a worker with threads they run once, by the first", %{tmp_dir: dir} do
    {:ok, pool} =
      source_pool(dir, @source, worker_profile: :thread, threads_per_worker: 3, warm_up: [{"note", %{x: 1}}])

    assert Snakepit.execute("seen", %{}, pool: pool) == {:ok, [["1", 0, 0]]}
  end

  test "one that fails fails the start, with the call's own error", %{tmp_dir: dir} do
    start = fn warm_up ->
      assert {:error, %Error{} = error} =
               source_pool(dir, @source, warm_up: ["later", warm_up], startup_timeout: 20_000)

      error
    end

    error = start.("fails")
    assert %{category: :python_error, reason: :warm_up_failed, python_type: "KeyError"} = error
    assert error.message =~ ~r/^pool :test_\d+: "fails" of warm_up: failed: KeyError: 'cold'/
    assert error.python_traceback =~ ~S|raise KeyError("cold")|
    assert error.details.command == "fails"

    error = start.({"items", %{n: "two"}})
    assert %{category: :validation, reason: :warm_up_failed, details: %{path: ~S(args["n"])}} = error

    error = start.("itmes")
    assert error.category == :validation

    assert error.message =~
             ~r/"itmes" of warm_up: failed: pool :test_\d+ has no tool 'itmes'; did you mean items/

    assert start.("unfit").message =~ "object"
    assert start.("leaves").message =~ "SystemExit"
    error = start.("dies")
    assert %{category: :worker, reason: :exited} = error
    assert error.message =~ ~S|killed by signal 11 (SIGSEGV), while it was running "dies" of warm_up:|
  end

  test "they count in the time of the start", %{tmp_dir: dir} do
    assert {:error, %Error{reason: :startup_timeout} = error} =
             source_pool(dir, @source, warm_up: ["waits"], startup_timeout: 5_000)

    assert error.message =~ ~S|it was running "waits" of warm_up:|
  end

  test "what is no call, or cannot be sent, is refused with the options" do
    refused = fn warm_up ->
      assert {:error, %Error{category: :validation, details: %{key: :warm_up}} = error} =
               Options.new(pool_options(name: :x, warm_up: warm_up))

      error.message
    end

    assert refused.("ping") =~ "expected :warm_up to be a list of a command, or {command, map of arguments}"
    assert refused.([{"a", [x: 1]}]) =~ "expected :warm_up"
    assert refused.([nil]) =~ "expected :warm_up"

    assert refused.([{"a", %{}}, {"b", %{x: [1, self()]}}]) =~
             ~r/^pool :x: :warm_up\[1\] \("b"\): args\.x\[1\]: .*cannot be sent/

    assert refused.([{"a", %{x: <<255>>}}]) =~ "wrap it with Snakepit.bytes/1"
    large = Snakepit.bytes(:binary.copy("x", 9 * 1024 * 1024))
    assert refused.([{"a", %{x: large}}]) =~ "at most 8388608 can go"

    assert {:ok, %{warm_up: [{"a", %{}}, {"b", %{x: 1}}]}} =
             Options.new(pool_options(name: :x, warm_up: [:a, {"b", %{x: 1}}]))
  end
end
