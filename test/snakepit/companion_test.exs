defmodule Snakepit.CompanionTest do
  # What all pools share: the companion, and the descriptors and mappings of this VM. So nothing else runs meanwhile.
  use Snakepit.Case, async: false
  alias Snakepit.Bench.Footprint
  alias Snakepit.Companion

  @moduletag vm: :second

  defp companion_os_pid do
    {:os_pid, pid} = Companion |> :sys.get_state() |> Map.fetch!(:port) |> Port.info(:os_pid)
    pid
  end

  # The port program, and the process it guards.
  defp companion_os_pids do
    watchdog = companion_os_pid()
    {to_string(watchdog), "/proc/#{watchdog}/task/#{watchdog}/children" |> File.read!() |> String.trim()}
  end

  defp python(pool, code), do: Snakepit.execute("python_value", %{code: code}, pool: pool)

  defp os_pid(pool), do: Snakepit.execute!("pid", %{}, pool: pool)

  defp serves_again(pool, old) do
    assert eventually(fn -> match?({:ok, new} when new != old, Snakepit.execute("pid", %{}, pool: pool)) end)
    assert eventually(fn -> not alive?(old) end)
  end

  @tag :tmp_dir
  test "when the companion is killed, its workers die with it, callers get errors, and all comes back", %{
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

  for which <- [:watchdog, :server] do
    test "when the companion's #{which} is killed, nothing is left that a tool started" do
      pool = pool!()
      old = os_pid(pool)

      code = """
      import subprocess
      x = [subprocess.Popen(['sleep', '1000'], start_new_session=new).pid for new in (False, True)]
      """

      {:ok, children} = Snakepit.execute("python_value", %{code: code}, pool: pool)
      assert Enum.all?(children, &alive?/1)
      {watchdog, server} = companion_os_pids()
      {_, 0} = System.cmd("kill", ["-9", if(unquote(which) == :watchdog, do: watchdog, else: server)])
      for child <- children, do: assert(eventually(fn -> not alive?(child) end))
      serves_again(pool, old)
    end
  end

  @tag :tmp_dir
  test "callers of a killed companion get no error before its workers are gone", %{tmp_dir: dir} do
    pool = pool!()
    old = os_pid(pool)
    {task, _go_on} = busy(pool, dir)
    {watchdog, server} = companion_os_pids()

    # The server cannot do its part until it is woken; meanwhile the worker looks at memory that is not to be reused.
    {_, 0} = System.cmd("kill", ["-STOP", server])
    {_, 0} = System.cmd("kill", ["-9", watchdog])
    assert Task.yield(task, 300) == nil
    assert alive?(old)
    {_, 0} = System.cmd("kill", ["-CONT", server])
    assert {:error, %Error{category: :worker}} = Task.await(task, 20_000)
    refute alive?(old)
    serves_again(pool, old)
  end

  describe "a signal that all processes get" do
    @source """
    import os, time
    from multiprocessing import shared_memory
    from snakepit import tool

    def wait(started, go_on):
        open(started, "w").close()
        while not os.path.exists(go_on):
            time.sleep(0.002)

    @tool
    def slow(started, go_on):
        wait(started, go_on)
        return "right"

    @tool
    def items(started, go_on):
        yield 1
        wait(started, go_on)
        yield 2
        yield 3

    @tool
    def pid():
        return os.getpid()

    @tool
    def block():
        return shared_memory.SharedMemory(create=True, size=100_000).name
    """

    # A call and a stream that are in the middle of their tools, and what lets these go on.
    defp under_way(pool, dir) do
      [go_on, called, streamed] = for name <- ["go_on", "called", "streamed"], do: Path.join(dir, name)
      args = &%{started: &1, go_on: go_on}
      call = Task.async(fn -> Snakepit.execute("slow", args.(called), pool: pool) end)
      stream = Task.async(fn -> "items" |> Snakepit.stream(args.(streamed), pool: pool) |> Enum.to_list() end)
      eventually(fn -> File.exists?(called) and File.exists?(streamed) end)
      {call, stream, fn -> File.write!(go_on, "") end}
    end

    defp signalled(name, pids), do: {_, 0} = System.cmd("kill", ["-#{name}" | Enum.map(pids, &to_string/1)])

    for signal <- ~w(TERM HUP INT QUIT USR1 USR2) do
      @tag :tmp_dir
      test "#{signal} to all but the VM: nothing ends, calls and streams go on", %{tmp_dir: dir} do
        {:ok, pool} = source_pool(dir, @source, size: 2)
        workers = for %{os_pid: pid} <- Snakepit.list_workers(pool), do: pid
        {watchdog, server} = companion_os_pids()
        {call, stream, go_on} = under_way(pool, dir)
        signalled(unquote(signal), [watchdog, server | workers])
        go_on.()
        assert Task.await(call, 20_000) == {:ok, "right"}
        assert Task.await(stream, 20_000) == [1, 2, 3]
        assert Snakepit.execute!("pid", %{}, pool: pool) in workers
        assert Enum.sort(workers) == Enum.sort(for %{os_pid: pid} <- Snakepit.list_workers(pool), do: pid)
        assert companion_os_pids() == {watchdog, server}
      end
    end

    @tag :tmp_dir
    test "TERM to a VM and all its descendants: calls and streams finish, then all are gone", %{tmp_dir: dir} do
      vm = vm!(dir, "")
      signalled("TERM", [vm.pid | descendants(vm.pid)])
      # It has begun to stop: no new calls.
      eventually(fn -> File.exists?(Path.join(dir, "refused")) end)
      File.write!(Path.join(dir, "go_on"), "")
      port = vm.port
      assert_receive {^port, {:exit_status, 0}}, 30_000
      assert File.read!(Path.join(dir, "call")) == inspect({:ok, "right"})
      assert File.read!(Path.join(dir, "stream")) == inspect([1, 2, 3])
      for pid <- vm.processes, do: assert(eventually(fn -> not alive?(pid) end))
      assert eventually(fn -> not File.exists?(vm.block) end)
    end

    # Another VM with a call and a stream under way. It writes what they bring to files.
    defp vm!(dir, more) do
      File.write!(Path.join(dir, "another_vm.py"), @source)

      options = %{
        name: :vm,
        size: 3,
        python_module: "another_vm",
        python_path: [dir],
        shutdown_timeout: 20_000
      }

      code = """
      dir = #{inspect(dir)}
      file = &Path.join(dir, &1)
      {:ok, _} = Application.ensure_all_started(:snakepit)
      {:ok, _} = Snakepit.start_pool(#{inspect(options)})
      put = fn name, value ->
        File.write!(file.(name <> ".part"), inspect(value))
        File.rename!(file.(name <> ".part"), file.(name))
      end
      block = "/dev/shm/" <> Snakepit.execute!("block", %{}, pool: :vm)
      args = &%{started: file.(&1), go_on: file.("go_on")}
      spawn(fn -> put.("call", Snakepit.execute("slow", args.("called"), pool: :vm)) end)
      spawn(fn -> put.("stream", "items" |> Snakepit.stream(args.("streamed"), pool: :vm) |> Enum.to_list()) end)
      ask = fn ask ->
        case Snakepit.execute("pid", %{}, pool: :vm) do
          {:ok, _} -> Process.sleep(5) && ask.(ask)
          {:error, error} -> put.("refused", error)
        end
      end
      spawn(fn -> ask.(ask) end)
      #{more}
      workers = for w <- Snakepit.list_workers(:vm), do: w.os_pid
      put.("said", {System.pid(), workers, block})
      """

      args = ["--no-halt", "-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
      elixir = System.find_executable("elixir")
      port = Port.open({:spawn_executable, elixir}, [:binary, :exit_status, :stderr_to_stdout, args: args])
      all = ~w(said called streamed)
      eventually(fn -> Enum.all?(all, &File.exists?(Path.join(dir, &1))) end, 6000)
      {{pid, workers, block}, _} = dir |> Path.join("said") |> File.read!() |> Code.eval_string()
      assert File.exists?(block)

      on_exit(fn ->
        for pid <- [pid | workers], do: System.cmd("kill", ["-9", "#{pid}"], stderr_to_stdout: true)
      end)

      %{port: port, pid: pid, processes: workers ++ descendants(pid), block: block}
    end

    defp descendants(pid) do
      children =
        for file <- Path.wildcard("/proc/#{pid}/task/*/children"),
            {:ok, list} <- [File.read(file)],
            child <- String.split(list),
            do: child

      children ++ Enum.flat_map(children, &descendants/1)
    end
  end

  # Python's resource tracker, a process beside the worker, removes what the worker left there.
  describe "a block of shared memory whose name a tool returned is removed" do
    @block "from multiprocessing import shared_memory\nx = shared_memory.SharedMemory(create=True, size=100_000).name"

    defp block(pool) do
      {:ok, name} = python(pool, @block)
      path = "/dev/shm/" <> name
      assert File.exists?(path)
      path
    end

    defp removed(path), do: assert(eventually(fn -> not File.exists?(path) end))

    test "when its worker is killed" do
      pool = pool!()
      path = block(pool)
      {_, 0} = System.cmd("kill", ["-9", to_string(os_pid(pool))])
      removed(path)
      assert eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{}, pool: pool)) end)
    end

    test "when its worker is recycled" do
      pool = pool!(worker_max_requests: 1)
      path = block(pool)
      removed(path)
    end

    test "when the pool stops, which waits for it" do
      pool = pool!()
      path = block(pool)
      :ok = Snakepit.stop_pool(pool)
      refute File.exists?(path)
    end

    test "though a child of the tool ignores TERM and holds the tracker's pipe" do
      pool = pool!()
      path = block(pool)

      code = """
      import os, signal, time
      x = os.fork()
      if not x:
          signal.signal(signal.SIGTERM, signal.SIG_IGN)
          time.sleep(600)
          os._exit(0)
      """

      {:ok, child} = python(pool, code)
      :ok = Snakepit.stop_pool(pool)
      refute File.exists?(path)
      refute alive?(child)
    end

    for which <- [:watchdog, :server] do
      test "when the companion's #{which} is killed" do
        pool = pool!()
        path = block(pool)
        {watchdog, server} = companion_os_pids()
        {_, 0} = System.cmd("kill", ["-9", if(unquote(which) == :watchdog, do: watchdog, else: server)])
        removed(path)
        assert eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{}, pool: pool)) end)
      end
    end

    @tag :tmp_dir
    test "when the VM is killed", %{tmp_dir: dir} do
      vm = vm!(dir, "")
      signalled("KILL", [vm.pid])
      removed(vm.block)
      for pid <- vm.processes, do: assert(eventually(fn -> not alive?(pid) end))
    end
  end

  test "a progress bar is forwarded while it is drawn, though its line never ends" do
    code = """
    import sys, time
    for i in range(15):
        sys.stderr.write(f"\\r{i}")
        sys.stderr.flush()
        time.sleep(0.05)
    time.sleep(600)
    """

    id = Companion.run(Snakepit.Python.venv_python(), ["-c", code], [])

    lines = fn lines, seen ->
      assert_receive {:companion, ^id, {:output, :stderr, line}}, 20_000
      if line == "14", do: Enum.reverse([line | seen]), else: lines.(lines, [line | seen])
    end

    numbers = Enum.map(lines.(lines, []), &String.to_integer/1)
    assert hd(numbers) == 0 and length(numbers) > 2
    assert numbers == numbers |> Enum.uniq() |> Enum.sort()
    Companion.kill(id)
    assert_receive {:companion, ^id, {:exited, {:signal, 9}, _}}, 20_000
  end

  describe "limits" do
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
