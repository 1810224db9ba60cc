defmodule Snakepit.WorkerTest do
  # Workers that die, and what must not outlive whom. Asserted on OS processes, not on what Snakepit says of them.
  use Snakepit.Case, async: true
  import ExUnit.CaptureLog

  # What the log says of a pool's workers while `fun` runs.
  defp lines(pool, fun) do
    log = capture_log(fun)
    for line <- String.split(log, "\n"), line =~ "pool #{inspect(pool)}:", do: line
  end

  defp os_pid(pool), do: Snakepit.execute!("pid", %{}, pool: pool)

  defp python(pool, code), do: Snakepit.execute("python_value", %{code: code}, pool: pool)

  # The pool serves again, by another OS process than `old`, which is gone. A lane is given back before its reply is
  # decoded, so that the next call may still meet a worker that broke the protocol: it fails, and says so.
  defp whole_again(pool, old) do
    assert eventually(fn -> match?({:ok, new} when new != old, Snakepit.execute("pid", %{}, pool: pool)) end)
    assert eventually(fn -> not alive?(old) end)
    assert {:ok, %{idle: 1, busy: 0, workers_up: 1}} = Snakepit.get_stats(pool)
  end

  @tag :capture_log
  test "a worker's process that is killed leaves no descriptor of a lane, and the pool goes on" do
    pool = pool!(worker_profile: :thread, threads_per_worker: 2)

    for _ <- 1..3 do
      {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)
      lanes = for {_, lane} <- :ets.tab2list(handle.lanes), do: lane
      assert length(lanes) == 2
      sockets = for lane <- lanes, do: File.read_link!("/proc/self/fd/#{lane.fd}")
      waiting = Task.async(fn -> python(pool, "import time; time.sleep(60)") end)
      assert eventually(fn -> match?({:ok, %{busy: 1}}, Snakepit.get_stats(pool)) end)
      old = hd(Snakepit.list_workers(pool)).os_pid
      Process.exit(hd(lanes).worker, :kill)
      assert {:error, %Error{category: :worker}} = Task.await(waiting, 30_000)
      assert eventually(fn -> not Enum.any?(sockets, &(&1 in open_sockets())) end)

      assert eventually(fn -> match?({:ok, new} when new != old, Snakepit.execute("pid", %{}, pool: pool)) end)

      assert eventually(fn -> not alive?(old) end)
    end
  end

  defp open_sockets do
    for fd <- File.ls!("/proc/self/fd"), {:ok, target} <- [File.read_link("/proc/self/fd/#{fd}")], do: target
  end

  describe "a worker that dies in the middle of a call" do
    for {number, name} <- [{9, "SIGKILL"}, {11, "SIGSEGV"}, {6, "SIGABRT"}] do
      test "of #{name}: the error names the signal, and the pool is whole again" do
        pool = pool!()
        old = os_pid(pool)

        assert {:error, %Error{category: :worker} = error} =
                 Snakepit.execute("die", %{signum: unquote(number)}, pool: pool)

        assert error.message =~ "signal #{unquote(number)} (#{unquote(name)})"
        assert error.worker == "#{pool}-0"
        assert error.pool == pool
        whole_again(pool, old)
        assert [%{restarts: 1, status: :ready}] = Snakepit.list_workers(pool)
      end
    end

    test "by its own decision: the error names the status" do
      pool = pool!()
      old = os_pid(pool)
      assert {:error, %Error{category: :worker} = error} = python(pool, "import os; os._exit(7)")
      assert error.message =~ "status 7"
      whole_again(pool, old)
    end

    test "with a large request under way, and with a large reply" do
      pool = pool!()
      data = Snakepit.bytes(:binary.copy("x", 8_000_000))

      for transfer <- [:inline, :zero_copy, :grpc] do
        old = os_pid(pool)

        code =
          "import os, threading, time\nthreading.Thread(target=lambda: os._exit(3)).start()\ntime.sleep(30)"

        args = %{code: code}

        assert {:error, %Error{category: category}} =
                 Snakepit.execute("python_value", args, pool: pool, transfer: transfer)

        assert category in [:worker, :grpc_error]
        whole_again(pool, old)
        assert {:ok, 8_000_000} = Snakepit.execute("length", %{x: data}, pool: pool, transfer: transfer)
      end
    end

    test "again and again: it comes back each time" do
      pool = pool!()

      pids =
        for _ <- 1..4 do
          pid = os_pid(pool)
          assert {:error, %Error{category: :worker}} = Snakepit.execute("die", %{}, pool: pool)
          Snakepit.reset_command(pool, "die")
          pid
        end

      assert length(Enum.uniq(pids)) == 4
      assert is_integer(os_pid(pool))
      for pid <- pids, do: assert(eventually(fn -> not alive?(pid) end))
    end
  end

  test "an idle worker that is killed is started again before anybody asks" do
    pool = pool!()
    old = os_pid(pool)
    {_, 0} = System.cmd("kill", ["-9", to_string(old)])

    assert eventually(fn ->
             match?(
               [%{status: :ready, os_pid: new, restarts: 1}] when new != old,
               Snakepit.list_workers(pool)
             )
           end)

    whole_again(pool, old)
  end

  test "a worker that closes its lane, and lives on, is ended" do
    pool = pool!()
    old = os_pid(pool)

    # Every socket of the worker but its control socket, which was made first.
    code = """
    import snakepit_test_tools, socket, time
    socks = snakepit_test_tools.sockets()
    for f in socks[1:]: socket.socket(fileno=f).shutdown(2)
    time.sleep(30)
    """

    assert {:error, %Error{category: :worker}} = python(pool, code)
    whole_again(pool, old)
  end

  test "a worker that writes rubbish on its lane breaks the protocol, not the VM" do
    for rubbish <- [
          "b'\\0\\0\\0\\x05hello'",
          "b'\\0\\0\\0\\0'",
          "b'\\0\\0\\0\\x40' + b'\\1' * 64",
          "os.urandom(4000)",
          "b'\\xff' * 5000"
        ] do
      pool = pool!()
      old = os_pid(pool)

      code = """
      import os, snakepit_test_tools, time
      socks = snakepit_test_tools.sockets()
      for f in socks[1:]: os.write(f, #{rubbish})
      time.sleep(30)
      """

      assert {:error, %Error{} = error} =
               Snakepit.execute("python_value", %{code: code}, pool: pool, timeout: 1_000)

      assert error.category in [:worker, :timeout], inspect({rubbish, error})
      whole_again(pool, old)
    end
  end

  test "a worker that writes rubbish on its control socket is ended and started again" do
    for rubbish <- [
          "b'\\xff' * 100",
          "b'\\0\\0\\0\\1\\xc0'",
          "b'\\0\\0\\0\\x07\\x92\\xa5hello'",
          "b'\\0\\0\\0\\x07\\x92\\xa5chunk'"
        ] do
      pool = pool!()
      old = os_pid(pool)

      code = """
      import os, snakepit_test_tools
      socks = snakepit_test_tools.sockets()
      os.write(socks[0], #{rubbish})
      x = 1
      """

      # The call itself may end before, with, or by the end of its worker.
      assert {result, _} = python(pool, code)
      assert result in [:ok, :error]
      assert eventually(fn -> not alive?(old) end) or rubbish =~ "hello"
      assert eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{}, pool: pool)) end)
    end
  end

  describe "when the pool stops" do
    test "a worker that is gone is none of those that are listed" do
      {:ok, dead} = Task.start(fn -> :ok end)
      ref = Process.monitor(dead)
      assert_receive {:DOWN, ^ref, _, _, _}
      assert Snakepit.Worker.describe(dead) == nil
    end

    test "its workers are gone, and so is what their tools started" do
      pool = pool!(size: 2)
      pids = for %{os_pid: pid} <- Snakepit.list_workers(pool), do: pid
      code = "import subprocess\nx = subprocess.Popen(['sleep', '1000']).pid"
      {:ok, child} = python(pool, code)
      assert length(pids) == 2 and Enum.all?([child | pids], &alive?/1)
      assert Snakepit.stop_pool(pool) == :ok
      refute Enum.any?(pids, &alive?/1)
      assert eventually(fn -> not alive?(child) end)
    end

    test "a worker whose exit handlers do not end is killed" do
      pool = pool!()
      pid = os_pid(pool)
      code = "import atexit, time\natexit.register(lambda: time.sleep(600))\nx = 1"

      assert {:ok, 1} = python(pool, code)
      assert Snakepit.stop_pool(pool) == :ok
      refute alive?(pid)
    end

    test "after one of its workers was killed a moment ago" do
      pool = pool!()
      old = os_pid(pool)
      Snakepit.execute("die", %{}, pool: pool)
      assert Snakepit.stop_pool(pool) == :ok
      assert eventually(fn -> not alive?(old) end)
    end
  end

  test "a child that left the worker's process group does not keep its lane open" do
    pool = pool!()
    old = os_pid(pool)
    code = "import subprocess\nx = subprocess.Popen(['sleep', '1000'], start_new_session=True).pid"
    assert {:ok, child} = python(pool, code)
    on_exit(fn -> System.cmd("kill", ["-9", to_string(child)], stderr_to_stdout: true) end)
    assert {:error, %Error{category: :worker}} = Snakepit.execute("die", %{}, pool: pool)
    whole_again(pool, old)
  end

  describe "memory of a reply that was not announced" do
    defp lane(pool) do
      {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)
      [{_, lane} | _] = :ets.tab2list(handle.lanes)
      lane
    end

    test "is waited for as long as the caller says, and the answer says why there is none" do
      lane = lane(pool!())
      assert Snakepit.Worker.await_chunk(lane, 7, 60_000) == {:error, :unknown}
      :sys.suspend(lane.worker)
      assert Snakepit.Worker.await_chunk(lane, 7, 10) == {:error, :timeout}
      :sys.resume(lane.worker)
      Process.exit(lane.worker, :kill)
      assert Snakepit.Worker.await_chunk(lane, 7, 60_000) == {:error, :gone}
    end

    test "ends its call at the call's own deadline, as any other lateness does; the pool is whole again" do
      pool = pool!()
      worker = lane(pool).worker
      # It reads no announcement.
      :sys.suspend(worker)

      assert {:error, %Error{category: :timeout}} =
               Snakepit.execute("python_value", %{code: "x = bytes(5_000_000)"},
                 pool: pool,
                 transfer: :zero_copy,
                 timeout: 1_000
               )

      :sys.resume(worker)

      assert eventually(fn ->
               match?({:ok, %{busy: 0, idle: 1, workers_up: 1}}, Snakepit.get_stats(pool))
             end)

      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
    end
  end

  test "a call that is asked about late, when its run is long over, still has its reason" do
    pool = pool!()
    {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)
    [{_, lane} | _] = :ets.tab2list(handle.lanes)
    monitor = Process.monitor(lane.worker)
    assert {:error, %Error{category: :worker}} = Snakepit.execute("die", %{signum: 11}, pool: pool)
    # The process of a run ends with it.
    assert_receive {:DOWN, ^monitor, _, _, :normal}, 30_000
    assert Snakepit.Pool.Manager.why(handle, lane, 1_000) =~ "SIGSEGV"
    assert {:error, :gone} = Snakepit.Worker.grpc(lane, 1_000)
    assert Snakepit.Pool.Manager.why(handle, %{lane | run: 0}, 1_000) == :gone
    # Its manager ends before the pool is withdrawn.
    :ok = Snakepit.stop_pool(pool)
    assert Snakepit.Pool.Manager.why(handle, lane, 1_000) == :stopping
  end

  describe "another VM" do
    @tag :tmp_dir
    test "killed by kill -9 leaves no worker, no child of a tool, and its directory to the next", %{
      tmp_dir: dir
    } do
      said = Path.join(dir, "said")

      code = """
      {:ok, _} = Application.ensure_all_started(:snakepit)
      {:ok, _} = Snakepit.start_pool(#{inspect(pool_options(name: :doomed, size: 2))})
      workers = for w <- Snakepit.list_workers(:doomed), do: w.os_pid
      child = Snakepit.execute!("python_value", %{code: "import subprocess\\nx = subprocess.Popen(['sleep', '1000']).pid"}, pool: :doomed)
      busy = Task.async(fn -> Snakepit.execute("wait_for_file", %{path: "/no/such/file"}, pool: :doomed) end)
      File.write!(#{inspect(said <> ".part")}, inspect({System.pid(), [child | workers], Snakepit.Runtime.dir()}))
      File.rename!(#{inspect(said <> ".part")}, #{inspect(said)})
      Task.await(busy, :infinity)
      """

      port =
        Port.open({:spawn_executable, elixir()}, [:binary, :exit_status, :stderr_to_stdout, args: args(code)])

      eventually(fn -> File.exists?(said) end)
      {{vm, pids, runtime}, _} = said |> File.read!() |> Code.eval_string()
      assert length(pids) == 3 and Enum.all?(pids, &alive?/1)
      assert File.dir?(runtime)
      {_, 0} = System.cmd("kill", ["-9", vm])
      assert_receive {^port, {:exit_status, _}}, 10_000
      for pid <- pids, do: assert(eventually(fn -> not alive?(pid) end))

      # The next VM clears up after it.
      {_, 0} = System.cmd(elixir(), args("{:ok, _} = Application.ensure_all_started(:snakepit)"))
      refute File.exists?(runtime)
    end

    defp elixir, do: System.find_executable("elixir")
    defp args(code), do: ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
  end

  describe "an end that nobody wanted is one warning, that says of what, where, and while what ran:" do
    test "killed by a signal, in a call" do
      pool = pool!()
      old = os_pid(pool)

      assert [line] =
               lines(pool, fn ->
                 {:error, _} =
                   Snakepit.execute("die", %{signum: 11},
                     pool: pool,
                     correlation_id: "request 7",
                     session_id: "s"
                   )

                 whole_again(pool, old)
               end)

      for part <- ["[warning]", "worker #{pool}-0", "#{old}", "SIGSEGV", "\"die\"", "\"request 7\"", " ms"],
          do: assert(line =~ part)
    end

    test "exited, in a call whose caller is dead" do
      pool = pool!()
      old = os_pid(pool)
      # Cancelled for its caller's death.
      code = "import os, time\ntry: time.sleep(600)\nexcept BaseException: os._exit(7)"

      assert [line] =
               lines(pool, fn ->
                 caller = spawn(fn -> python(pool, code) end)
                 eventually(fn -> match?({:ok, %{busy: 1}}, Snakepit.get_stats(pool)) end)
                 Process.exit(caller, :kill)
                 eventually(fn -> match?([%{restarts: 1, status: :ready}], Snakepit.list_workers(pool)) end)
               end)

      assert line =~ "\"python_value\"" and line =~ "status 7"
      assert line =~ "#{old}"
    end

    test "killed while it had no call" do
      pool = pool!()
      old = os_pid(pool)

      assert [line] =
               lines(pool, fn ->
                 {_, 0} = System.cmd("kill", ["-9", to_string(old)])
                 eventually(fn -> match?([%{restarts: 1, status: :ready}], Snakepit.list_workers(pool)) end)
               end)

      assert line =~ "SIGKILL" and line =~ "without a call"
    end

    test "a tool that did not end when it was cancelled" do
      pool = pool!(cancel_grace: 100)
      old = os_pid(pool)

      code = """
      import time
      while True:
          try: time.sleep(60)
          except BaseException: pass
      """

      assert [line] =
               lines(pool, fn ->
                 {:error, %Error{category: :timeout}} =
                   Snakepit.execute("python_value", %{code: code}, pool: pool, timeout: 200)

                 whole_again(pool, old)
               end)

      assert line =~ "did not end when it was cancelled" and line =~ "\"python_value\""
    end

    test "and one that was meant is none" do
      pool = pool!(worker_ttl: 100)
      old = os_pid(pool)

      assert [] ==
               lines(pool, fn ->
                 eventually(fn -> os_pid(pool) != old and not alive?(old) end)
                 :ok = Snakepit.stop_pool(pool)
               end)
    end
  end

  describe "a start that fails once the pool was up" do
    @describetag :tmp_dir

    # An interpreter that can be taken away.
    defp wrapped(dir, options) do
      python = Path.join(dir, "python")
      File.write!(python, "#!/bin/sh\nexec '#{Snakepit.Python.venv_python()}' \"$@\"\n")
      File.chmod!(python, 0o755)
      {pool!([python: python] ++ options), python}
    end

    test "is logged once for its cause, and is the callers' error, until it is mended", %{tmp_dir: dir} do
      {pool, python} = wrapped(dir, max_queue: 1)
      old = os_pid(pool)
      File.rename!(python, python <> ".away")

      log =
        lines(pool, fn ->
          {_, 0} = System.cmd("kill", ["-9", to_string(old)])
          eventually(fn -> match?([%{restarts: n}] when n >= 4, Snakepit.list_workers(pool)) end)
        end)

      assert [once] = for(line <- log, line =~ "could not be started again", do: line)
      assert once =~ python and once =~ "no such file"

      assert {:error, %Error{reason: :queue_timeout, message: message}} =
               Snakepit.execute("pid", %{}, pool: pool, timeout: 50)

      assert message =~ "0 of 1 worker up" and message =~ python
      waiting = Task.async(fn -> Snakepit.execute("pid", %{}, pool: pool, timeout: 60_000) end)
      eventually(fn -> match?({:ok, %{queued: 1}}, Snakepit.get_stats(pool)) end)

      assert {:error, %Error{reason: :pool_saturated, message: message}} =
               Snakepit.execute("pid", %{}, pool: pool)

      assert message =~ python
      assert [%{last_error: last}] = Snakepit.list_workers(pool)
      assert last =~ python
      File.rename!(python <> ".away", python)
      assert {:ok, new} = Task.await(waiting, 60_000)
      assert new != old
    end
  end

  describe "heartbeats" do
    @beats [size: 1, heartbeat_interval: 100]

    defp hold_the_lock(pool, ms) do
      code = "import ctypes\nctypes.PyDLL(None).usleep(#{ms * 1000})\nx = 7"
      Snakepit.execute("python_value", %{code: code}, pool: pool, timeout: 60_000)
    end

    test "a worker that is stopped is replaced, and its caller gets an error" do
      pool = pool!(@beats)
      %{os_pid: pid} = hd(Snakepit.list_workers(pool))
      {_, 0} = System.cmd("kill", ["-STOP", "#{pid}"])
      assert {:error, %Error{category: :worker} = error} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      assert error.message =~ "it is stopped"
      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      refute alive?(pid)
      assert [%{last_error: last}] = Snakepit.list_workers(pool)
      assert last =~ "it is stopped"
    end

    test "a tool that holds Python's lock is borne with for the grace period" do
      pool = pool!(@beats ++ [heartbeat_grace: 60_000])
      %{os_pid: pid} = hd(Snakepit.list_workers(pool))
      assert {:ok, 7} = hold_the_lock(pool, 800)
      assert Snakepit.execute!("pid", %{}, pool: pool) == pid
    end

    test "and no longer" do
      pool = pool!(@beats ++ [heartbeat_grace: 300])
      %{os_pid: pid} = hd(Snakepit.list_workers(pool))
      assert {:error, %Error{category: :worker} = error} = hold_the_lock(pool, 30_000)
      assert error.message =~ "did not answer a heartbeat"
      assert Snakepit.execute!("pid", %{}, pool: pool) != pid
      assert eventually(fn -> not alive?(pid) end)
    end
  end
end
