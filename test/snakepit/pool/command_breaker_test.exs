defmodule Snakepit.Pool.CommandBreakerTest do
  # A tool that kills its workers is its command's affair, not the pool's.
  use Snakepit.Case, async: true
  import ExUnit.CaptureLog
  alias Snakepit.Pool.CommandBreaker

  @segv "the worker was killed by signal 11 (SIGSEGV)"

  defp segfault(pool, opts \\ []), do: Snakepit.execute("segfaults", %{}, [pool: pool] ++ opts)
  defp pid(pool, opts \\ []), do: Snakepit.execute("pid", %{}, [pool: pool] ++ opts)
  defp misbehaving_workers!(options \\ []), do: pool!([python_module: "misbehaving_workers"] ++ options)

  defp commands(pool) do
    {:ok, %{breakers: %{commands: commands}}} = Snakepit.get_stats(pool)
    commands
  end

  # On a machine that is slow just now, the time until a trial may pass between two calls.
  defp until_refused(fun) do
    eventually(fn ->
      case fun.() do
        {:error, %Error{reason: :command_breaker_open} = error} -> error
        {:error, %Error{reason: :lost}} -> false
      end
    end)
  end

  describe "which command is blamed" do
    setup do
      %{breaker: CommandBreaker.new(2, random: fn -> 1.0 end)}
    end

    defp allowed?(breaker, command), do: match?({:ok, _}, CommandBreaker.allow(breaker, command))

    # As a caller of a command that has a row reports it.
    defp answered(breaker, command, times) do
      for _ <- 1..times do
        {:ok, suspect} = CommandBreaker.allow(breaker, command)
        :ok = CommandBreaker.record(breaker, suspect, {:ok, 1})
      end
    end

    test "the third death of one opens its breaker, and no other", %{breaker: b} do
      assert CommandBreaker.allow(b, "bad") == {:ok, nil}
      for _ <- 1..2, do: assert(CommandBreaker.died(b, ["bad"], @segv) == {["bad"], []})
      assert allowed?(b, "bad")
      assert CommandBreaker.died(b, ["bad"], @segv) == {["bad"], ["bad"]}
      refute allowed?(b, "bad")
      assert CommandBreaker.allow(b, "good") == {:ok, nil}
      assert %{"bad" => %{deaths: 3, last: @segv, state: :open}} = CommandBreaker.explain(b)

      assert %Error{
               category: :pool,
               reason: :command_breaker_open,
               command: "bad",
               details: details,
               message: message
             } = CommandBreaker.refused(b, :ml, "bad")

      assert %{deaths: 3, last: @segv, retry_in_ms: ms} = details
      assert ms in 1..1_000
      for part <- [":ml", "\"bad\"", "3 workers", @segv, "in #{ms} ms"], do: assert(message =~ part)
      assert CommandBreaker.reset(b, "bad")
      assert CommandBreaker.allow(b, "bad") == {:ok, nil}
    end

    test "a pool of many workers bears as many deaths" do
      b = CommandBreaker.new(8)
      for _ <- 1..7, do: assert({_, []} = CommandBreaker.died(b, ["bad"], @segv))
      assert {_, ["bad"]} = CommandBreaker.died(b, ["bad"], @segv)
    end

    test "deaths that are few among its calls do not open it: something else kills the workers", %{breaker: b} do
      {_, []} = CommandBreaker.died(b, ["busy"], @segv)
      answered(b, "busy", 50)
      for _ <- 1..9, do: assert({["busy"], []} = CommandBreaker.died(b, ["busy"], @segv))
      assert allowed?(b, "busy")
    end

    test "of several that ran, the one most of whose calls ended so; the one begun last, if that is not known",
         %{
           breaker: b
         } do
      assert {["good"], []} = CommandBreaker.died(b, ["good", "bad", "good"], @segv)
      answered(b, "good", 20)
      assert {["bad"], []} = CommandBreaker.died(b, ["good", "bad"], @segv)
      # One that was never seen before is as suspect, but that it ended fewer.
      assert {["bad"], []} = CommandBreaker.died(b, ["new", "good", "bad"], @segv)
      assert {["bad"], ["bad"]} = CommandBreaker.died(b, ["good", "bad"], @segv)
      assert Map.keys(CommandBreaker.explain(b)) == ["bad", "good"]
    end

    test "a long call that dies with every short one that kills is not to blame", %{breaker: b} do
      for _ <- 1..2, do: assert({["short"], []} = CommandBreaker.died(b, ["short", "long"], @segv))
      assert {["short"], ["short"]} = CommandBreaker.died(b, ["short", "long"], @segv)
      assert Map.keys(CommandBreaker.explain(b)) == ["short"]
    end

    test "one that is on trial is blamed before all others", %{breaker: b} do
      for _ <- 1..3, do: CommandBreaker.died(b, ["bad"], @segv)
      for _ <- 1..2, do: CommandBreaker.died(b, ["other"], @segv)
      later = System.monotonic_time(:millisecond) + 2_000
      assert {["bad"], []} = CommandBreaker.died(b, ["other", "bad"], @segv, later)
    end

    test "more commands than there are rows: those that are closed give theirs up, then nobody is blamed", %{
      breaker: b
    } do
      for n <- 1..64, do: assert({[_], []} = CommandBreaker.died(b, ["f#{n}"], @segv))
      assert {[], []} = CommandBreaker.died(b, ["one more"], @segv)
      assert CommandBreaker.allow(b, "one more") == {:ok, nil}
      later = System.monotonic_time(:millisecond) + 2 * CommandBreaker.window_ms()
      for _ <- 1..3, do: CommandBreaker.died(b, ["one more"], @segv, later)
      assert %{"one more" => %{deaths: 3, opened: 1}} = open = CommandBreaker.explain(b)
      assert map_size(open) == 1
      # A row that was another's starts with no counts.
      assert open["one more"].refused == 0
    end

    test "a command that ended none for a minute costs nothing again", %{breaker: b} do
      CommandBreaker.died(b, ["bad"], @segv)
      assert {:ok, {_row, nil}} = CommandBreaker.allow(b, "bad")
      assert CommandBreaker.forget(b) == 1

      assert CommandBreaker.forget(b, System.monotonic_time(:millisecond) + 2 * CommandBreaker.window_ms()) ==
               0

      assert CommandBreaker.allow(b, "bad") == {:ok, nil}
    end
  end

  test "a tool that segfaults again and again: no call of another command is refused" do
    pool = misbehaving_workers!(size: 2)

    {bad, good} =
      Enum.unzip(
        for _ <- 1..30 do
          bad = Task.async(fn -> segfault(pool) end)
          good = for _ <- 1..2, do: Task.async(fn -> pid(pool) end)
          {Task.await(bad, 60_000), Task.await_many(good, 60_000)}
        end
      )

    # One that waits in a worker's lane when that dies is lost with it, but a lane has one call.
    assert Enum.all?(List.flatten(good), &match?({:ok, _}, &1))
    refused = for {:error, %Error{reason: :command_breaker_open} = error} <- bad, do: error
    lost = for {:error, %Error{category: :worker, reason: :lost}} <- bad, do: :lost
    assert length(refused) + length(lost) == 30
    assert length(lost) == 3 + commands(pool)["segfaults"].failed_probes
    assert hd(refused).message =~ "SIGSEGV"
    assert {:ok, %{breakers: %{workers: workers}}} = Snakepit.get_stats(pool)
    for {_, worker} <- workers, do: assert(%{state: :closed, failures: 0} = worker)
  end

  test "callers that wait for a lane when the breaker opens cost no worker" do
    pool = misbehaving_workers!()
    tasks = for _ <- 1..12, do: Task.async(fn -> segfault(pool, timeout: 60_000) end)
    reasons = for {:error, error} <- Task.await_many(tasks, 60_000), do: error.reason
    %{failed_probes: trials, deaths: deaths} = commands(pool)["segfaults"]
    assert deaths == 3 + trials
    assert Enum.frequencies(reasons) == %{lost: deaths, command_breaker_open: 12 - deaths}
  end

  test "a retry of a call whose breaker just opened does not burn another worker" do
    pool = misbehaving_workers!()
    assert {:error, %Error{reason: reason}} = segfault(pool, idempotent: true)
    %{failed_probes: trials, deaths: deaths} = commands(pool)["segfaults"]
    assert deaths == 3 + trials
    # Of four tries one was refused, if it did not become a trial.
    assert reason == if(deaths == 3, do: :command_breaker_open, else: :lost)
  end

  test "streams, sessions and calls by gRPC count as well" do
    pool = misbehaving_workers!(size: 2)
    assert {:error, %Error{reason: :lost}} = segfault(pool, session_id: "s")
    assert commands(pool)["segfaults"].deaths == 1
    assert {:error, %Error{reason: :lost}} = segfault(pool, transfer: :grpc)
    assert commands(pool)["segfaults"].deaths == 2
    assert {:error, %Error{reason: :lost}} = Snakepit.execute_stream("segfaults", %{}, & &1, pool: pool)
    assert %{deaths: 3, opened: 1} = commands(pool)["segfaults"]
    assert until_refused(fn -> segfault(pool, session_id: "s") end)
    # By gRPC it was the worker that failed, not the way.
    assert {:ok, %{breakers: %{grpc: %{failures: 0}}}} = Snakepit.get_stats(pool)
  end

  @tag :tmp_dir
  test "a worker that dies after its caller did", %{tmp_dir: dir} do
    {:ok, pool} =
      source_pool(dir, """
      import ctypes, time
      from snakepit import tool

      @tool
      def segfaults_when_cancelled(started):
          open(started, "w").close()
          try:
              time.sleep(600)
          except BaseException:
              ctypes.string_at(0)
      """)

    for n <- 1..3 do
      started = Path.join(dir, "started-#{n}")

      caller = spawn(fn -> Snakepit.execute("segfaults_when_cancelled", %{started: started}, pool: pool) end)

      eventually(fn -> File.exists?(started) end)
      Process.exit(caller, :kill)
      eventually(fn -> match?(%{"segfaults_when_cancelled" => %{deaths: ^n}}, commands(pool)) end)
    end

    assert %{opened: 1} = commands(pool)["segfaults_when_cancelled"]
  end

  @tag :tmp_dir
  test "once mended, one call tries it, and the breaker closes", %{tmp_dir: dir} do
    broken = Path.join(dir, "broken")
    File.write!(broken, "")

    {:ok, pool} =
      source_pool(dir, """
      import os
      from snakepit import tool

      @tool
      def exits_while_broken():
          if os.path.exists(#{inspect(broken)}):
              os._exit(9)
          return "mended"
      """)

    call = fn -> Snakepit.execute("exits_while_broken", %{}, pool: pool) end
    for _ <- 1..3, do: assert({:error, %Error{reason: :lost}} = call.())
    assert until_refused(call).message =~ "status 9"
    # The trial fails, and a death is counted; then it is mended.
    assert eventually(fn -> match?({:error, %Error{reason: :lost}}, call.()) end)
    %{deaths: deaths, opened: opened, failed_probes: trials} = commands(pool)["exits_while_broken"]
    assert trials >= 1 and deaths == 3 + trials and opened == 1 + trials
    File.rm!(broken)
    assert eventually(fn -> call.() == {:ok, "mended"} end)
    assert %{state: :closed} = commands(pool)["exits_while_broken"]
    assert call.() == {:ok, "mended"}
  end

  test "reset by hand, and by a restart of the pool" do
    pool = misbehaving_workers!()
    for _ <- 1..3, do: segfault(pool)
    assert until_refused(fn -> segfault(pool) end)
    assert :ok = Snakepit.reset_command(pool, :segfaults)
    for _ <- 1..3, do: assert({:error, %Error{reason: :lost}} = segfault(pool))
    assert until_refused(fn -> segfault(pool) end)
    {:ok, _} = Snakepit.restart_pool(pool)
    assert commands(pool) == %{}
    assert {:error, %Error{reason: :lost}} = segfault(pool)
    assert {:error, %Error{reason: :unknown_pool}} = Snakepit.reset_command(:no_such_pool, "f")
  end

  test "a gRPC connection that cannot be made is the way's fault, neither the command's nor a dead worker's" do
    pool = pool!()
    {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)
    [{_, lane}] = :ets.tab2list(handle.lanes)
    # The channel connects when it is first used: by then its socket is gone.
    assert {:ok, _channel} = Snakepit.Worker.grpc(lane, 30_000)
    File.rm!(elem(:sys.get_state(lane.worker), 1).grpc_path)

    log =
      capture_log(fn ->
        assert {:error, %Error{category: :grpc_error, reason: :unavailable}} = pid(pool, transfer: :grpc)
      end)

    assert commands(pool) == %{}
    {:ok, %{breakers: breakers}} = Snakepit.get_stats(pool)
    assert breakers.grpc.failures == 1
    refute Enum.any?(String.split(log, "\n"), &(&1 =~ inspect(pool) and &1 =~ "closed a lane"))
  end

  test "several calls in one worker: each that ran is named in the log" do
    pool =
      misbehaving_workers!(
        worker_profile: :thread,
        threads_per_worker: 2,
        heartbeat_interval: 100,
        heartbeat_grace: 300
      )

    log =
      capture_log(fn ->
        holds = Task.async(fn -> Snakepit.execute("holds_the_gil", %{seconds: 60}, pool: pool) end)
        assert {:error, %Error{reason: :lost}} = Task.await(holds, 60_000)
      end)

    assert [line] = for(line <- String.split(log, "\n"), line =~ "pool #{inspect(pool)}:", do: line)
    assert line =~ "did not answer a heartbeat"
    assert line =~ "\"holds_the_gil\""
    # The other lane had no call, now or ever.
    refute line =~ " and \""
    assert commands(pool)["holds_the_gil"].deaths == 1
  end
end
