defmodule SnakepitTest do
  # The public face, as the documentation has it.
  use Snakepit.Case, async: true

  # The moduledoc is the README, which has a test of its own.
  doctest Snakepit, except: [:moduledoc]

  setup_all do
    %{pool: pool!(size: 2)}
  end

  test "commands and argument names are strings or atoms", %{pool: pool} do
    assert Snakepit.execute(:add, %{a: 1, b: 2}, pool: pool) == {:ok, 3}
    assert Snakepit.execute("add", %{"a" => 1, b: 2}, pool_name: pool) == {:ok, 3}
    assert Snakepit.execute("pid", %{}, %{pool: pool}) |> elem(0) == :ok
    assert Snakepit.execute!("add", %{a: 1, b: 2}, pool: pool) == 3
    error = assert_raise Error, fn -> Snakepit.execute!("fail", %{message: "boom"}, pool: pool) end
    assert Exception.message(error) =~ "Traceback"
  end

  describe "map/3" do
    test "answers in order, with errors in their places", %{pool: pool} do
      items = for n <- 1..50, do: if(rem(n, 10) == 0, do: %{a: n}, else: %{a: n, b: n})
      results = Snakepit.map(items, "add", pool: pool)
      assert length(results) == 50

      for {result, n} <- Enum.with_index(results, 1) do
        if rem(n, 10) == 0,
          do: assert({:error, %Error{reason: :missing_argument}} = result),
          else: assert(result == {:ok, 2 * n})
      end

      assert Snakepit.map([], "add", pool: pool) == []

      assert Snakepit.map(Stream.map(1..3, &%{a: &1, b: 0}), "add", pool: pool) == [
               {:ok, 1},
               {:ok, 2},
               {:ok, 3}
             ]
    end

    test "returns one error if no item can be called" do
      assert {:error, %Error{reason: :unknown_pool}} = Snakepit.map([%{}, %{}], "add", pool: :no_such_pool)

      for {option, near} <- [timout: ":timeout", max_concurrecy: ":max_concurrency"] do
        assert {:error, %Error{reason: :invalid_option, message: message}} =
                 Snakepit.map([%{}], "add", [{option, 2}])

        assert message =~ "did you mean #{near}?"
      end

      for bad <- [0, "2", nil] do
        assert {:error, %Error{reason: :invalid_option}} = Snakepit.map([%{}], "add", max_concurrency: bad)
      end
    end

    @tag :tmp_dir
    test "uses every worker of the pool at once", %{pool: pool, tmp_dir: dir} do
      paths = for n <- 1..2, do: Path.join(dir, "started-#{n}")
      # Each waits for the other to have begun.
      items = [
        %{started: Enum.at(paths, 0), go_on: Enum.at(paths, 1)},
        %{started: Enum.at(paths, 1), go_on: Enum.at(paths, 0)}
      ]

      assert Snakepit.map(items, "touch_and_wait", pool: pool) == [{:ok, true}, {:ok, true}]
    end

    test "with a larger :max_concurrency only waits in the queue", %{pool: pool} do
      items = for n <- 1..20, do: %{a: n, b: 0}
      assert Snakepit.map(items, "add", pool: pool, max_concurrency: 20) == for(n <- 1..20, do: {:ok, n})
    end
  end

  test "observe/3 returns what a call cost", %{pool: pool} do
    {{:ok, _}, seen} =
      Snakepit.observe("length", %{x: Snakepit.bytes(:binary.copy("x", 10_000))},
        pool: pool,
        transfer: :inline
      )

    assert %{
             pool: ^pool,
             command: "length",
             request_way: :inline,
             reply_way: :inline,
             request_bytes: 10_000,
             copied_bytes: 0
           } = seen

    assert seen.worker =~ to_string(pool)
    assert seen.total_ns >= seen.tool_ns + seen.queue_ns + seen.gil_ns and seen.tool_ns > 0

    assert {{:error, %Error{}}, %Snakepit.Observation{request_way: nil}} =
             Snakepit.observe("x", %{}, pool: :no_such_pool)
  end

  test "observe/3 tells how long a call waited for Python's lock" do
    pool = pool!()

    # A thread that never gives the lock up by itself: others get it after the interval, and not before.
    hold = """
    import sys, threading, time
    sys.setswitchinterval(0.02)
    until = time.monotonic() + 3
    def hold():
        while time.monotonic() < until:
            pass
    threading.Thread(target=hold).start()
    x = 1
    """

    assert {:ok, 1} = Snakepit.execute("python_value", %{code: hold}, pool: pool)

    waits =
      for n <- 1..5 do
        assert {{:ok, ^n}, seen} = Snakepit.observe("identity", %{x: n}, pool: pool)
        assert seen.gil_ns <= seen.total_ns
        seen.gil_ns
      end

    assert Enum.max(waits) > 1_000_000
  end

  test "a value has a way of its own from 16 KiB on, unless the pool says otherwise" do
    pool = pool!(inline_limit: 16 * 1024)
    {:ok, options} = Snakepit.Pool.Options.new(name: :any, python_module: "any")
    assert options.inline_limit == 16 * 1024

    for {size, beside} <- [{16 * 1024 - 1, 0}, {16 * 1024, 16 * 1024}] do
      value = Snakepit.bytes(:binary.copy("x", size))
      assert {{:ok, "memoryview"}, seen} = Snakepit.observe("type_name", %{x: value}, pool: pool)
      assert seen.request_bytes == beside
    end
  end

  test "a pool answers whether or not its callers and workers spin" do
    for us <- [0, 1, 200] do
      pool = pool!(busy_poll: us)
      {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)
      assert is_reference(handle.busy_poll) == (us > 0 and Snakepit.Machine.cores_by_quota() > 1)
      for n <- 1..50, do: assert(Snakepit.execute("add", %{a: n, b: 1}, pool: pool) == {:ok, n + 1})

      for n <- [1, 5_000, 500_000], value = Snakepit.bytes(:binary.copy("x", n)) do
        assert {:ok, ^n} = Snakepit.execute("length", %{x: value}, pool: pool)
      end
    end

    {:error, error} = Snakepit.start_pool(name: :spins, python_module: "any", busy_poll: 501)
    assert error.message =~ ":busy_poll"
  end

  test "get_stats/1 counts calls" do
    pool = pool!()

    for way <- Snakepit.Transfer.ways(),
        do:
          {:ok, _} =
            Snakepit.execute("fresh", %{x: Snakepit.bytes(:binary.copy("x", 5000))}, pool: pool, transfer: way)

    {:error, _} = Snakepit.execute("fail", %{}, pool: pool)
    assert {:ok, stats} = Snakepit.get_stats(pool)
    assert %{calls: 4, errors: 1, status: :ready, workers_up: 1, pool: ^pool} = stats

    assert %{request_inline: 2, request_zero_copy: 1, request_grpc: 1, reply_zero_copy: 1, reply_grpc: 1} =
             stats

    assert stats.copied_bytes == 5000 and stats.request_bytes >= 15_000 and stats.reply_bytes >= 15_000
    assert {:error, %Error{reason: :unknown_pool}} = Snakepit.get_stats(:no_such_pool)
    assert %Error{reason: :unknown_pool, message: message} = catch_error(Snakepit.list_workers(:no_such_pool))
    assert message =~ "there is no pool :no_such_pool"
    assert pool in Enum.map(Snakepit.list_workers(), & &1[:pool])
  end

  describe "another VM" do
    # As a user's script: nothing of this VM is there.
    defp script(code) do
      args = ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
      System.cmd(System.find_executable("elixir"), args, stderr_to_stdout: true)
    end

    test "run_as_script/2 answers, and leaves no worker behind" do
      {out, 0} =
        script("""
        pools = [#{inspect(pool_options(name: :first))}, #{inspect(pool_options(name: :second))}]
        {result, pids} = Snakepit.run_as_script(fn ->
          {Snakepit.execute!("add", %{a: 1, b: 2}), Enum.map(Snakepit.list_workers(), & &1.os_pid)}
        end, pools: pools)
        alive = Enum.filter(pids, &File.exists?("/proc/\#{&1}"))
        IO.inspect({:said, result, length(pids), alive})
        """)

      # The first pool is the default one.
      assert out =~ "{:said, 3, 2, []}"
    end

    test "run_as_script/2 stops everything when its function raises" do
      {out, 0} =
        script("""
        pool = #{inspect(pool_options(name: :first))}
        me = self()
        try do
          Snakepit.run_as_script(fn -> send(me, hd(Snakepit.list_workers()).os_pid); raise "mine" end, pools: [pool])
        rescue
          error -> receive do: (pid -> IO.inspect({:said, error.message, File.exists?("/proc/\#{pid}")}))
        end
        """)

      assert out =~ ~s({:said, "mine", false})
    end

    test "run_as_script/2 with halt: true ends the VM, with a status that says how it went" do
      assert {_, 0} = script("Snakepit.run_as_script(fn -> :fine end, halt: true); System.halt(7)")
      assert {_, 1} = script("Snakepit.run_as_script(fn -> {:error, :no} end, halt: true); System.halt(7)")

      bad =
        "Snakepit.run_as_script(fn -> :fine end, halt: true, pools: [%{name: :x, python_module: \"no_such_module\"}])"

      assert {_, 1} = script(bad <> "; System.halt(7)")

      {out, 0} = script("IO.inspect(Snakepit.run_as_script(fn -> :fine end, pools: [%{name: :x}]))")
      assert out =~ ":python_module is required"
    end

    test "pools of the configuration: the first is the default, one that fails does not keep the others" do
      {out, 0} =
        script("""
        pools = [#{inspect(pool_options(name: :first))}, %{name: :bad, size: 1, python_module: "no_such_module"}]
        Application.put_env(:snakepit, :pools, pools)
        {:ok, _} = Application.ensure_all_started(:snakepit)
        :ok = Snakepit.Pool.await_ready(:first)
        {:error, _} = Snakepit.Pool.await_ready(:bad)
        {:error, error} = Snakepit.execute("x", %{}, pool: :bad)
        IO.inspect({:said, Snakepit.execute("add", %{a: 1, b: 2}), error.python_type})
        Application.stop(:snakepit)
        """)

      assert out =~ ~s({:said, {:ok, 3}, "ModuleNotFoundError"})
    end

    test "a wrong configuration keeps the application from starting, with the reason" do
      {out, 0} =
        script("""
        Application.put_env(:snakepit, :pols, [])
        {:error, {:snakepit, why}} = Application.ensure_all_started(:snakepit)
        IO.inspect(why, limit: :infinity, printable_limit: :infinity)
        """)

      assert out =~ "did you mean :pools?"
    end

    test "without any pool, the error of a call says what to do" do
      {out, 0} =
        script("""
        {:ok, _} = Application.ensure_all_started(:snakepit)
        {:error, error} = Snakepit.execute("add", %{a: 1})
        IO.puts(error.message)
        """)

      assert out =~ "no pool is configured"
      assert out =~ "start_pool"
    end
  end
end
