defmodule Snakepit.PoolTest do
  use Snakepit.Case, async: true
  alias Snakepit.Pool

  defp stats(pool) do
    {:ok, stats} = Snakepit.get_stats(pool)
    stats
  end

  defp queued(pool, n), do: eventually(fn -> stats(pool).queued == n end)
  defp os_pid(pool, opts \\ []), do: Snakepit.execute!("pid", %{}, [pool: pool] ++ opts)

  # A caller that nobody is linked to, so that it can be killed; sends its result.
  defp caller(pool, command, args, opts \\ []) do
    me = self()
    spawn(fn -> send(me, {self(), Snakepit.execute(command, args, [pool: pool] ++ opts)}) end)
  end

  defp kill(pid) do
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}, 5_000
  end

  describe "the line" do
    @tag :tmp_dir
    test "is served in the order of arrival", %{tmp_dir: dir} do
      pool = pool!()
      {task, go_on} = busy(pool, dir)

      callers =
        for n <- 1..10 do
          pid = caller(pool, "keep", %{x: n})
          queued(pool, n)
          pid
        end

      go_on.()
      assert Task.await(task) == {:ok, true}

      for {pid, place} <- Enum.with_index(callers, 1) do
        assert_receive {^pid, {:ok, ^place}}, 10_000
      end
    end

    @tag :tmp_dir
    test "is bounded: one more is refused at once", %{tmp_dir: dir} do
      pool = pool!(max_queue: 2)
      {task, go_on} = busy(pool, dir)
      waiting = for _ <- 1..2, do: caller(pool, "add", %{a: 1, b: 2})
      queued(pool, 2)

      assert {:error, %Error{category: :pool, reason: :pool_saturated} = error} =
               Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, timeout: :infinity)

      assert error.message =~ ":max_queue"
      assert error.pool == pool
      go_on.()
      assert Task.await(task) == {:ok, true}
      for pid <- waiting, do: assert_receive({^pid, {:ok, 3}}, 10_000)
      assert Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) == {:ok, 3}
    end

    @tag :tmp_dir
    test "may have no places at all", %{tmp_dir: dir} do
      pool = pool!(max_queue: 0)
      {task, go_on} = busy(pool, dir)
      assert {:error, %Error{reason: :pool_saturated}} = Snakepit.execute("pid", %{}, pool: pool)
      go_on.()
      assert Task.await(task) == {:ok, true}
    end

    @tag :tmp_dir
    test "has deadlines: who waited in vain gets an error, and stands in nobody's way", %{tmp_dir: dir} do
      pool = pool!()
      {task, go_on} = busy(pool, dir)

      assert {:error, %Error{category: :timeout, reason: :queue_timeout, pool: ^pool} = error} =
               Snakepit.execute("pid", %{}, pool: pool, timeout: 20)

      assert error.message =~
               "no worker was free within 20 ms (1 call runs, 0 more wait, 1 of 1 worker up)"

      assert {:error, %Error{reason: :queue_timeout}} = Snakepit.execute("pid", %{}, pool: pool, timeout: 0)
      assert stats(pool).queued == 0
      refute_received {:snakepit_lane, _, _}
      go_on.()
      assert Task.await(task) == {:ok, true}
      assert is_integer(os_pid(pool))
    end

    @tag :tmp_dir
    test "is not held up by callers who were killed in it", %{tmp_dir: dir} do
      pool = pool!()
      {task, go_on} = busy(pool, dir)

      callers =
        for n <- 1..9 do
          pid = caller(pool, "add", %{a: n, b: 0})
          queued(pool, n)
          {n, pid}
        end

      {die, live} = Enum.split_with(callers, fn {n, _} -> rem(n, 3) != 0 end)
      for {_, pid} <- die, do: kill(pid)
      go_on.()
      assert Task.await(task) == {:ok, true}
      for {n, pid} <- live, do: assert_receive({^pid, {:ok, ^n}}, 10_000)
      assert %{busy: 0, idle: 1, queued: 0, workers_up: 1} = stats(pool)
    end

    test "500 callers on two workers all get their own answer" do
      pool = pool!(size: 2)

      answers =
        1..500
        |> Task.async_stream(&Snakepit.execute("add", %{a: &1, b: 1_000_000}, pool: pool),
          max_concurrency: 500
        )
        |> Enum.map(fn {:ok, answer} -> answer end)

      assert answers == for(n <- 1..500, do: {:ok, n + 1_000_000})
      assert %{calls: 500, errors: 0, idle: 2, busy: 0} = stats(pool)
    end
  end

  # The pool serves again, by the same OS process.
  defp at_rest_again(pool, old) do
    assert os_pid(pool) == old
    assert eventually(fn -> match?(%{idle: 1, busy: 0, queued: 0, workers_up: 1}, stats(pool)) end)
  end

  describe "a call that does not end well" do
    @tag :tmp_dir
    test "beyond its deadline is cancelled, and the pool is whole again", %{tmp_dir: dir} do
      pool = pool!()
      old = os_pid(pool)

      assert {:error, %Error{category: :timeout, reason: :timeout} = error} =
               Snakepit.execute("wait_for_file", %{path: Path.join(dir, "never")}, pool: pool, timeout: 50)

      assert error.message =~ "wait_for_file did not finish within 50 ms"
      assert error.worker =~ "-0"
      at_rest_again(pool, old)
    end

    @tag :tmp_dir
    test "the pool's own timeout serves calls that name none", %{tmp_dir: dir} do
      pool = pool!(timeout: 50)

      assert {:error, %Error{category: :timeout}} =
               Snakepit.execute("wait_for_file", %{path: dir <> "/never"}, pool: pool)
    end

    @tag :tmp_dir
    test "a caller killed in the middle of it frees its lane", %{tmp_dir: dir} do
      pool = pool!()
      old = os_pid(pool)
      started = Path.join(dir, "started")
      pid = caller(pool, "touch_and_wait", %{started: started, go_on: dir <> "/never"})
      eventually(fn -> File.exists?(started) end)
      kill(pid)
      at_rest_again(pool, old)
    end

    @tag :tmp_dir
    test "nor does a killed caller matter that had waited for the lane of another", %{tmp_dir: dir} do
      pool = pool!()
      old = os_pid(pool)
      # Idle afterwards, and so without a reason to collect its garbage.
      {task, go_on} = busy(pool, dir)
      started = Path.join(dir, "started")
      pid = caller(pool, "touch_and_wait", %{started: started, go_on: dir <> "/never"})
      queued(pool, 1)
      go_on.()
      eventually(fn -> File.exists?(started) end)
      kill(pid)
      at_rest_again(pool, old)
      assert Task.await(task) == {:ok, true}
    end

    test "a caller killed at any moment at all" do
      pool = pool!(size: 2)

      for n <- 1..60 do
        pid = caller(pool, "fresh", %{x: Snakepit.bytes(:binary.copy("x", 1000 * n))})
        # A moment of its own for each, without a clock: so many reductions.
        Enum.reduce(1..(n * 500), 0, &(&1 + &2))
        kill(pid)
      end

      assert Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) == {:ok, 3}
      assert eventually(fn -> match?(%{idle: 2, busy: 0, queued: 0, workers_up: 2}, stats(pool)) end)
    end
  end

  describe "starting" do
    test "a pool answers as soon as start_pool returns" do
      pool = pool!(size: 2)
      assert %{status: :ready, workers_up: 2} = stats(pool)
      assert Pool.await_ready(pool) == :ok
      assert {:error, %Error{reason: :unknown_pool}} = Pool.await_ready(:no_such_pool)

      assert [%{status: :ready, tools: tools, python: "3." <> _, restarts: 0}, %{status: :ready}] =
               Snakepit.list_workers(pool)

      assert "add" in tools
    end

    @tag :tmp_dir
    test "await_ready gives up after its time, and is answered when the worker is there", %{tmp_dir: dir} do
      go_on = Path.join(dir, "go_on")

      source = """
      import os, time
      from snakepit import tool
      while not os.path.exists(#{inspect(go_on)}): time.sleep(0.002)
      @tool
      def one() -> int: return 1
      """

      File.write!(Path.join(dir, "slow_to_import.py"), source)
      pool = :slow_to_import
      options = %{name: pool, size: 1, python_module: "slow_to_import", python_path: [dir]}
      on_exit(fn -> Snakepit.stop_pool(pool) end)
      starting = Task.async(fn -> Snakepit.start_pool(options) end)
      eventually(fn -> pool in Pool.Handle.names() end)
      assert {:error, %Error{category: :timeout, reason: :not_ready}} = Pool.await_ready(pool, 10)
      assert stats(pool).status == :starting
      # Calls wait for the worker as they wait for any lane.
      early = caller(pool, "one", %{})
      queued(pool, 1)
      File.write!(go_on, "")
      assert {:ok, _} = Task.await(starting, 20_000)
      assert_receive {^early, {:ok, 1}}, 10_000
    end

    # What a start that failed must leave: nothing.
    defp refused(result, pool) do
      assert {:error, %Error{} = error} = result
      assert error.message =~ inspect(pool)
      assert Pool.Supervisor.workers(pool) == []
      assert {:error, %Error{reason: :unknown_pool}} = Snakepit.get_stats(pool)
      refute pool in Pool.Handle.names()
      error
    end

    defp refused_source(dir, source, options \\ []) do
      pool = :"refused_#{System.unique_integer([:positive])}"
      marks = Path.join(dir, "#{pool}.marks")
      # Who imports it leaves its pid.
      mark = "import os\nwith open(#{inspect(marks)}, 'a') as f: f.write(f'{os.getpid()}\\n')\n"
      error = dir |> source_pool(mark <> source, [name: pool] ++ options) |> refused(pool)
      pids = marks |> File.read!() |> String.split()
      assert length(pids) == Keyword.get(options, :size, 1), "each worker imports once: it does not loop"
      for pid <- pids, do: assert(eventually(fn -> not alive?(pid) end))
      error
    end

    @tag :tmp_dir
    test "a module that cannot be imported: Python's traceback, once, and nothing stays behind", %{
      tmp_dir: dir
    } do
      error = refused_source(dir, "def f():\n    raise RuntimeError('no ☃')\nf()\n")
      assert %{category: :python_error, reason: :import_failed, python_type: "RuntimeError"} = error
      assert error.message =~ "no ☃"
      assert error.python_traceback =~ "in f\n"
      assert error.python_traceback =~ "raise RuntimeError"

      File.write!(Path.join(dir, "no_python_at_all.py"), "this is no python")

      start =
        Snakepit.start_pool(%{
          name: :no_syntax,
          size: 1,
          python_module: "no_python_at_all",
          python_path: [dir]
        })

      assert refused(start, :no_syntax).python_type == "SyntaxError"
    end

    @tag :tmp_dir
    test "a module that leaves, or is killed, while it is imported", %{tmp_dir: dir} do
      error = refused_source(dir, "import sys; sys.exit('had enough')")
      assert %{category: :python_error, python_type: "SystemExit"} = error
      assert error.message =~ "had enough"

      error = refused_source(dir, "import sys\nprint('last words', file=sys.stderr, flush=True)\nos._exit(7)")
      assert %{category: :worker, reason: :exited} = error
      assert error.message =~ "status 7"
      assert error.message =~ "last words"

      assert refused_source(dir, "os.kill(os.getpid(), 11)").message =~ "SIGSEGV"
    end

    @tag :tmp_dir
    test "a module that takes too long", %{tmp_dir: dir} do
      error = refused_source(dir, "import time\ntime.sleep(600)", startup_timeout: 1_500)
      assert error.category == :worker
      assert error.message =~ "not ready within 1500 ms"
    end

    @tag :tmp_dir
    test "two tools of one name", %{tmp_dir: dir} do
      source = """
      from snakepit import tool
      @tool
      def twice(): pass
      @tool(name="twice")
      def other(): pass
      """

      error = refused_source(dir, source)
      assert error.python_type =~ "DuplicateTool"
      assert error.message =~ "two tools are named 'twice'"
    end

    test "a module that does not exist" do
      error =
        refused(
          Snakepit.start_pool(%{name: :no_module, size: 2, python_module: "no_such_module"}),
          :no_module
        )

      assert %{category: :python_error, reason: :import_failed, python_type: "ModuleNotFoundError"} = error
      assert error.message =~ "no_such_module"
      assert error.message =~ "looked for in #{Path.expand("priv/python")}"

      path = ["/no/such/dir", "lib"]
      options = %{name: :no_module, size: 1, python_module: "no_such.module", python_path: path}
      error = refused(Snakepit.start_pool(options), :no_module)
      assert error.message =~ "looked for in /no/such/dir (no such directory), #{Path.expand("lib")}"
    end

    @tag :tmp_dir
    test "a module that is there but imports one that is not, or has no tool", %{tmp_dir: dir} do
      error = refused_source(dir, "import no_such_module")
      assert error.message =~ "No module named 'no_such_module'"
      refute error.message =~ "looked for"

      error = refused_source(dir, "def f(): pass")
      assert %{category: :python_error, reason: :no_tools, python_traceback: nil} = error
      assert error.message =~ ~r/: source_\d+ has no function with @tool$/
    end

    @tag :tmp_dir
    test "ways that its interpreter does not have", %{tmp_dir: dir} do
      python = bare_python(dir)

      options = pool_options(name: :no_grpc, python: python, python_module: "snakepit", transfers: [:grpc])

      error = refused(Snakepit.start_pool(options), :no_grpc)
      assert %{category: :pool, reason: :not_capable} = error
      assert error.message =~ "none of the ways in :transfers (:grpc): run `mix snakepit.setup --with grpc`"

      # Where another way is left, a call that forces this one gets the same error.
      pool = pool!(python: python, python_module: "plain", python_path: [plain(dir)])

      assert {:error, %Error{category: :transfer, message: message}} =
               Snakepit.execute("one", %{}, pool: pool, transfer: :grpc)

      assert message =~ "has no gRPC: run `mix snakepit.setup --with grpc`"
    end

    defp plain(dir) do
      File.write!(Path.join(dir, "plain.py"), "from snakepit import tool\n@tool\ndef one(): return 1\n")
      dir
    end

    test "an interpreter that does not exist, or is none" do
      start = &Snakepit.start_pool(%{name: :no_python, size: 1, python_module: "x", python: &1})

      for python <- ["/no/such/python", "no-such-python", "/tmp"] do
        assert %{category: :pool, reason: :no_python} = error = refused(start.(python), :no_python)
        assert error.message =~ inspect(python)
      end

      assert refused(start.("/etc/passwd"), :no_python).message =~ "/etc/passwd is not executable"
      assert %{category: :worker} = refused(start.("true"), :no_python)
    end

    @tag :tmp_dir
    test "an interpreter without the native part: the message names the mend", %{tmp_dir: dir} do
      python = dir |> bare_python() |> without_native()
      start = Snakepit.start_pool(%{name: :no_native, size: 1, python_module: "x", python: python})
      error = refused(start, :no_native)
      assert error.message =~ "no native part of Snakepit"
      assert error.message =~ "mix snakepit.setup --build-for #{python}"
    end

    test "a name that is taken" do
      pool = pool!()
      pid = os_pid(pool)

      assert {:error, %Error{category: :pool, reason: :already_started}} =
               Snakepit.start_pool(pool_options(name: pool))

      assert os_pid(pool) == pid
    end

    @tag :tmp_dir
    test "a configured pool that fails is kept, tries once, and its calls say why", %{tmp_dir: dir} do
      imports = Path.join(dir, "imports")

      File.write!(
        Path.join(dir, "fails_once.py"),
        "open(#{inspect(imports)}, 'a').write('x')\nraise ValueError('why')"
      )

      {:ok, options} =
        Pool.Options.new(%{name: :fails_once, size: 1, python_module: "fails_once", python_path: [dir]})

      # As the application does.
      {:ok, _} = DynamicSupervisor.start_child(Snakepit.Pools, Pool.Supervisor.child_spec(options))
      on_exit(fn -> Snakepit.stop_pool(:fails_once) end)
      assert {:error, %Error{python_type: "ValueError"}} = Pool.await_ready(:fails_once)

      for _ <- 1..3 do
        assert {:error, %Error{python_type: "ValueError"} = error} =
                 Snakepit.execute("x", %{}, pool: :fails_once)

        assert error.message =~ "why"
      end

      assert stats(:fails_once).status == :failed
      assert File.read!(imports) == "x"
    end
  end

  describe "stopping" do
    @tag :tmp_dir
    test "lets a running call finish, refuses new ones, and leaves no OS process", %{tmp_dir: dir} do
      pool = pool!()
      pid = os_pid(pool)
      {task, go_on} = busy(pool, dir)
      waiting = caller(pool, "pid", %{})
      queued(pool, 1)
      stopping = Task.async(fn -> Snakepit.stop_pool(pool) end)
      assert_receive {^waiting, {:error, %Error{category: :pool, reason: :stopping}}}, 5_000
      assert {:error, %Error{category: :pool, reason: :stopping}} = Snakepit.execute("pid", %{}, pool: pool)
      assert alive?(pid)
      go_on.()
      assert Task.await(task) == {:ok, true}
      assert Task.await(stopping, 20_000) == :ok
      refute alive?(pid)
      assert {:error, %Error{reason: :unknown_pool}} = Snakepit.execute("pid", %{}, pool: pool)
      assert {:error, %Error{reason: :unknown_pool}} = Snakepit.stop_pool(pool)
    end

    @tag :tmp_dir
    test "does not wait for ever: a call beyond :shutdown_timeout fails", %{tmp_dir: dir} do
      pool = pool!(shutdown_timeout: 50)
      pid = os_pid(pool)
      {task, _go_on} = busy(pool, dir)
      assert Snakepit.stop_pool(pool) == :ok
      assert {:error, %Error{category: :pool, reason: :stopping, message: message}} = Task.await(task)
      assert message =~ "stopped before the call ended"
      refute alive?(pid)
    end

    @tag :tmp_dir
    test "exit handlers of the module run", %{tmp_dir: dir} do
      left = Path.join(dir, "left")
      tool = "from snakepit import tool\n@tool\ndef f(): pass\n"
      source = tool <> "import atexit\natexit.register(lambda: open(#{inspect(left)}, 'w').close())\n"
      {:ok, pool} = source_pool(dir, source)
      refute File.exists?(left)
      assert Snakepit.stop_pool(pool) == :ok
      assert File.exists?(left)
    end

    test "a pool may be started again under its name" do
      pool = pool!()
      old = os_pid(pool)
      Snakepit.stop_pool(pool)
      assert {:ok, _} = Snakepit.start_pool(pool_options(name: pool))
      assert os_pid(pool) != old
    end

    @tag :tmp_dir
    test "callers in line get an error when the pool's own process dies, and the pool comes back", %{
      tmp_dir: dir
    } do
      pool = pool!()
      old = os_pid(pool)
      {task, _go_on} = busy(pool, dir)
      waiting = caller(pool, "pid", %{}, timeout: :infinity)
      queued(pool, 1)
      {:ok, handle} = Pool.Handle.fetch(pool)
      handle.pool |> GenServer.whereis() |> Process.exit(:kill)
      assert_receive {^waiting, {:error, %Error{category: :pool}}}, 10_000
      assert {:error, %Error{category: :pool, reason: :stopping}} = Task.await(task, 10_000)

      assert eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{}, pool: pool)) end)
      assert os_pid(pool) != old
      assert eventually(fn -> not alive?(old) end)
    end
  end

  describe "threads" do
    @tag :tmp_dir
    test "four calls run at once in one OS process", %{tmp_dir: dir} do
      pool = pool!(worker_profile: :thread, threads_per_worker: 4)
      # Each has begun before any may end.
      runs = for _ <- 1..4, do: busy(pool, dir)
      assert %{busy: 4, idle: 0} = stats(pool)
      last = caller(pool, "pid", %{})
      queued(pool, 1)
      for {_task, go_on} <- runs, do: go_on.()
      for {task, _} <- runs, do: assert(Task.await(task) == {:ok, true})
      assert_receive {^last, {:ok, pid}}, 10_000
      assert [%{os_pid: ^pid}] = Snakepit.list_workers(pool)

      sums =
        1..200
        |> Task.async_stream(&Snakepit.execute("add_later", %{a: &1, b: 1}, pool: pool), max_concurrency: 16)
        |> Enum.map(fn {:ok, answer} -> answer end)

      assert sums == for(n <- 1..200, do: {:ok, n + 1})
      assert os_pid(pool) == pid
    end

    @tag :tmp_dir
    test "when one of them is lost, all callers of that process hear of it", %{tmp_dir: dir} do
      pool = pool!(worker_profile: :thread, threads_per_worker: 2)
      old = os_pid(pool)
      {task, _} = busy(pool, dir)
      assert {:error, %Error{category: :worker}} = Snakepit.execute("die", %{}, pool: pool)
      assert {:error, %Error{category: :worker} = error} = Task.await(task)
      assert error.message =~ "SIGKILL"
      assert os_pid(pool) != old
      assert eventually(fn -> match?(%{idle: 2, busy: 0}, stats(pool)) end)
    end
  end

  describe "sessions" do
    @tag :tmp_dir
    test "go to one worker, where their state is kept", %{tmp_dir: dir} do
      pool = pool!(size: 3)
      sessions = for n <- 1..12, do: "session #{n}"

      for s <- sessions,
          do:
            {:ok, %{"k" => ^s}} =
              Snakepit.execute_in_session(s, "remember", %{key: "k", value: s}, pool: pool)

      pids = for s <- sessions, do: os_pid(pool, session_id: s)
      assert pids |> Enum.uniq() |> length() > 1

      for {s, pid} <- Enum.zip(sessions, pids) do
        assert os_pid(pool, session_id: s) == pid
        # Also while others are idle.
        assert {:ok, %{"k" => ^s, "n" => 1}} =
                 Snakepit.execute_in_session(s, "remember", %{key: "n", value: 1}, pool: pool)
      end

      # Its worker is busy: strict waits, prefer takes another.
      [session | _] = sessions
      started = Path.join(dir, "started")
      args = %{started: started, go_on: started <> ".go"}
      pid = caller(pool, "touch_and_wait", args, session_id: session)
      eventually(fn -> File.exists?(started) end)

      assert {:error, %Error{reason: :queue_timeout}} =
               Snakepit.execute("pid", %{}, pool: pool, session_id: session, timeout: 20)

      assert os_pid(pool, session_id: session, affinity: :prefer) != hd(pids)
      File.write!(started <> ".go", "")
      assert_receive {^pid, {:ok, true}}, 10_000
      assert os_pid(pool, session_id: session, affinity: :prefer) == hd(pids)
    end

    test "a call without one has none" do
      pool = pool!()

      assert {:error, %Error{category: :python_error, python_type: "LookupError"} = error} =
               Snakepit.execute("remember", %{key: "k", value: 1}, pool: pool)

      assert error.message =~ "execute_in_session"
    end
  end

  describe "the worker's surroundings" do
    @tag :tmp_dir
    test "env, and what is the VM's, but none of Snakepit's secrets", %{tmp_dir: dir} do
      File.write!(
        Path.join(dir, "only_by_pythonpath.py"),
        "from snakepit import tool\n@tool\ndef there() -> int: return 1\n"
      )

      pool =
        pool!(
          env: %{"SNAKEPIT_TEST" => "ключ = value", "PYTHONPATH" => dir},
          python_module: ["snakepit_test_tools", "only_by_pythonpath"]
        )

      environment = &Snakepit.execute!("environment", %{name: &1}, pool: pool)
      assert environment.("SNAKEPIT_TEST") == "ключ = value"
      assert environment.("PATH") == System.get_env("PATH")
      assert environment.("SNAKEPIT_TOKEN") == nil
      assert environment.("SNAKEPIT_SOCKET") == nil
      assert Snakepit.execute("there", %{}, pool: pool) == {:ok, 1}
      # Snakepit's own package comes first, whatever else is found.
      [own | _] = String.split(environment.("PYTHONPATH"), ":")
      assert File.exists?(Path.join(own, "snakepit/main.py"))
    end

    test "what tools print does not disturb their results" do
      pool = pool!()

      for text <- [
            "a line",
            "",
            "no newline",
            String.duplicate("x", 1_000_000),
            "\0\x01é☃",
            "\x93\xC4" |> :unicode.characters_to_binary(:latin1)
          ] do
        assert Snakepit.execute("say", %{text: text}, pool: pool) == {:ok, nil}
      end

      code =
        "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 4000)\nsys.stderr.write('e' * 100000)\nx = 1"

      assert Snakepit.execute("python_value", %{code: code}, pool: pool) == {:ok, 1}

      assert Snakepit.execute("python_value", %{code: "import os, sys\nos.close(1); os.close(0)\nx = 2"},
               pool: pool
             ) == {:ok, 2}

      assert Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) == {:ok, 3}
    end
  end
end
