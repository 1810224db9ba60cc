defmodule Snakepit.Pool.ReloadTest do
  # Workers of a pool that reloads are replaced when a file changes that they imported.
  use Snakepit.Case, async: true
  import ExUnit.CaptureLog
  alias Snakepit.{Config, Telemetry}
  alias Snakepit.Pool.{Imports, Options, Reload}

  @moduletag :tmp_dir
  @event [:snakepit, :pool, :reload]

  setup_all do
    Logger.put_module_level(Reload, :info)
    on_exit(fn -> Logger.delete_module_level(Reload) end)
  end

  setup %{tmp_dir: dir} do
    me = self()
    id = make_ref()
    :ok = Telemetry.attach(id, @event, fn @event, m, meta, _ -> send(me, {:reload, meta.pool, m, meta}) end)
    on_exit(fn -> Telemetry.detach(id) end)
    %{dir: dir, module: "reloaded_#{System.unique_integer([:positive])}"}
  end

  defp tool(body), do: "from snakepit import tool\n\n@tool\ndef answer():\n    #{body}\n"

  defp write(context, source), do: File.write!(file(context), source)
  defp file(context), do: Path.join(context.dir, context.module <> ".py")

  defp reloading(context, options \\ []) do
    name = :"test_#{System.unique_integer([:positive])}"
    on_exit(fn -> Snakepit.stop_pool(name) end)
    usual = %{name: name, size: 1, python_module: context.module, python_path: [context.dir], reload: true}
    {:ok, _} = usual |> Map.merge(Map.new(options)) |> Snakepit.start_pool()
    name
  end

  defp reloaded(pool) do
    assert_receive {:reload, ^pool, %{duration_ms: ms}, %{result: result, files: files}}, 60_000
    assert is_integer(ms)
    {result, Enum.map(files, &Path.basename/1)}
  end

  defp answer(pool, command \\ "answer"), do: Snakepit.execute(command, %{}, pool: pool)
  defp pids(pool), do: for(%{os_pid: pid} <- Snakepit.list_workers(pool), do: pid)
  defp mark(pool), do: "pool #{inspect(pool)}:"

  test "a change is there for every call after the event, in all workers, a new tool too", context do
    write(context, tool("return 1"))
    pool = reloading(context, size: 2)
    before = pids(pool)
    assert answer(pool) == {:ok, 1}

    log =
      capture_log(fn ->
        write(context, tool("return 2") <> "\n@tool\ndef another():\n    return 3\n")
        assert reloaded(pool) == {:ok, ["#{context.module}.py"]}
        for _ <- 1..20, do: assert(answer(pool) == {:ok, 2})
        assert answer(pool, "another") == {:ok, 3}
      end)

    assert log =~ "#{mark(pool)} reloaded after a change of #{context.module}.py"
    assert eventually(fn -> length(pids(pool)) == 2 and Enum.all?(pids(pool), &(&1 not in before)) end)
    assert eventually(fn -> not Enum.any?(before, &alive?/1) end)
    # Once, not again and again.
    write(context, tool("return 4"))
    assert reloaded(pool) == {:ok, ["#{context.module}.py"]}
    assert answer(pool) == {:ok, 4}
    refute_received {:reload, ^pool, _, _}
  end

  test "saves in quick succession, each of the same length: the last one counts", context do
    write(context, tool("return 1"))
    # With bytecode, whose file times have whole seconds.
    pool = reloading(context, env: %{"PYTHONDONTWRITEBYTECODE" => ""})

    for n <- 2..6 do
      write(context, tool("return #{n}"))
      assert {:ok, _} = reloaded(pool)
      assert answer(pool) == {:ok, n}
    end
  end

  test "an editor that renames, and one that deletes first", context do
    write(context, tool("return 1"))
    pool = reloading(context)
    File.write!(Path.join(context.dir, "#{context.module}.py.tmp"), tool("return 2"))
    File.rename!(Path.join(context.dir, "#{context.module}.py.tmp"), file(context))
    assert {:ok, _} = reloaded(pool)
    assert answer(pool) == {:ok, 2}
    File.rm!(file(context))
    write(context, tool("return 3"))
    assert {:ok, _} = reloaded(pool)
    assert answer(pool) == {:ok, 3}
  end

  test "running calls finish, with the code they began with", context do
    write(context, """
    import os, time
    from snakepit import tool

    @tool
    def answer(started, go_on):
        open(started, "w").close()
        while not os.path.exists(go_on):
            time.sleep(0.002)
        return 1
    """)

    pool = reloading(context)
    args = %{started: Path.join(context.dir, "started"), go_on: Path.join(context.dir, "go_on")}
    task = Task.async(fn -> Snakepit.execute("answer", args, pool: pool) end)
    assert eventually(fn -> File.exists?(args.started) end)
    write(context, tool("return 2"))
    assert {:ok, _} = reloaded(pool)
    assert answer(pool) == {:ok, 2}
    File.write!(args.go_on, "")
    assert Task.await(task, 60_000) == {:ok, 1}
  end

  test "a syntax error: one error with file and line, the old workers go on, and the next save mends it",
       context do
    write(context, tool("return 1"))
    pool = reloading(context, size: 2)
    before = Enum.sort(pids(pool))

    log =
      capture_log(fn ->
        write(context, tool("return (") <> "\n")
        assert {{:error, %Error{} = error}, _} = reloaded(pool)
        assert error.python_type == "SyntaxError"
        for _ <- 1..10, do: assert(answer(pool) == {:ok, 1})
      end)

    assert Enum.sort(pids(pool)) == before
    assert [_, said] = String.split(log, "#{mark(pool)} not reloaded after a change of #{context.module}.py")
    assert said =~ "SyntaxError"
    assert said =~ ~r/#{context.module}\.py.*line 5/
    # Nothing else is said of it.
    refute log =~ "#{pool}-"
    write(context, tool("return 2"))
    assert {:ok, _} = reloaded(pool)
    for _ <- 1..10, do: assert(answer(pool) == {:ok, 2})
  end

  # Kills worker 1 at its first `times` starts with this code.
  defp lethal(context, times) do
    """
    import os, snakepit
    mark = "#{context.dir}/starts"
    if snakepit.worker().index == 1 and (not os.path.exists(mark) or os.path.getsize(mark) < #{times}):
        with open(mark, "a") as file:
            file.write("x")
        os.kill(os.getpid(), 9)
    """
  end

  test "a worker that is killed while it starts with the new code is started again", context do
    write(context, tool("return 1"))
    pool = reloading(context, size: 3)
    write(context, lethal(context, 1) <> tool("return 2"))
    assert {:ok, _} = reloaded(pool)
    for _ <- 1..30, do: assert(answer(pool) == {:ok, 2})
  end

  test "one that is killed every time leaves the old code to itself alone, and the log says so", context do
    number = "import snakepit\n" <> tool("return [snakepit.worker().index, VERSION]")
    write(context, number <> "VERSION = 1\n")
    pool = reloading(context, size: 3)

    log =
      capture_log(fn ->
        write(context, lethal(context, 100) <> number <> "VERSION = 2\n")
        assert {{:error, %Error{category: :worker}}, _} = reloaded(pool)
      end)

    # Which worker was first is the supervisor's affair.
    {:ok, answers} =
      1..60
      |> Enum.map(fn _ -> Task.async(fn -> answer(pool) end) end)
      |> Task.await_many()
      |> Enum.uniq()
      |> Enum.sort()
      |> then(&{:ok, for({:ok, [index, version]} <- &1, do: {index, version})})

    case answers do
      [{0, 2}, {1, 1}, {2, 2}] -> assert log =~ "workers 0, 2 have the new code, worker 1 has the old"
      all -> assert [1, 1, 1] == for({_, version} <- all, do: version)
    end
  end

  test "a module that is missing is there with the next save", context do
    write(context, tool("return 1"))
    pool = reloading(context)
    helper = "helper_#{context.module}"
    write(context, "import #{helper}\n" <> tool("return #{helper}.VALUE"))
    assert {{:error, %Error{python_type: "ModuleNotFoundError"}}, _} = reloaded(pool)
    assert answer(pool) == {:ok, 1}
    File.write!(Path.join(context.dir, helper <> ".py"), "VALUE = 7")
    assert {:ok, [changed]} = reloaded(pool)
    assert changed == helper <> ".py"
    assert answer(pool) == {:ok, 7}
    # And is watched from now on.
    File.write!(Path.join(context.dir, helper <> ".py"), "VALUE = 8")
    assert {:ok, _} = reloaded(pool)
    assert answer(pool) == {:ok, 8}
    File.rm!(Path.join(context.dir, helper <> ".py"))
    assert {{:error, %Error{python_type: "ModuleNotFoundError"}}, _} = reloaded(pool)
    assert answer(pool) == {:ok, 8}
  end

  test "what a tool imports only when it is called, in a package", context do
    package = Path.join(context.dir, "package_#{context.module}")
    File.mkdir!(package)
    File.write!(Path.join(package, "__init__.py"), "")
    File.write!(Path.join(package, "late.py"), "VALUE = 1")
    write(context, tool("from package_#{context.module} import late\n    return late.VALUE"))
    pool = reloading(context)
    assert answer(pool) == {:ok, 1}
    File.write!(Path.join(package, "late.py"), "VALUE = 2")
    assert reloaded(pool) == {:ok, ["late.py"]}
    assert answer(pool) == {:ok, 2}
  end

  test "a pool that could not start is started by the change that mends it", context do
    name = :"test_#{System.unique_integer([:positive])}"
    on_exit(fn -> Snakepit.stop_pool(name) end)
    # As the application starts a configured pool.
    {:ok, options} =
      Options.new(
        name: name,
        size: 2,
        python_module: context.module,
        python_path: [context.dir],
        reload: true
      )

    {:ok, _} = DynamicSupervisor.start_child(Snakepit.Pools, Snakepit.Pool.Supervisor.child_spec(options))
    assert {:error, %Error{python_type: "ModuleNotFoundError"}} = Snakepit.Pool.await_ready(name)

    log =
      capture_log(fn ->
        write(context, tool("return ("))
        assert {{:error, %Error{python_type: "SyntaxError"}}, _} = reloaded(name)
      end)

    assert [_, said] = String.split(log, "#{mark(name)} not reloaded after a change of #{context.module}.py")
    assert said =~ "line 5"
    write(context, tool("return 1"))
    assert {:ok, _} = reloaded(name)
    for _ <- 1..10, do: assert(answer(name) == {:ok, 1})
    write(context, tool("return 2"))
    assert {:ok, _} = reloaded(name)
    for _ <- 1..10, do: assert(answer(name) == {:ok, 2})
  end

  test "a worker with threads", context do
    write(context, tool("return 1"))
    pool = reloading(context, worker_profile: :thread, threads_per_worker: 2)
    write(context, tool("return 2"))
    assert {:ok, _} = reloaded(pool)
    for _ <- 1..10, do: assert(answer(pool) == {:ok, 2})
  end

  test "a pool that does not reload has no process for it, and says nothing", context do
    write(context, tool("return 1"))
    pool = reloading(context, reload: false)
    assert Registry.lookup(Snakepit.Registry, {:reload, pool}) == []
    assert pool |> reloading_process() == nil
    other = reloading(context)
    assert other |> reloading_process() |> is_pid()
    write(context, tool("return 2"))
    assert {:ok, _} = reloaded(other)
    assert answer(pool) == {:ok, 1}
  end

  defp reloading_process(pool) do
    case Registry.lookup(Snakepit.Registry, {:reload, pool}) do
      [{pid, _}] -> pid
      [] -> nil
    end
  end

  test "a pool can be stopped in the middle of a round", context do
    write(context, tool("return 1"))
    pool = reloading(context)
    go_on = Path.join(context.dir, "go_on")
    began = Path.join(context.dir, "began")

    write(context, """
    import os, time
    open(#{inspect(began)}, "w").close()
    while not os.path.exists(#{inspect(go_on)}):
        time.sleep(0.002)
    #{tool("return 2")}
    """)

    assert eventually(fn -> File.exists?(began) end)
    assert :ok = Snakepit.stop_pool(pool)
    refute_received {:reload, ^pool, _, _}
  end

  test "by default what the configuration says, else not outside of Mix's :dev" do
    {:ok, options} = Options.new(name: :x, python_module: "x")
    assert options.reload == nil
    # The tests run in :test.
    refute Imports.watched?(options)
    assert Imports.watched?(%{options | reload: true})
    assert {:ok, %Config{reload: nil}} = Config.validate([])
    assert {:ok, %Config{reload: true}} = Config.validate(reload: true)
    assert {:error, %Error{message: message}} = Config.validate(reload: :dev)
    assert message =~ "expected :reload to be"
    assert {:error, %Error{message: message}} = Options.new(name: :x, python_module: "x", reload: 1)
    assert message =~ "pool :x: expected :reload to be one of nil or a boolean, got: 1"
  end
end
