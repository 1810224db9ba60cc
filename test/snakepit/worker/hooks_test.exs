defmodule Snakepit.Worker.HooksTest do
  use Snakepit.Case, async: true
  import ExUnit.CaptureLog

  @moduletag :python
  @moduletag :tmp_dir

  # What hooks and tools did is written to a file, which outlives the worker.
  @head """
  import asyncio, os, signal, sys, time
  import snakepit
  from snakepit import on_start, on_stop, tool

  def note(what):
      with open(os.environ["NOTES"], "a") as notes:
          notes.write(what + "\\n")

  @tool
  def ping():
      note("ping")
      return os.getpid()

  """

  defp start(dir, source, options \\ []) do
    notes = Path.join(dir, "notes-#{System.unique_integer([:positive])}")
    File.write!(notes, "")
    {source_pool(dir, @head <> source, [env: %{"NOTES" => notes}] ++ options), notes}
  end

  defp start!(dir, source, options \\ []) do
    {{:ok, pool}, notes} = start(dir, source, options)
    {pool, notes}
  end

  defp notes(path), do: path |> File.read!() |> String.split("\n", trim: true)

  @several """
  note("import")

  @on_start
  def first():
      note("first")

  @on_stop
  def last():
      note("last")

  @on_stop
  async def before():
      note(f"before, the loop is the same: {asyncio.get_running_loop() is LOOPS[0]}")

  LOOPS = []

  @on_start
  async def second():
      await asyncio.sleep(0)
      LOOPS.append(asyncio.get_running_loop())
      note(f"second {snakepit.worker().index} {snakepit.worker().lane}")

  @tool
  async def in_loop():
      return asyncio.get_running_loop() is LOOPS[0]
  """

  test "on_start in order of definition before the first call, on_stop in reverse after the last", %{
    tmp_dir: dir
  } do
    {pool, notes} = start!(dir, @several)
    assert notes(notes) == ["import", "first", "second 0 0"]
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
    assert Snakepit.execute("in_loop", %{}, pool: pool) == {:ok, true}
    :ok = Snakepit.stop_pool(pool)

    assert notes(notes) ==
             ["import", "first", "second 0 0", "ping", "before, the loop is the same: True", "last"]
  end

  test "once in a worker, however many lanes it has", %{tmp_dir: dir} do
    {pool, notes} = start!(dir, @several, worker_profile: :thread, threads_per_worker: 3)
    :ok = Snakepit.stop_pool(pool)

    assert notes(notes) ==
             ["import", "first", "second 0 None", "before, the loop is the same: True", "last"]
  end

  test "a recycled worker ends in order, and its successor begins", %{tmp_dir: dir} do
    source = "on_start(lambda: note('start'))\non_stop(lambda: note('stop'))\n"
    {pool, notes} = start!(dir, source, worker_max_requests: 1)
    {:ok, first} = Snakepit.execute("ping", %{}, pool: pool)
    assert eventually(fn -> Snakepit.execute!("ping", %{}, pool: pool) != first end)
    assert eventually(fn -> "stop" in notes(notes) end)
    assert ["start", "ping" | _] = notes(notes)
    assert Enum.count(notes(notes), &(&1 == "start")) >= 2
  end

  test "a worker that leaves when its pool shrinks ends in order", %{tmp_dir: dir} do
    source =
      "on_start(lambda: note(f'start {snakepit.worker().index}'))\non_stop(lambda: note(f'stop {snakepit.worker().index}'))\n"

    {pool, notes} = start!(dir, source, size: 3)
    {:ok, 1} = Snakepit.resize_pool(pool, 1)
    assert eventually(fn -> length(Snakepit.list_workers(pool)) == 1 end)
    assert Enum.sort(notes(notes)) == ["start 0", "start 1", "start 2", "stop 1", "stop 2"]
  end

  test "a worker whose on_stop takes its time is listed meanwhile, as leaving or stopping", %{tmp_dir: dir} do
    source = """
    @on_stop
    def slow():
        note("stopping")
        while not os.path.exists(os.environ["NOTES"] + ".go"):
            time.sleep(0.01)
    """

    {pool, notes} = start!(dir, source, size: 2, shutdown_timeout: 60_000)
    {:ok, 1} = Snakepit.resize_pool(pool, 1)
    assert eventually(fn -> "stopping" in notes(notes) end)
    assert [%{index: 0, status: :ready}, %{index: 1, status: status}] = Snakepit.list_workers(pool)
    assert status in [:leaving, :stopping]
    # Nor does its end keep other pools from theirs, or from their start.
    stopping = Task.async(fn -> Snakepit.stop_pool(pool) end)
    assert eventually(fn -> length(Enum.filter(notes(notes), &(&1 == "stopping"))) == 2 end)
    other = pool!()
    assert Snakepit.stop_pool(other) == :ok
    File.write!(notes <> ".go", "")
    assert Task.await(stopping, 60_000) == :ok
  end

  test "a worker that crashes or is killed runs no on_stop; one that is started again runs on_start", %{
    tmp_dir: dir
  } do
    source = "on_start(lambda: note('start'))\non_stop(lambda: note('stop'))\n"
    {pool, notes} = start!(dir, source)
    pid = Snakepit.execute!("ping", %{}, pool: pool)
    {_, 0} = System.cmd("kill", ["-SEGV", "#{pid}"])

    assert eventually(fn ->
             match?({:ok, other} when other != pid, Snakepit.execute("ping", %{}, pool: pool))
           end)

    assert Enum.count(notes(notes), &(&1 == "start")) == 2
    refute "stop" in notes(notes)
  end

  test "one that raises fails the start as a failing import does, and says which", %{tmp_dir: dir} do
    source = """
    on_stop(lambda: note("stop"))

    @on_start
    def load():
        note("load")
        raise ValueError("no model")

    @on_start
    def later():
        note("later")
    """

    assert {{:error, %Error{} = error}, notes} = start(dir, source)
    assert %{category: :python_error, reason: :on_start_failed, python_type: "ValueError"} = error

    assert error.message =~
             ~r/^pool :test_\d+: @snakepit\.on_start source_\d+\.load failed: ValueError: no model$/

    assert error.python_traceback =~ ~S|raise ValueError("no model")|
    assert error.details.hook =~ ~r/^source_\d+\.load$/
    assert notes(notes) == ["load"]

    assert {{:error, %Error{} = error}, _} = start(dir, "@on_start\nasync def load():\n    sys.exit('no')\n")
    assert error.message =~ ".load failed: SystemExit: no"

    assert {{:error, %Error{} = error}, _} =
             start(dir, "@on_start\ndef load():\n    os.kill(os.getpid(), 11)\n")

    assert error.message =~
             ~r/killed by signal 11 \(SIGSEGV\), while it was running @snakepit\.on_start source_\d+\.load/
  end

  test "on_start counts in the time of the start", %{tmp_dir: dir} do
    source = "@on_start\ndef slow():\n    time.sleep(600)\n"

    assert {{:error, %Error{reason: :startup_timeout} = error}, _} =
             start(dir, source, startup_timeout: 5_000)

    assert error.message =~ ~r/it was running @snakepit\.on_start source_\d+\.slow/
  end

  test "what on_stop raises is logged with its place, and the others run", %{tmp_dir: dir} do
    source = """
    on_stop(lambda: note("last"))

    @on_stop
    def leaves():
        sys.exit(3)

    @on_stop
    async def fails():
        raise OSError("it is gone")
    """

    log =
      capture_log(fn ->
        {pool, notes} = start!(dir, source)
        :ok = Snakepit.stop_pool(pool)
        assert notes(notes) == ["last"]
        send(self(), pool)
      end)

    assert_received pool
    assert log =~ ~r/pool :#{pool}: worker #{pool}-0: @snakepit\.on_stop source_\d+\.fails failed: Traceback/
    assert log =~ "OSError: it is gone"
    assert log =~ ~r/on_stop source_\d+\.leaves failed: Traceback/
  end

  test "a call that outlasts its pool's grace is ended, cleans up, and then on_stop runs", %{tmp_dir: dir} do
    source = """
    @tool
    async def waits():
        note("waits")
        try:
            await asyncio.sleep(600)
        finally:
            note("cleaned up")

    @tool
    def sleeps():
        note("waits")
        try:
            time.sleep(600)
        finally:
            note("cleaned up")

    on_stop(lambda: note("stop"))
    """

    for tool <- ["waits", "sleeps"] do
      {pool, notes} = start!(dir, source, shutdown_timeout: 100)
      call = Task.async(fn -> Snakepit.execute(tool, %{}, pool: pool) end)
      assert eventually(fn -> notes(notes) == ["waits"] end)
      :ok = Snakepit.stop_pool(pool)
      assert {:error, %Error{category: :pool, reason: :stopping}} = Task.await(call)
      assert notes(notes) == ["waits", "cleaned up", "stop"]
    end
  end

  test "on_stop has the shutdown time, and no more", %{tmp_dir: dir} do
    # Longer than a worker without such a hook has.
    {pool, notes} = start!(dir, "@on_stop\ndef slow():\n    time.sleep(3)\n    note('done')\n")
    :ok = Snakepit.stop_pool(pool)
    assert notes(notes) == ["done"]

    {pool, notes} =
      start!(dir, "@on_stop\ndef slow():\n    time.sleep(600)\n    note('done')\n", shutdown_timeout: 100)

    pid = Snakepit.execute!("ping", %{}, pool: pool)
    :ok = Snakepit.stop_pool(pool)
    refute alive?(pid)
    assert notes(notes) == ["ping"]
  end

  test "a child that a hook forks is no second worker", %{tmp_dir: dir} do
    source = """
    @on_start
    def forks():
        if os.fork() == 0:
            note("child")

    @on_stop
    def forks_too():
        if os.fork():
            note("parent")

    on_stop(lambda: note("stop"))
    """

    {pool, notes} = start!(dir, source)
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
    :ok = Snakepit.stop_pool(pool)
    assert Enum.sort(notes(notes)) == ["child", "parent", "ping", "stop"]
  end
end
