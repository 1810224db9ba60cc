defmodule Snakepit.TestTest do
  use Snakepit.Case, async: true
  import Snakepit.Test
  import ExUnit.CaptureLog
  alias Snakepit.Test.PythonError

  defp fake!(options) do
    name = :"fake_#{System.unique_integer([:positive])}"
    start_supervised!({Snakepit.Test, [name: name] ++ options})
    name
  end

  defp add, do: fn %{"a" => a, "b" => b} -> a + b end

  # A tool that says that it runs, and waits for a result.
  defp waits do
    test = self()

    fn args ->
      send(test, {:runs, self(), args})

      receive do
        {:return, value} -> value
      end
    end
  end

  defp call(pool, command, args \\ %{}, opts \\ []),
    do: Task.async(fn -> Snakepit.execute(command, args, [pool: pool] ++ opts) end)

  defp running do
    assert_receive {:runs, pid, _args}
    pid
  end

  describe "a fake pool" do
    test "is there for start_supervised, and ends with it" do
      pool = fake!(tools: %{"add" => add()}, size: 1)
      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      assert :ok = stop_supervised({Snakepit.Test, pool})
      assert {:error, %Error{reason: :unknown_pool}} = Snakepit.execute("add", %{}, pool: pool)
    end

    test "started by start_pool/1 outlives who started it" do
      name = :"fake_#{System.unique_integer([:positive])}"

      assert {:ok, pid} =
               Task.await(
                 Task.async(fn -> Snakepit.Test.start_pool(name: name, tools: Snakepit.FakeTools) end)
               )

      assert Process.alive?(pid)
      assert {:ok, 42} = Snakepit.execute(:answer, %{}, pool: name)
      assert {:error, %Error{reason: :already_started}} = Snakepit.Test.start_pool(name: name)
      assert :ok = Snakepit.stop_pool(name)
    end

    test "of a module: its public functions of one argument or none" do
      pool = fake!(tools: Snakepit.FakeTools)
      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      assert {:ok, 42} = Snakepit.execute("answer", %{}, pool: pool)
      assert [3, 2, 1] = Enum.to_list(Snakepit.stream("countdown", %{n: 3}, pool: pool))
      assert hd(Snakepit.list_workers(pool)).tools == ["add", "answer", "countdown", "from_config"]

      assert {:ok, 5} =
               Snakepit.execute("later", %{a: 2, b: 3}, pool: fake!(tools: &Snakepit.FakeTools.from_config/0))
    end

    test "has workers without OS processes, statistics, and no explanation of ways" do
      doc = "Adds."
      pool = fake!(tools: [add: tool(add(), params: [a: :int, b: {[:int, :none], nil}], doc: doc)], size: 2)
      {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      {:error, _} = Snakepit.execute("sub", %{}, pool: pool)
      assert [one, two] = Snakepit.list_workers(pool)
      assert [one.name, two.name] == ["#{pool}-0", "#{pool}-1"]
      assert %{os_pid: nil, status: :ready, restarts: 0, tools: ["add"]} = one
      assert [%Snakepit.Tool{name: "add", module: "Snakepit.Test", doc: ^doc} = tool] = Snakepit.tools(pool)
      assert Snakepit.Tool.signature(tool) == "add(a: int, b: int | None = None)"

      assert {:ok, %{calls: 2, errors: 1, status: :ready, workers_up: 2}} = Snakepit.get_stats(pool)

      assert {:error, %Error{reason: :not_enabled, message: message}} =
               Snakepit.explain("add", %{}, pool: pool)

      assert message =~ "is a fake (Snakepit.Test)"

      assert {:error, %Error{reason: :way_not_allowed}} =
               Snakepit.execute("add", %{}, pool: pool, transfer: :grpc)
    end

    test "is restarted, with the tools and stubs it had" do
      pool = fake!(tools: %{"add" => add(), "sub" => fn _ -> 0 end})
      stub(pool, "sub", fn %{"a" => a, "b" => b} -> a - b end)
      assert {:ok, _} = Snakepit.restart_pool(pool)
      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      assert {:ok, 1} = Snakepit.execute("sub", %{a: 3, b: 2}, pool: pool)
    end

    test "emits the events of calls and workers" do
      test = self()
      id = make_ref()
      events = [[:snakepit, :call, :stop], [:snakepit, :worker, :up], [:snakepit, :worker, :down]]
      name = :"fake_#{System.unique_integer([:positive])}"

      forward = fn event, measured, data, _ ->
        if data.pool == name, do: send(test, {event, measured, data})
      end

      :ok = Snakepit.Telemetry.attach(id, events, forward)
      on_exit(fn -> Snakepit.Telemetry.detach(id) end)
      {:ok, _} = Snakepit.Test.start_pool(name: name, tools: Snakepit.FakeTools, size: 1)
      assert_receive {[:snakepit, :worker, :up], _, %{os_pid: nil}}
      {:ok, 42} = Snakepit.execute("answer", %{}, pool: name, correlation_id: "c")

      assert_receive {[:snakepit, :call, :stop], %{tool_ns: _},
                      %{status: :ok, correlation_id: "c", command: "answer"}}

      Snakepit.stop_pool(name)
      assert_receive {[:snakepit, :worker, :down], _, %{meant?: true}}
    end
  end

  describe "options" do
    defp refused(options) do
      assert {:error, %Error{category: :validation, reason: :invalid_option} = error} =
               Snakepit.Test.start_pool(options)

      error.message
    end

    test "are checked as those of other pools are" do
      assert refused(tools: %{}) == "pool without a name: :name is required"
      assert refused(name: :x, tols: %{}) == "pool :x: unknown option :tols; did you mean :tools?"
      assert refused(name: :x, size: 0) == "pool :x: expected :size to be a positive integer, got: 0"
      assert refused(name: :x, threads_per_worker: 2) =~ "would be ignored with worker_profile: :process"

      assert refused(%{name: :x, python_module: "my_tools"}) ==
               "pool :x: :python_module has no effect in a fake pool (Snakepit.Test); leave it out"

      assert refused(5) =~ "expected a map or a keyword list, got: 5"
      assert refused([1]) =~ "expected a map or a keyword list, got: [1]"
    end

    test "that are wrong keep a supervised pool from starting" do
      assert {:error, {%Error{reason: :invalid_option}, _child}} =
               start_supervised({Snakepit.Test, name: :x, size: 0})

      assert {:error, {%Error{reason: :invalid_option}, _child}} = start_supervised({Snakepit.Test, 5})
    end

    test "tools are functions of a map, by their names" do
      assert refused(name: :x, tools: 5) ==
               "pool :x: expected :tools to be a map of names to functions, or a module, got: 5"

      assert refused(name: :x, tools: NoSuchModule) =~ "pool :x: there is no module NoSuchModule"
      assert refused(name: :x, tools: %{1 => add()}) =~ "expected a name to be a string or an atom, got: 1"

      assert refused(name: :x, tools: [add: &Kernel.+/2]) =~
               "in :tools, :add: expected a function of the arguments' map"
    end

    test "a signature is checked when it is written" do
      for {params, words} <- [
            {[a: :integer], "a has the unknown type :integer; did you mean :int?"},
            {[a: :xyz], "known are: :any, :int"},
            {[:a, "a"], "a is there twice"},
            {[1], "expected a name, or {name, type}, got: 1"},
            {:a, "expected :params to be a list such as"}
          ] do
        assert_raise ArgumentError, ~r/a fake tool: .*#{Regex.escape(words)}/, fn ->
          tool(add(), params: params)
        end
      end

      assert_raise ArgumentError, ~r/no arguments has no :params/, fn -> tool(fn -> 1 end, params: [:a]) end

      assert_raise ArgumentError, ~r/unknown option :parms; did you mean :params/, fn ->
        tool(add(), parms: [])
      end
    end

    test "a configuration may name fake pools" do
      pools = [{Snakepit.Test, name: :fakes, tools: Snakepit.FakeTools}, %{name: :real, python_module: "x"}]
      assert {:ok, config} = Snakepit.Config.validate(pools: pools)
      assert config.default_pool == :fakes
      assert {:error, error} = Snakepit.Config.validate(pools: [{Snakepit.Test, name: :fakes, siz: 1}])
      assert error.message == "pool :fakes: unknown option :siz; did you mean :size?"
      assert {:error, error} = Snakepit.Config.validate(pools: [{Enum, name: :fakes}])
      assert error.message =~ "expected a pool to be its options, or {Snakepit.Test, options}, got: {Enum"
    end
  end

  describe "a tool" do
    test "that raises, throws, exits or is killed is a Python error; its worker lives on" do
      pool =
        fake!(
          size: 1,
          tools: %{
            "raises" => fn -> raise PythonError, type: "ValueError", message: "no" end,
            "plainly" => fn -> raise PythonError, "no" end,
            "elixir" => fn -> Map.fetch!(%{}, :a) end,
            "throws" => fn -> throw(:ball) end,
            "exits" => fn -> exit(:tired) end,
            "killed" => fn -> Process.exit(self(), :kill) end,
            "linked" => fn -> Task.await(Task.async(fn -> Process.exit(self(), :kill) end)) end
          }
        )

      for {command, type, message} <- [
            {"raises", "ValueError", "ValueError: no"},
            {"plainly", "RuntimeError", "RuntimeError: no"},
            {"elixir", "KeyError", "KeyError: key :a not found in: %{}"},
            {"throws", "throw", "throw: :ball"},
            {"exits", "exit", "exit: :tired"},
            {"killed", "exit", "exit: killed"},
            {"linked", "exit", "exit: killed"}
          ] do
        assert {:error, %Error{category: :python_error, reason: :raised} = error} =
                 Snakepit.execute(command, %{}, pool: pool)

        assert {error.python_type, error.message} == {type, message}
        assert "Traceback (most recent call last):" <> _ = error.python_traceback
      end

      {:error, error} = Snakepit.execute("raises", %{}, pool: pool)
      assert error.python_traceback =~ "test/snakepit/test_test.exs"
      refute error.python_traceback =~ "Snakepit.Test.Run"
      assert [%{restarts: 0}] = Snakepit.list_workers(pool)
    end

    test "that returns what cannot cross is a Python error with its place" do
      pool =
        fake!(
          tools: %{
            "bad" => fn -> %{"a" => [1, self()]} end,
            "yields" => fn -> Stream.map([1, self()], & &1) end
          }
        )

      assert {:error, %Error{category: :python_error, reason: :unsupported_type} = error} =
               Snakepit.execute("bad", %{}, pool: pool)

      assert error.details == %{path: ~S(result["a"][1]), type: "a pid"}
      assert error.message == ~S(result["a"][1]: a pid cannot cross)

      assert_raise Error, ~r/item: a pid cannot cross/, fn ->
        Enum.to_list(Snakepit.stream("yields", %{}, pool: pool))
      end
    end

    test "is called with what a Python tool would be called with" do
      test = self()
      pool = fake!(tools: %{"report" => fn args -> send(test, {:args, args}) && nil end})
      when_ = ~U[2024-02-29 12:30:45Z]

      args = %{
        a: :atom,
        b: Snakepit.bytes(<<255>>),
        c: [%{d: {1, MapSet.new([:x])}}],
        e: :nan,
        f: when_,
        g: nil
      }

      assert {:ok, nil} = Snakepit.execute("report", args, pool: pool)
      assert_receive {:args, seen}

      assert seen == %{
               "a" => "atom",
               "b" => <<255>>,
               "c" => [%{"d" => {1, MapSet.new(["x"])}}],
               "e" => :nan,
               "f" => ~U[2024-02-29 12:30:45.000000Z],
               "g" => nil
             }
    end

    test "knows its callers, so that mocks of others find theirs" do
      pool = fake!(tools: %{"callers" => fn -> inspect(Process.get(:"$callers")) end})
      {:ok, callers} = Snakepit.execute("callers", %{}, pool: pool)
      assert callers =~ inspect(self())
    end

    test "is killed when its caller waits no longer, or dies, or leaves its stream" do
      test = self()

      yields = fn %{"items" => items} ->
        Stream.map(1..items, fn
          1 -> 1
          _ -> send(test, {:runs, self(), %{}}) && Process.sleep(:infinity)
        end)
      end

      pool = fake!(tools: %{"waits" => waits(), "yields" => yields}, size: 1)

      # By its deadline.
      task = call(pool, "waits", %{}, timeout: 50)
      monitor = Process.monitor(running())
      assert {:error, %Error{category: :timeout}} = Task.await(task)
      assert_receive {:DOWN, ^monitor, _, _, _}
      # With its caller.
      task = call(pool, "waits")
      monitor = Process.monitor(running())
      Task.shutdown(task, :brutal_kill)
      assert_receive {:DOWN, ^monitor, _, _, _}
      # By a reader that has enough.
      assert [1] = Enum.take(Snakepit.stream("yields", %{items: 2}, pool: pool), 1)
      assert {:ok, 1} = waited_for(pool, 1)
      assert [%{restarts: 0}] = Snakepit.list_workers(pool)
    end

    defp waited_for(pool, value) do
      task = call(pool, "waits", %{result: value})
      assert_receive {:runs, pid, %{"result" => ^value}}
      send(pid, {:return, value})
      Task.await(task)
    end

    test "of a stream does not run ahead of its reader by more than a socket's buffer" do
      count = :counters.new(1, [])
      item = String.duplicate("x", 10_000)

      pool =
        fake!(
          size: 1,
          tools: %{
            "yields" => fn -> Stream.repeatedly(fn -> :counters.add(count, 1, 1) && item end) end,
            "answer" => fn -> 42 end
          }
        )

      assert [^item, ^item] = Enum.take(Snakepit.stream("yields", %{}, pool: pool), 2)
      assert {:ok, 42} = Snakepit.execute("answer", %{}, pool: pool)
      assert :counters.get(count, 1) < 1_000
    end

    test "that traps exits ends with its worker all the same" do
      test = self()

      pool =
        fake!(
          size: 1,
          tools: %{
            "traps" => fn ->
              Process.flag(:trap_exit, true)
              send(test, {:runs, self(), %{}})
              Process.sleep(:infinity)
            end
          }
        )

      task = call(pool, "traps")
      monitor = Process.monitor(running())
      kill_worker(pool)
      assert_receive {:DOWN, ^monitor, _, _, :killed}
      assert {:error, %Error{category: :worker}} = Task.await(task)
    end
  end

  describe "workers" do
    test "that are all busy: callers wait in line, then are refused" do
      pool = fake!(tools: %{"waits" => waits()}, size: 1, max_queue: 1)
      first = call(pool, "waits")
      pid = running()
      second = call(pool, "waits")
      assert eventually(fn -> match?({:ok, %{queued: 1}}, Snakepit.get_stats(pool)) end)

      assert {:error, %Error{category: :pool, reason: :pool_saturated}} =
               Snakepit.execute("waits", %{}, pool: pool)

      send(pid, {:return, 1})
      send(running(), {:return, 2})
      assert [{:ok, 1}, {:ok, 2}] = Task.await_many([first, second])
    end

    test "of profile :thread run several calls" do
      pool = fake!(tools: %{"waits" => waits()}, size: 1, worker_profile: :thread, threads_per_worker: 2)
      tasks = [call(pool, "waits"), call(pool, "waits")]
      for pid <- [running(), running()], do: send(pid, {:return, inspect(pid)})
      assert [{:ok, one}, {:ok, two}] = Task.await_many(tasks)
      assert one != two
    end

    test "are killed: a busy one first, whose caller gets an error; idempotent calls go on" do
      pool = fake!(tools: %{"waits" => waits(), "answer" => fn -> 42 end}, size: 2)
      task = call(pool, "waits", %{}, correlation_id: "c")
      running()

      log =
        capture_log(fn ->
          assert :ok = kill_worker(pool)

          assert {:error, %Error{category: :worker, reason: :lost, details: %{correlation_id: "c"}} = error} =
                   Task.await(task)

          assert error.message =~ "was killed by signal 9 (SIGKILL)"
          assert eventually(fn -> Enum.all?(Snakepit.list_workers(pool), &(&1.status == :ready)) end)
        end)

      [line] = for line <- String.split(log, "\n"), line =~ "pool #{inspect(pool)}:", do: line

      assert line =~
               "ended: the worker was killed by signal 9 (SIGKILL), while it ran \"waits\" (correlation id \"c\""

      again = call(pool, "waits", %{}, idempotent: true)
      running()
      kill_worker(pool)
      send(running(), {:return, 1})
      assert {:ok, 1} = Task.await(again)
    end

    test "killed by their own tool, again and again: the command is refused, as a real one" do
      pool = fake!(tools: %{"dies" => fn -> kill_worker() end, "answer" => fn -> 42 end}, size: 1)

      reasons = for _ <- 1..4, do: elem(Snakepit.execute("dies", %{}, pool: pool), 1).reason
      assert reasons == [:lost, :lost, :lost, :command_breaker_open]
      assert {:ok, 42} = Snakepit.execute("answer", %{}, pool: pool)
    end
  end

  describe "stub/3" do
    setup do: %{
            pool: fake!(tools: %{"add" => tool(add(), params: [a: :int, b: :int]), "answer" => fn -> 42 end})
          }

    defp sum(pool), do: Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)

    test "replaces a tool for this process and those that work for it, and for nobody else", %{pool: pool} do
      test = self()
      stub(pool, "add", fn _ -> "stubbed" end)
      assert {:ok, "stubbed"} = sum(pool)
      assert {:ok, "stubbed"} = Task.await(Task.async(fn -> sum(pool) end))
      assert {:ok, "stubbed"} = Task.await(Task.async(fn -> Task.await(Task.async(fn -> sum(pool) end)) end))
      assert [{:ok, "stubbed"}] = Snakepit.map([%{a: 1, b: 2}], "add", pool: pool)
      agent = start_supervised!({Agent, fn -> nil end})
      assert {:ok, "stubbed"} = Agent.get(agent, fn nil -> sum(pool) end)
      spawn_link(fn -> send(test, {:sum, sum(pool)}) end)
      assert_receive {:sum, {:ok, "stubbed"}}
      assert {:ok, 42} = Snakepit.execute("answer", %{}, pool: pool)
      assert {:ok, 3} = elsewhere(fn -> sum(pool) end)
    end

    # In a process that has nothing to do with this one.
    defp elsewhere(fun) do
      test = self()
      ref = make_ref()
      monitor = Process.monitor(stranger!({test, ref, fun}))
      assert_receive {^ref, answer}
      assert_receive {:DOWN, ^monitor, _, _, _}
      answer
    end

    # Its parent is not this process either.
    defp stranger!(argument, opts \\ []) do
      start = fn -> GenServer.start(Snakepit.TestTest.Stranger, argument, opts) end
      {:ok, pid} = Task.await(Task.async(start))
      pid
    end

    test "the last one counts; the nearest process decides", %{pool: pool} do
      stub(pool, "add", fn _ -> 1 end)
      stub(pool, :add, fn _ -> 2 end)
      assert {:ok, 2} = sum(pool)

      task =
        Task.async(fn ->
          stub(pool, "add", fn _ -> 3 end)
          {sum(pool), Task.await(Task.async(fn -> sum(pool) end))}
        end)

      assert {{:ok, 3}, {:ok, 3}} = Task.await(task)
      assert {:ok, 2} = sum(pool)
    end

    test "ends with its process", %{pool: pool} do
      stranger = fn ->
        stub(pool, "add", fn _ -> 1 end)
        allow(:all)
        sum(pool)
      end

      assert {:ok, 1} = elsewhere(stranger)
      assert eventually(fn -> sum(pool) == {:ok, 3} end)
    end

    test "allow/2 adds a process, a name, or all", %{pool: pool} do
      stub(pool, "add", fn _ -> "stubbed" end)
      stranger = stranger!(nil)
      ask = fn -> GenServer.call(stranger, fn -> sum(pool) end) end
      assert {:ok, 3} = ask.()
      allow(stranger)
      assert {:ok, "stubbed"} = ask.()
      name = :"stranger_#{System.unique_integer([:positive])}"
      named = stranger!(nil, name: name)
      assert {:ok, 3} = GenServer.call(named, fn -> sum(pool) end)
      allow(name)
      assert {:ok, "stubbed"} = GenServer.call(named, fn -> sum(pool) end)
      for pid <- [stranger, named], do: GenServer.stop(pid)
      assert {:ok, 3} = elsewhere(fn -> sum(pool) end)
      watch(pool)
      allow(:all)
      assert {:ok, "stubbed"} = elsewhere(fn -> sum(pool) end)
      assert_called("add")
    end

    test "keeps the tool's parameters, unless it has its own", %{pool: pool} do
      stub(pool, "add", fn _ -> "stubbed" end)
      assert {:error, %Error{reason: :missing_argument}} = Snakepit.execute("add", %{a: 1}, pool: pool)
      stub(pool, "add", tool(fn _ -> "stubbed" end, params: [:a]))
      assert {:ok, "stubbed"} = Snakepit.execute("add", %{a: 1}, pool: pool)
      yields = fake!(tools: %{"countdown" => {:stream, fn _ -> [3, 2, 1] end}})
      stub(yields, "countdown", fn _ -> [1] end)
      assert [1] = Enum.to_list(Snakepit.stream("countdown", %{}, pool: yields))
    end

    test "of a generator may return a value at its end" do
      pool = fake!(tools: %{"counts" => tool(fn _ -> [1, 2] end, stream: true, returns: %{n: 2})})
      assert {:ok, %{"n" => 2}} = Snakepit.execute_stream("counts", %{}, fn _ -> :ok end, pool: pool)
      assert {:ok, [1, 2]} = Snakepit.execute("counts", %{}, pool: pool)
      stub(pool, "counts", tool(fn _ -> [] end, stream: true, returns: self()))
      assert [] = Enum.to_list(Snakepit.stream("counts", %{}, pool: pool))

      assert {:error, %Error{reason: :unsupported_type, details: %{path: "returned"}}} =
               Snakepit.execute_stream("counts", %{}, fn _ -> :ok end, pool: pool)
    end

    test "refuses what the pool does not have", %{pool: pool} do
      assert_raise ArgumentError, ~r/has no tool "ad" to be stubbed; did you mean add\?/, fn ->
        stub(pool, "ad", add())
      end

      for command <- [{1}, 1, nil, ["add"]] do
        assert_raise ArgumentError,
                     ~r/expected a command, which is a tool's name as a string or an atom/,
                     fn ->
                       stub(pool, command, add())
                     end
      end

      assert_raise ArgumentError, ~r/a stub of "add": expected a function/, fn -> stub(pool, "add", 5) end
      assert_raise Error, ~r/there is no pool :no_such_pool/, fn -> stub(:no_such_pool, "add", add()) end
      empty = fake!(tools: %{})

      assert {:error, %Error{reason: :unknown_command, message: message}} =
               Snakepit.execute("x", %{}, pool: empty)

      assert message =~ "it has none: Snakepit.Test.stub/3"
      stub(empty, "x", fn -> 1 end)
      assert {:ok, 1} = Snakepit.execute("x", %{}, pool: empty)
      real = pool!()
      assert_raise ArgumentError, ~r/is none of fake tools/, fn -> stub(real, "add", add()) end
    end
  end

  describe "assert_called/2" do
    setup do: %{pool: fake!(tools: %{"add" => tool(add(), params: [a: :int, b: :int]), "waits" => waits()})}

    test "is true of each call that belongs to this process, once", %{pool: pool} do
      watch(pool)
      {:ok, 3} = Snakepit.execute(:add, %{a: 1, b: 2}, pool: pool)
      {:ok, 5} = Task.await(Task.async(fn -> Snakepit.execute("add", %{a: 2, b: 3}, pool: pool) end))
      {:error, _} = Snakepit.execute("add", %{a: 1}, pool: pool)
      assert_called("add", %{"a" => 2})
      assert_called(:add, %{"b" => b})
      assert b == 2
      refute_called("add")
      task = call(pool, "waits", %{x: 1})
      assert_called("waits")
      send(running(), {:return, 1})
      Task.await(task)
      {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      assert_raise ExUnit.AssertionError, fn -> refute_called("add", %{"a" => 1}) end
    end

    test "says that nobody watches", %{pool: pool} do
      {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      assert_raise ArgumentError, ~r/call Snakepit.Test.watch\/1/, fn -> assert_called("add") end
      refute_received {:snakepit_called, _, _}
    end
  end

  test "functions for fake tools are errors elsewhere" do
    for fun <- [&session/0, &correlation_id/0, fn -> put_session(1, 2) end],
        do: assert_raise(ArgumentError, ~r/this is for fake tools/, fun)
  end
end

defmodule Snakepit.TestTest.Stranger do
  # Neither callers nor ancestors connect it with a test: another process starts it, which is gone by then.
  use GenServer

  @impl true
  def init(argument) do
    Process.put(:"$ancestors", [])
    if argument, do: {:ok, argument, {:continue, :run}}, else: {:ok, nil}
  end

  @impl true
  def handle_continue(:run, {test, ref, fun}) do
    send(test, {ref, fun.()})
    {:stop, :normal, nil}
  end

  @impl true
  def handle_call(fun, _from, state), do: {:reply, fun.(), state}
end
