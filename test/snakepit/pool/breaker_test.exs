defmodule Snakepit.Pool.BreakerTest do
  # Breakers of real pools, opened by real faults.
  use Snakepit.Case, async: true
  alias Snakepit.{Breaker, Pool}

  @sure [minimum_calls: 3, open_ms: 60_000]
  # 512 KiB in each direction.
  @small [chunk_size: "256KB", memory_quota: "1MB"]

  defp breakers(pool) do
    {:ok, %{breakers: breakers}} = Snakepit.get_stats(pool)
    breakers
  end

  # grpcio is found, but cannot be loaded while `broken` exists.
  defp broken_grpc(dir, options) do
    broken = Path.join(dir, "broken")
    File.write!(broken, "")

    File.write!(Path.join(dir, "grpc.py"), """
    import os, sys, importlib
    if os.path.exists(#{inspect(broken)}):
        raise ImportError('broken')
    # Out of the way of the real one.
    sys.path.remove(#{inspect(dir)})
    del sys.modules['grpc']
    sys.modules['grpc'] = importlib.import_module('grpc')
    """)

    %{python_path: [tools]} = pool_options([])
    {pool!([python_path: [tools, dir]] ++ options), fn -> File.rm!(broken) end}
  end

  defp grpc(pool), do: Snakepit.execute("pid", %{}, pool: pool, transfer: :grpc)

  describe "gRPC that cannot start" do
    @describetag :tmp_dir

    test "is left alone: forced calls are refused at once, and say when it is tried again", %{tmp_dir: dir} do
      {pool, _mend} = broken_grpc(dir, breaker: @sure)
      for _ <- 1..3, do: assert({:error, %Error{reason: :unavailable}} = grpc(pool))

      assert {:error, %Error{category: :transfer, reason: :breaker_open, pool: ^pool} = error} = grpc(pool)
      assert %{way: :grpc, retry_in_ms: ms} = error.details
      assert ms in 1..60_000
      assert error.message =~ "tried again in #{ms} ms"

      assert {:error, %Error{reason: :breaker_open}} =
               Snakepit.execute("pid", %{}, pool: pool, reply_transfer: :grpc)

      # The worker is none the worse, and other ways are open.
      assert {:ok, _} = Snakepit.execute("pid", %{}, pool: pool)
      assert %{grpc: %{state: :open, failures: 3, opened: 1}, zero_copy: %{state: :closed}} = breakers(pool)
    end

    test "is passed over by calls that may go another way", %{tmp_dir: dir} do
      {pool, _mend} = broken_grpc(dir, breaker: @sure, transfers: [:grpc, :zero_copy])
      for _ <- 1..3, do: {:error, _} = grpc(pool)
      args = %{x: Snakepit.bytes(:binary.copy("x", 10_000))}
      # Nothing else is left to these: it is tried all the same.
      assert {:error, %Error{reason: :unavailable}} =
               Snakepit.execute("length", args, pool: pool, zero_copy: false)

      Snakepit.isolate_way(pool, :zero_copy)
      assert {:error, %Error{reason: :unavailable}} = Snakepit.execute("length", args, pool: pool)
      Snakepit.reset_way(pool, :zero_copy)
      assert {:ok, 10_000} = Snakepit.execute("length", args, pool: pool)
    end

    test "is tried by one call at a time, and used again when that succeeds", %{tmp_dir: dir} do
      {pool, mend} = broken_grpc(dir, breaker: [minimum_calls: 3, open_ms: 20])
      for _ <- 1..3, do: {:error, %Error{reason: :unavailable}} = grpc(pool)
      # A probe that fails opens it for longer.
      assert eventually(fn -> match?({:error, %Error{reason: :unavailable}}, grpc(pool)) end)
      assert %{failed_probes: failed, opened: opened} = breakers(pool).grpc
      assert failed >= 1 and opened == failed + 1
      mend.()
      assert eventually(fn -> match?({:ok, _}, grpc(pool)) end)
      assert %{state: :closed, failed_probes: 0} = breakers(pool).grpc
      for _ <- 1..5, do: assert({:ok, _} = grpc(pool))
    end
  end

  describe "memory that is used up" do
    # Keeps the whole quota, as whoever holds shared binaries does.
    defp hold(pool) do
      me = self()

      pid =
        spawn_link(fn ->
          shared = for _ <- 1..4, do: Snakepit.share(:binary.copy("x", 125_000), pool: pool)
          send(me, {:held, Enum.all?(shared, &match?({:ok, _}, &1))})
          receive do: (:let_go -> shared)
        end)

      assert_receive {:held, true}, 10_000
      fn -> send(pid, :let_go) end
    end

    test "opens shared memory: calls go inline and ask for none, until a probe finds some" do
      pool = pool!([breaker: [minimum_calls: 3, open_ms: 20]] ++ @small)
      let_go = hold(pool)

      call = fn ->
        Snakepit.observe("length", %{x: Snakepit.bytes(:binary.copy("y", 120_000))}, pool: pool)
      end

      assert eventually(fn ->
               assert {{:ok, 120_000}, %{request_way: :inline, fallback: true}} = call.()
               breakers(pool).zero_copy.opened > 0
             end)

      assert eventually(fn ->
               {{:ok, 120_000}, _} = call.()
               breakers(pool).zero_copy.failed_probes > 0
             end)

      let_go.()
      assert eventually(fn -> match?({{:ok, 120_000}, %{request_way: :zero_copy}}, call.()) end)
      assert %{state: :closed} = breakers(pool).zero_copy
    end

    test "forced calls count, but not those that could never have room" do
      pool = pool!([breaker: @sure] ++ @small)
      forced = [pool: pool, request_transfer: :zero_copy]
      huge = %{x: Snakepit.bytes(:binary.copy("x", 2_000_000))}
      for _ <- 1..5, do: {:error, %Error{reason: :quota}} = Snakepit.execute("length", huge, forced)
      for _ <- 1..5, do: {:ok, _} = Snakepit.execute("length", huge, pool: pool)
      assert %{state: :closed, failures: 0} = breakers(pool).zero_copy

      _let_go = hold(pool)
      large = %{x: Snakepit.bytes(:binary.copy("x", 400_000))}
      for _ <- 1..3, do: {:error, %Error{reason: :quota}} = Snakepit.execute("length", large, forced)
      assert {:error, %Error{reason: :breaker_open}} = Snakepit.execute("length", large, forced)
      assert {{:ok, 400_000}, %{request_way: :inline}} = Snakepit.observe("length", large, pool: pool)
    end
  end

  test "tools that raise, callers' mistakes and deadlines open nothing" do
    pool = pool!(breaker: [minimum_calls: 1, failure_ratio: 0.01])
    args = %{x: Snakepit.bytes(:binary.copy("x", 10_000))}

    for way <- [:zero_copy, :grpc] do
      opts = [pool: pool, transfer: way]
      assert {:error, %Error{category: :python_error}} = Snakepit.execute("fail", %{}, opts)
      assert {:error, %Error{category: :validation}} = Snakepit.execute("no_such_tool", args, opts)
      sleep = %{code: "__import__('time').sleep(30)"}

      assert {:error, %Error{category: :timeout}} =
               Snakepit.execute("python_value", sleep, [timeout: 100] ++ opts)

      assert {:ok, 10_000} = Snakepit.execute("length", args, opts)
      assert %{^way => %{state: :closed, failures: 0, calls: calls}} = breakers(pool)
      assert calls >= 3
    end
  end

  test "calls slower than :slow_ms count, without what the tool took" do
    pool = pool!(breaker: [minimum_calls: 1, slow_ms: 800, open_ms: 60_000])
    opts = [pool: pool, transfer: :zero_copy]
    # The time is the tool's own.
    assert {:ok, _} = Snakepit.execute("python_value", %{code: "x = __import__('time').sleep(1.2)"}, opts)
    assert %{zero_copy: %{state: :closed, calls: 1, failures: 0}} = breakers(pool)
    # The worker is stopped for a while, before it gets to the tool.
    os_pid = Snakepit.execute!("pid", %{}, pool: pool)
    System.cmd("kill", ["-STOP", "#{os_pid}"])
    task = Task.async(fn -> Snakepit.execute("add", %{a: 1, b: 2}, opts) end)
    Process.sleep(1_300)
    System.cmd("kill", ["-CONT", "#{os_pid}"])
    assert Task.await(task) == {:ok, 3}
    assert %{zero_copy: %{state: :open}} = breakers(pool)
  end

  describe "by hand" do
    test "an isolated way is used neither for requests nor for replies, until it is reset" do
      pool = pool!()
      data = :binary.copy("x", 100_000)
      call = fn opts -> Snakepit.observe("fresh", %{x: Snakepit.bytes(data)}, [pool: pool] ++ opts) end
      assert eventually(fn -> match?({_, %{request_way: :zero_copy, reply_way: :zero_copy}}, call.([])) end)
      assert Snakepit.isolate_way(pool, :zero_copy) == :ok
      assert breakers(pool).zero_copy.state == :isolated
      for _ <- 1..5, do: assert({{:ok, ^data}, %{request_way: :inline, reply_way: :inline}} = call.([]))

      for opts <- [[transfer: :zero_copy], [request_transfer: :zero_copy], [reply_transfer: :zero_copy]] do
        assert {{:error, %Error{category: :transfer, reason: :breaker_open} = error}, _} = call.(opts)
        assert error.message =~ "isolated"
      end

      assert Snakepit.reset_way(pool, :zero_copy) == :ok
      assert {{:ok, ^data}, %{request_way: :zero_copy}} = call.(transfer: :zero_copy)
    end

    test "the only way of a pool, too" do
      pool = pool!(transfers: [:zero_copy])
      Snakepit.isolate_way(pool, :zero_copy)
      assert {:error, %Error{reason: :breaker_open}} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      Snakepit.reset_way(pool, :zero_copy)
      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
    end

    test "inline is never isolated, and pools and ways must exist" do
      pool = pool!()
      assert {:error, %Error{category: :validation, message: message}} = Snakepit.isolate_way(pool, :inline)
      assert message =~ "#{inspect(pool)}: expected :way to be one of :zero_copy, :grpc, got: :inline"
      assert {:error, %Error{reason: :invalid_option}} = Snakepit.reset_way(pool, :pigeon)
      assert {:error, %Error{reason: :unknown_pool}} = Snakepit.isolate_way(:no_such_pool, :grpc)
    end
  end

  describe "workers that die young" do
    test "run_ended/4: five deaths within a minute open a worker's breaker, a long life closes it" do
      breaker = Breaker.new([0, 1], Map.merge(Pool.Deaths.worker_breaker(), %{now: 0}))
      for _ <- 1..4, do: Pool.Deaths.run_ended(breaker, 0, 100, 1_000)
      # Another's.
      Pool.Deaths.run_ended(breaker, 1, 100, 1_000)
      assert Breaker.state(breaker, 0, 1_000) == :closed
      Pool.Deaths.run_ended(breaker, 0, 29_999, 2_000)
      assert Breaker.state(breaker, 0, 2_000) == :open
      assert Breaker.state(breaker, 1, 2_000) == :closed
      Pool.Deaths.run_ended(breaker, 0, 30_000, 3_000)
      assert Breaker.state(breaker, 0, 3_000) == :closed
    end

    # Ends at its import, and so before it is ready, while `broken` exists.
    defp breakable(dir, options \\ []) do
      broken = Path.join(dir, "broken")

      {:ok, pool} =
        source_pool(
          dir,
          """
          import os
          from snakepit import tool
          if os.path.exists(#{inspect(broken)}):
              os._exit(9)

          @tool
          def one(): return 1
          """,
          options
        )

      {pool, broken}
    end

    defp kill(pool) do
      for %{os_pid: pid} <- Snakepit.list_workers(pool),
          do: {_, 0} = System.cmd("kill", ["-9", to_string(pid)])
    end

    @tag :tmp_dir
    test "when none is left, callers in line and new ones are refused at once, and say why", %{tmp_dir: dir} do
      {pool, broken} = breakable(dir, size: 2)
      File.write!(broken, "")
      kill(pool)
      eventually(fn -> match?({:ok, %{workers_up: 0}}, Snakepit.get_stats(pool)) end)

      waiting =
        for _ <- 1..3, do: Task.async(fn -> Snakepit.execute("one", %{}, pool: pool, timeout: 60_000) end)

      for {:error, error} <- Task.await_many(waiting, 60_000) do
        assert %Error{category: :pool, reason: :breaker_open} = error
        assert error.message =~ "died young"
        assert error.message =~ "no worker is up"
        assert error.message =~ "status 9"
      end

      assert {:error, %Error{reason: :breaker_open}} = Snakepit.execute("one", %{}, pool: pool)

      # The next worker that is ready closes it.
      File.rm!(broken)
      assert eventually(fn -> match?({:ok, 1}, Snakepit.execute("one", %{}, pool: pool)) end, 6_000)

      assert {:ok, %{breakers: %{workers: %{0 => %{opened: 1}, 1 => %{opened: 1}}}}} =
               Snakepit.get_stats(pool)
    end

    @tag :tmp_dir
    test "those that are killed without a call count, too", %{tmp_dir: dir} do
      {pool, _broken} = breakable(dir)

      for n <- 1..4 do
        kill(pool)
        eventually(fn -> match?([%{restarts: ^n, status: :ready}], Snakepit.list_workers(pool)) end)
      end

      assert %{workers: %{0 => %{state: :closed, failures: 4}}} = breakers(pool)
    end

    test "those ended for a caller's sake do not count" do
      pool = pool!()

      for _ <- 1..6 do
        {:error, %Error{category: :timeout}} =
          Snakepit.execute("python_value", %{code: "__import__('time').sleep(30)"}, pool: pool, timeout: 100)
      end

      assert %{workers: %{0 => %{state: :closed, failures: 0}}} = breakers(pool)
    end
  end
end
