defmodule Snakepit.MisbehavingWorkersTest do
  # Bad workers, each named by its fault (test/support/python/misbehaving_workers.py, malicious_worker.py): what the caller gets, that the pool is
  # whole again, and that nothing is left in the system. That is counted in /proc, so nothing else runs meanwhile.
  use Snakepit.Case, async: false
  import ExUnit.CaptureLog, only: [capture_log: 1]
  alias Snakepit.Bench.Footprint

  @moduletag :tmp_dir
  @moduletag vm: :second

  # A worker that hangs is found out by the deadline of the call it has.
  @hangs 400
  # Found by heartbeats: their calls need no deadline.
  @silent [stops_itself: %{}, holds_the_gil: %{seconds: 600}]

  setup_all do
    # What stays once anything was used: a logger, a thread.
    pool = pool!()
    {:ok, _} = Snakepit.execute("ones", %{n: 1_000_000}, pool: pool, transfer: :zero_copy)
    # The death is logged, and ExUnit captures no logs of setup_all.
    capture_log(fn -> {:error, _} = Snakepit.execute("die", %{}, pool: pool) end)
    :ok = Snakepit.stop_pool(pool)
  end

  setup %{tmp_dir: dir} do
    mark = "misbehaving_workers-#{System.unique_integer([:positive])}-#{System.pid()}"
    before = at_rest(mark)

    on_exit(fn ->
      unless eventually?(fn -> Footprint.nothing?(Footprint.growth(before, Footprint.take(mark))) end) do
        now = Footprint.take(mark)
        for pid <- now.processes, do: System.cmd("kill", ["-9", to_string(pid)], stderr_to_stdout: true)
        flunk("left in the system: #{inspect(Footprint.growth(before, now))}")
      end
    end)

    %{mark: mark, dir: dir}
  end

  # Garbage of earlier tests must not hide what this one leaves.
  defp at_rest(mark),
    do: eventually(fn -> Footprint.take(mark) == Footprint.take(mark) && Footprint.take(mark) end)

  defp eventually?(fun, tries \\ 1000),
    do: fun.() or (tries > 0 and Process.sleep(5) == :ok and eventually?(fun, tries - 1))

  defp options(%{mark: mark}, options) do
    {env, options} = Keyword.pop(options, :env, %{})

    Keyword.merge(
      [
        python_module: "misbehaving_workers",
        env: Map.put(env, "MISBEHAVING_MARK", mark),
        shutdown_timeout: 100
      ],
      options
    )
  end

  defp misbehaving_workers!(context, options \\ []), do: context |> options(options) |> pool!()

  # The malicious_worker takes the interpreter's place.
  defp malicious_worker(context, options \\ []) do
    program = Path.join(context.dir, "malicious_worker")
    script = Path.expand("../support/python/malicious_worker.py", __DIR__)
    File.write!(program, "#!/bin/sh\nexec '#{Snakepit.Python.venv_python()}' '#{script}'\n")
    File.chmod!(program, 0o755)
    env = options |> Keyword.get(:env, %{}) |> Map.put("MISBEHAVING_VERSION", Mix.Project.config()[:version])
    options(context, Keyword.merge(options, python: program, env: env))
  end

  defp os_pid(pool), do: Snakepit.execute!("pid", %{}, pool: pool)

  # Another process serves, the old one is gone, every lane is free.
  defp whole_again(pool, old) do
    assert eventually(fn -> match?({:ok, new} when new != old, Snakepit.execute("pid", %{}, pool: pool)) end)
    assert eventually(fn -> not alive?(old) end)
    assert {:ok, %{idle: 1, busy: 0, workers_up: 1}} = Snakepit.get_stats(pool)
  end

  # The same process still serves: its fault was none.
  defp unharmed(pool, old) do
    assert os_pid(pool) == old
    assert {:ok, %{idle: 1, busy: 0, workers_up: 1}} = Snakepit.get_stats(pool)
  end

  # ---- in the middle of a call ------------------------------------------------------------------------------------

  for {beast, said} <- [
        segfaults: "SIGSEGV",
        exits: "status 7",
        kills_its_group: "SIGKILL",
        closes_every_descriptor: ""
      ] do
    test "#{beast}", context do
      pool = misbehaving_workers!(context)
      old = os_pid(pool)
      assert {:error, %Error{} = error} = Snakepit.execute(unquote(to_string(beast)), %{}, pool: pool)
      assert {error.category, error.reason} == {:worker, :lost}
      assert error.message =~ unquote(said)
      whole_again(pool, old)
    end
  end

  for {beast, args} <- @silent do
    test "#{beast}", context do
      pool = misbehaving_workers!(context, heartbeat_interval: 100, heartbeat_grace: 500)
      old = os_pid(pool)
      args = unquote(Macro.escape(args))

      assert {:error, %Error{category: :worker, reason: :lost} = error} =
               Snakepit.execute(unquote(to_string(beast)), args, pool: pool)

      assert error.message =~ "did not answer"
      whole_again(pool, old)
    end
  end

  test "floods_stdout: output that is no text does not hold up the call", context do
    pool = misbehaving_workers!(context)
    old = os_pid(pool)
    assert {:ok, 8} = Snakepit.execute("floods_stdout", %{mib: 8}, pool: pool)
    unharmed(pool, old)
  end

  test "allocates_until_its_limit: the tool's own error", context do
    pool = misbehaving_workers!(context)
    old = os_pid(pool)

    assert {:error, %Error{category: :python_error, python_type: "MemoryError"}} =
             Snakepit.execute("allocates_until_its_limit", %{mib: 2000}, pool: pool)

    unharmed(pool, old)
  end

  test "answers_twice_by_forking: the child does not answer", context do
    pool = misbehaving_workers!(context)
    old = os_pid(pool)

    for _ <- 1..5 do
      assert {:ok, child} = Snakepit.execute("answers_twice_by_forking", %{}, pool: pool)
      assert child > 0
      assert Snakepit.execute("pid", %{}, pool: pool) == {:ok, old}
    end

    :ok = Snakepit.stop_pool(pool)
    assert eventually(fn -> not alive?(old) end)
  end

  # ---- when they are to end ---------------------------------------------------------------------------------------

  test "ignores_stop: the worker is killed", context do
    pool = misbehaving_workers!(context)
    pid = os_pid(pool)
    started = Path.join(context.dir, "started")
    task = Task.async(fn -> Snakepit.execute("ignores_stop", %{started: started}, pool: pool) end)
    eventually(fn -> File.exists?(started) end)
    :ok = Snakepit.stop_pool(pool)
    refute alive?(pid)
    assert {:error, %Error{category: category}} = Task.await(task)
    assert category in [:worker, :pool]
  end

  test "forks_stubborn_children: they end when the worker dies, and when the pool stops", context do
    pool = misbehaving_workers!(context)
    old = os_pid(pool)
    {:ok, children} = Snakepit.execute("forks_stubborn_children", %{n: 3}, pool: pool)
    assert Enum.all?(children, &alive?/1)
    assert {:error, %Error{category: :worker}} = Snakepit.execute("segfaults", %{}, pool: pool)
    whole_again(pool, old)
    assert eventually(fn -> not Enum.any?(children, &alive?/1) end)

    {:ok, children} = Snakepit.execute("forks_stubborn_children", %{n: 3}, pool: pool)
    :ok = Snakepit.stop_pool(pool)
    assert eventually(fn -> not Enum.any?(children, &alive?/1) end)
  end

  # ---- at the start -----------------------------------------------------------------------------------------------

  # A start that takes too long says what the worker was doing: on a machine that is slow just now, the interpreter gets
  # there only within a longer time.
  defp too_slow(options, said) do
    Enum.find_value([300, 1_000, 4_000, 16_000], fn timeout ->
      options = options |> Keyword.put(:startup_timeout, timeout) |> pool_options()

      assert {:error, %Error{category: :worker, reason: :startup_timeout} = error} =
               Snakepit.start_pool(options)

      assert error.message =~ "pool #{inspect(options.name)}"
      assert error.message =~ "not ready within #{timeout} ms (startup_timeout: of the pool)"
      assert Snakepit.Pool.Supervisor.workers(options.name) == []
      error.message =~ said && error
    end)
  end

  for {beast, said} <- [
        slow_start: "it was importing misbehaving_workers",
        stops_at_start: "it was importing misbehaving_workers, and is stopped (SIGSTOP)"
      ] do
    test "#{beast}", context do
      options = options(context, name: :misbehaving_start, env: %{"MISBEHAVING" => unquote(to_string(beast))})
      assert %Error{details: %{module: "misbehaving_workers"}} = too_slow(options, unquote(said))
    end
  end

  test "exits_at_start", context do
    options = options(context, name: :misbehaving_start, env: %{"MISBEHAVING" => "exits_at_start"})
    assert {:error, %Error{} = error} = options |> pool_options() |> Snakepit.start_pool()
    assert {error.category, error.reason, error.pool} == {:worker, :exited, :misbehaving_start}
    assert error.message =~ "status 5"
    assert Snakepit.Pool.Supervisor.workers(:misbehaving_start) == []
  end

  # ---- memory -----------------------------------------------------------------------------------------------------

  test "writes_to_what_it_was_sent: the mapping forbids it, and the VM's bytes stay the same", context do
    pool = misbehaving_workers!(context)
    old = os_pid(pool)
    {:ok, data} = Snakepit.share(:binary.copy(<<1>>, 100_000), pool: pool)
    tensor = %Tensor{type: {:u, 8}, shape: {100_000}, data: data}

    assert {:error, %Error{category: :worker, reason: :lost, message: message}} =
             Snakepit.execute("writes_to_what_it_was_sent", %{x: tensor}, pool: pool, transfer: :zero_copy)

    assert message =~ "SIGSEGV"
    assert data == :binary.copy(<<1>>, 100_000)
    whole_again(pool, old)
  end

  test "writes_to_what_it_sent: a copied result stays the same", context do
    pool = misbehaving_workers!(context)
    old = os_pid(pool)

    for copy <- [true, false] do
      written = Path.join(context.dir, "written-#{copy}")
      opts = [pool: pool, copy: copy, reply_transfer: :zero_copy]
      {:ok, tensor} = Snakepit.execute("writes_to_what_it_sent", %{n: 100_000, written: written}, opts)
      assert tensor.data == :binary.copy(<<1>>, 100_000)
      File.write!(written <> ".go", "")
      eventually(fn -> File.exists?(written) end)
      # Without a copy a worker's promise is all there is: other bytes, and of the same memory.
      assert tensor.data == :binary.copy(<<if(copy, do: 1, else: 2)>>, 100_000)
    end

    unharmed(pool, old)
  end

  # ---- lies on the wire -------------------------------------------------------------------------------------------

  @protocol {:worker, :protocol}
  @lost {:worker, :lost}
  @timeout {:timeout, :timeout}

  for {lie, expected, said} <- [
        {"lies_about_length", @protocol, "broke the protocol"},
        {"says_less_than_it_sends", @protocol, "bytes after the end"},
        {"sends_an_empty_frame", @protocol, "broke the protocol"},
        {"unknown_kind", @protocol, "unknown kind"},
        {"unknown_way", @protocol, "unknown way"},
        {"streams_unasked", @protocol, "streamed the reply"},
        {"answers_another_call", @protocol, "to another call"},
        {"giant_count_of_buffers", @protocol, "too many buffers"},
        {"giant_count_of_tokens", @protocol, "count is larger"},
        {"giant_array", @protocol, ""},
        {"giant_map", @protocol, ""},
        {"giant_string", @protocol, ""},
        {"giant_extension", @protocol, ""},
        {"giant_tensor", @protocol, ""},
        {"too_deep", @protocol, ""},
        {"refers_to_no_buffer", @protocol, ""},
        {"lies_about_offset", @protocol, "outside its chunk"},
        {"offset_overflows", @protocol, "outside its chunk"},
        {"length_overflows", @protocol, "outside its chunk"},
        {"lies_about_chunk", @protocol, "never announced"},
        {"chunk_of_another", @protocol, "never announced"},
        {"chunk_it_dropped", @protocol, "never announced"},
        {"unknown_token", @protocol, "token"},
        {"returns_a_token_twice", @protocol, "token"},
        {"dies_mid_frame", @lost, "status 4"},
        {"closes_its_lane", @lost, "closed a lane"},
        {"never_ends_its_frame", @timeout, ""},
        {"announces_a_giant_frame", @lost, ""},
        {"announces_a_large_frame", @timeout, ""},
        {"lies_about_seals", @lost, "not sealed"},
        {"may_still_shrink", @lost, "not sealed"},
        {"too_small_a_chunk", @lost, "it has 4096"},
        {"chunk_without_pages", @lost, "it has 0"},
        {"chunk_that_is_a_device", @lost, "refused"},
        {"chunk_that_is_a_file", @lost, "refused"},
        {"chunk_without_descriptor", @lost, "without its descriptor"},
        {"announces_a_chunk_twice", @lost, "announced twice"},
        {"announces_a_dropped_chunk_again", @lost, "announced twice"},
        {"announces_an_earlier_chunk", @lost, "ids only grow"},
        {"announces_for_another", @lost, "not this worker's"},
        {"negative_chunk", @lost, "said \"chunk\""},
        {"chunk_of_negative_size", @lost, "said \"chunk\""},
        {"drops_a_negative_chunk", @lost, "said \"drop\""},
        {"floods_with_chunks", @lost, "more than"},
        {"unknown_token_in_control", @lost, "token it was not given"},
        {"negative_token", @lost, "token it was not given"},
        {"token_that_is_no_number", @lost, "token it was not given"},
        {"floods_the_control_socket", @lost, "floods"},
        {"floods_with_descriptors", @lost, "descriptors were sent"},
        {"giant_control_frame", @lost, "control frame of"},
        {"giant_control_array", @lost, "malformed control frame"},
        {"control_frame_that_is_no_message", @lost, "no message"},
        {"greets_again", @lost, "said \"hello\""},
        {"ready_again", @lost, "said \"ready\""},
        {"more_lanes", @lost, "said \"lanes\""},
        {"closes_its_control_socket", @timeout, ""}
      ] do
    test lie, context do
      pool = context |> malicious_worker() |> pool!()
      old = os_pid(pool)
      # A buffer in shared memory, so that there is a token to return.
      args = %{x: Snakepit.bytes(:binary.copy("x", 10_000))}
      {category, reason} = expected = unquote(expected)
      timeout = if expected == @timeout, do: @hangs, else: 20_000

      opts = [pool: pool, transfer: :zero_copy, reply_transfer: :auto, timeout: timeout]

      case Snakepit.execute(unquote(lie), args, opts) do
        {:error, %Error{} = error} ->
          assert {error.category, error.reason} == {category, reason}
          assert error.message =~ unquote(said)
          whole_again(pool, old)

        # The reply was read before the word that its chunk is gone: its bytes stay for as long as somebody has them.
        {:ok, bytes} ->
          assert unquote(lie) == "chunk_it_dropped" and is_binary(bytes)
      end
    end
  end

  for lie <- ~w(error_without_a_map error_that_is_a_date) do
    test lie, context do
      pool = context |> malicious_worker() |> pool!()
      old = os_pid(pool)

      assert {:error, %Error{category: :worker, reason: :protocol}} =
               Snakepit.execute(unquote(lie), %{}, pool: pool)

      unharmed(pool, old)
    end
  end

  test "answers_twice: the next caller is not given the answer to another's call", context do
    pool = context |> malicious_worker() |> pool!()
    old = os_pid(pool)
    assert {:ok, "once"} = Snakepit.execute("answers_twice", %{}, pool: pool)

    assert {:error, %Error{category: :worker, reason: :protocol, message: message}} =
             Snakepit.execute("pid", %{}, pool: pool)

    assert message =~ "to another call"
    whole_again(pool, old)
  end

  for {lie, said} <- [
        {"lies_about_version", "of version \"0.0.0\""},
        {"lies_about_protocol", "speaks protocol 999"},
        {"lies_about_token", "token is not the one"},
        {"no_token", "token is not the one"},
        {"another_process", "in place of the worker"},
        {"capabilities_that_are_none", "does not say what it is able to do"},
        {"capabilities_of_no_words", "does not say what it is able to do"},
        {"python_that_is_no_text", "does not say what it is able to do"},
        {"too_many_lanes", "other lanes"},
        {"lanes_twice", "said \"lanes\""},
        {"ready_without_lanes", "said \"ready\""},
        {"tools_that_are_none", "said \"ready\""},
        {"logs_without_socket", "said \"logs\" without a socket"},
        {"logs_into_a_file", "its log socket cannot be read"},
        {"logs_twice", "said \"logs\""},
        {"fails_without_words", "said \"failed\""}
      ] do
    test "#{lie}, at the start", context do
      options =
        malicious_worker(context,
          name: :misbehaving_malicious,
          startup_timeout: 20_000,
          env: %{"MISBEHAVING" => unquote(lie)}
        )

      on_exit(fn -> Snakepit.stop_pool(:misbehaving_malicious) end)
      assert {:error, %Error{} = error} = options |> pool_options() |> Snakepit.start_pool()
      assert error.message =~ unquote(said)
      assert error.category in [:worker, :python_error]
      assert error.pool == :misbehaving_malicious
      assert Snakepit.Pool.Supervisor.workers(:misbehaving_malicious) == []
    end
  end

  for {lie, complains?} <- [
        {"log_record_too_long", true},
        {"log_record_of_garbage", true},
        {"log_record_of_other_types", true},
        {"log_record_cut_off", false}
      ] do
    @tag :capture_log
    test "#{lie}: the good record is logged, and the worker goes on", context do
      pool = :"misbehaving_#{System.unique_integer([:positive])}"
      Snakepit.LogCatcher.start(pool)
      ^pool = context |> malicious_worker(name: pool, env: %{"MISBEHAVING" => unquote(lie)}) |> pool!()
      assert_receive {:logged, :error, "[" <> message, %{python_logger: "malicious_worker"}}, 10_000
      assert message =~ "a good record"

      if unquote(complains?) do
        assert_receive {:logged, :warning, words, %{worker: _}}, 10_000
        assert words =~ "pool #{inspect(pool)}: worker #{pool}-0 sent a log record that cannot be read"
      end

      assert {:ok, pid} = Snakepit.execute("pid", %{}, pool: pool)
      assert [%{os_pid: ^pid, restarts: 0}] = Snakepit.list_workers(pool)
      [worker] = Snakepit.Pool.Supervisor.workers(pool)
      logs = elem(:sys.get_state(worker), 1).logs
      eventually(fn -> not Process.alive?(logs) end)
    end
  end

  for {lie, said} <- [
        {"says_nothing", "it connected, and never said hello"},
        {"never_connects", "never connected"},
        {"never_ready", "it had not begun to import its modules"}
      ] do
    test "#{lie}, at the start", context do
      on_exit(fn -> Snakepit.stop_pool(:misbehaving_malicious) end)
      options = malicious_worker(context, name: :misbehaving_malicious, env: %{"MISBEHAVING" => unquote(lie)})
      assert too_slow(options, unquote(said))
    end
  end
end
