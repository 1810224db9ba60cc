defmodule Snakepit.CompanionTest do
  # What all pools share: the companion, and the descriptors and mappings of this VM. So nothing else runs meanwhile.
  use Snakepit.Case, async: false
  alias Snakepit.Bench.Footprint
  alias Snakepit.Companion

  defp companion_os_pid do
    {:os_pid, pid} = Companion |> :sys.get_state() |> Map.fetch!(:port) |> Port.info(:os_pid)
    pid
  end

  # The port program, and the process it guards.
  defp companion_os_pids do
    guard = companion_os_pid()
    {to_string(guard), "/proc/#{guard}/task/#{guard}/children" |> File.read!() |> String.trim()}
  end

  defp os_pid(pool), do: Snakepit.execute!("pid", %{}, pool: pool)

  defp serves_again(pool, old) do
    assert eventually(fn -> match?({:ok, new} when new != old, Snakepit.execute("pid", %{}, pool: pool)) end)
    assert eventually(fn -> not alive?(old) end)
  end

  @tag :tmp_dir
  test "when the companion is killed, its workers die with it, callers are told, and all comes back", %{
    tmp_dir: dir
  } do
    pools = [pool!(), pool!()]
    old = Enum.map(pools, &os_pid/1)
    {task, _go_on} = busy(hd(pools), dir)
    companion = companion_os_pid()
    {_, 0} = System.cmd("kill", ["-9", to_string(companion)])
    assert {:error, %Error{category: :worker} = error} = Task.await(task, 20_000)
    assert error.message =~ "companion"
    for {pool, pid} <- Enum.zip(pools, old), do: serves_again(pool, pid)
    refute companion_os_pid() == companion
    assert pool!() |> os_pid() |> is_integer()
  end

  for which <- [:guard, :server] do
    test "when the companion's #{which} is killed, nothing is left that a tool started" do
      pool = pool!()
      old = os_pid(pool)

      code = """
      import subprocess
      x = [subprocess.Popen(['sleep', '1000'], start_new_session=new).pid for new in (False, True)]
      """

      {:ok, children} = Snakepit.execute("python_value", %{code: code}, pool: pool)
      assert Enum.all?(children, &alive?/1)
      {guard, server} = companion_os_pids()
      {_, 0} = System.cmd("kill", ["-9", if(unquote(which) == :guard, do: guard, else: server)])
      for child <- children, do: assert(eventually(fn -> not alive?(child) end))
      serves_again(pool, old)
    end
  end

  @tag :tmp_dir
  test "callers of a killed companion are not told before its workers are gone", %{tmp_dir: dir} do
    pool = pool!()
    old = os_pid(pool)
    {task, _go_on} = busy(pool, dir)
    {guard, server} = companion_os_pids()

    # The server cannot do its part until it is woken; meanwhile the worker looks at memory that is not to be reused.
    {_, 0} = System.cmd("kill", ["-STOP", server])
    {_, 0} = System.cmd("kill", ["-9", guard])
    assert Task.yield(task, 300) == nil
    assert alive?(old)
    {_, 0} = System.cmd("kill", ["-CONT", server])
    assert {:error, %Error{category: :worker}} = Task.await(task, 20_000)
    refute alive?(old)
    serves_again(pool, old)
  end

  describe "limits" do
    defp python(pool, code), do: Snakepit.execute("python_value", %{code: code}, pool: pool)

    test "hold in the worker" do
      pool = pool!(limits: [open_files: 100, nice: 5, cpus: [0]])

      code = """
      import os, resource
      x = [resource.getrlimit(resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)]
      """

      cpus = MapSet.new([0])
      assert {:ok, [{100, 100}, 5, ^cpus]} = python(pool, code)
    end

    test "of open files: one more is Python's own error" do
      pool = pool!(limits: [open_files: 100])
      assert {:error, %Error{python_type: type}} = python(pool, "x = [open('/dev/null') for _ in range(200)]")
      assert type =~ "OSError"
      assert {:ok, 1} = python(pool, "x = 1")
    end

    test "of memory: who wants more gets an error, and the pool serves on" do
      pool = pool!(limits: [memory: "400MB"])
      much = "x = len(b'x' * (1 << 30))"

      # Refused, or killed where a cgroup does it.
      case python(pool, much) do
        {:error, %Error{python_type: "MemoryError"}} -> :ok
        {:error, %Error{category: :worker, message: message}} -> assert message =~ "(its limit is 400 MiB)"
      end

      assert eventually(fn -> match?({:ok, 50_000_000}, python(pool, "x = len(b'x' * 50_000_000)")) end)
      assert {:ok, 1_073_741_824} = python(pool!(), much)
    end

    test "that cannot be applied fail the start, by name" do
      options = pool_options(name: :too_much, limits: [open_files: 2 ** 31 - 1])
      assert {:error, %Error{message: message}} = Snakepit.start_pool(options)
      assert message =~ "the limit `open_files: 2147483647` cannot be applied: Operation not permitted"
    end

    test "too low for Python fail the start" do
      assert {:error, %Error{}} =
               [name: :too_low, limits: [memory: "1MB"]] |> pool_options() |> Snakepit.start_pool()
    end
  end

  @tag :tmp_dir
  test "when the companion's own process crashes, the same", %{tmp_dir: dir} do
    pools = [pool!(), pool!()]
    old = Enum.map(pools, &os_pid/1)
    {task, _go_on} = busy(hd(pools), dir)
    Companion |> Process.whereis() |> Process.exit(:kill)
    assert {:error, %Error{}} = Task.await(task, 20_000)
    for {pool, pid} <- Enum.zip(pools, old), do: serves_again(pool, pid)
    assert pool!() |> os_pid() |> is_integer()
  end

  defp use_and_stop(uses) do
    pool = pool!(size: 2, chunk_size: "1MB")
    uses.(pool)
    :ok = Snakepit.stop_pool(pool)
  end

  # The first use warms up what stays (a logger, a thread); the others must add nothing to it.
  defp leaves_nothing(uses, times) do
    use_and_stop(uses)
    # Workers are other tests' business: no process has this mark.
    take = fn -> Footprint.take("no process has this") end
    before = eventually(fn -> take.() == take.() && take.() end)
    for _ <- 1..times, do: use_and_stop(uses)
    assert eventually(fn -> Footprint.nothing?(Footprint.growth(before, take.())) end)
  end

  test "nothing is left of a pool that moved much: no descriptor, no mapping" do
    heavy = fn pool ->
      tasks =
        for n <- 1..4 do
          Task.async(fn ->
            data = :binary.copy(<<n>>, 3_000_000)

            for transfer <- [:zero_copy, :inline, :grpc, :auto] do
              {:ok, ^data} =
                Snakepit.execute("fresh", %{x: Snakepit.bytes(data)}, pool: pool, transfer: transfer)

              {:ok, x} = Snakepit.execute("ones", %{n: 2_000_000}, pool: pool, transfer: transfer)
              {:ok, 2_000_000} = Snakepit.execute("total", %{x: x}, pool: pool)
            end

            :ok
          end)
        end

      assert Enum.uniq(Task.await_many(tasks, 60_000)) == [:ok]
    end

    leaves_nothing(heavy, 2)
  end

  test "the memory of a stopped pool goes by itself, whoever still knows the pool" do
    mapped = fn ->
      for line <- "/proc/self/maps" |> File.read!() |> String.split("\n"), line =~ "memfd:snakepit", do: line
    end

    before = eventually(fn -> if (now = mapped.()) == mapped.(), do: {now} end) |> elem(0)

    for _ <- 1..3 do
      pool = pool!(size: 2)
      {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)
      data = :binary.copy("x", 3_000_000)

      for _ <- 1..2,
          do:
            {:ok, ^data} =
              Snakepit.execute("fresh", %{x: Snakepit.bytes(data)}, pool: pool, transfer: :zero_copy)

      :ok = Snakepit.stop_pool(pool)
      # No process is made to collect but this one, which has results; the handle stays in its hands.
      :erlang.garbage_collect()
      assert eventually(fn -> mapped.() -- before == [] end)
      assert handle.name == pool
      assert {:error, %Error{message: message}} = Snakepit.Pool.Arena.share(handle, data)
      assert message =~ "the pool was stopped"
    end
  end

  test "nothing is left of workers that died in the middle of large transfers, or never started" do
    data = :binary.copy("x", 3_000_000)

    mishaps = fn pool ->
      {:ok, _} = Snakepit.execute("fresh", %{x: Snakepit.bytes(data)}, pool: pool, transfer: :zero_copy)
      {:error, _} = Snakepit.execute("die", %{}, pool: pool)
      {:error, _} = Snakepit.execute("wait_for_file", %{path: "/no/such"}, pool: pool, timeout: 20)
      {:ok, _} = Snakepit.execute("fresh", %{x: Snakepit.bytes(data)}, pool: pool, transfer: :zero_copy)
      {:error, _} = Snakepit.start_pool(%{name: :never_starts, size: 2, python_module: "no_such_module"})

      {:error, _} =
        Snakepit.start_pool(%{name: :never_starts, size: 1, python_module: "x", python: "/no/such"})
    end

    leaves_nothing(mishaps, 3)
  end

  test "sockets are removed from the private directory, which is this user's alone" do
    pool = pool!()
    {:ok, _} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, transfer: :grpc)
    dir = Snakepit.Runtime.dir()
    assert Bitwise.band(File.stat!(dir).mode, 0o777) == 0o700
    assert Enum.filter(File.ls!(dir), &String.ends_with?(&1, ".sock")) == []
    Snakepit.stop_pool(pool)
    assert File.ls!(dir) == []
  end
end
