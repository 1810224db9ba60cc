defmodule Snakepit.Pool.ResizerTest do
  use Snakepit.Case, async: true
  alias Snakepit.Pool.{Handle, Session}

  @moduletag :python
  @moduletag :tmp_dir

  defp workers(pool), do: for(%{status: :ready} = worker <- Snakepit.list_workers(pool), do: worker)
  defp pids(pool), do: pool |> workers() |> Enum.map(& &1.os_pid)

  defp stats(pool) do
    {:ok, stats} = Snakepit.get_stats(pool)
    stats
  end

  # A session of each worker of a pool of this size.
  defp sessions(size) do
    all = Stream.map(Stream.iterate(0, &(&1 + 1)), &"session #{&1}")
    for index <- 0..(size - 1), do: Enum.find(all, &(Session.worker(&1, size) == index))
  end

  test "hundreds of callers lose no call while a pool has 2, 6, 1 and 3 workers" do
    # All of them may wait at once, and nobody else.
    pool = pool!(size: 2, max_queue: 300)
    stop = :atomics.new(1, [])
    done = :counters.new(1, [])

    call = fn n, kind ->
      case kind do
        0 ->
          {Snakepit.execute("add", %{a: n, b: 1}, pool: pool), {:ok, n + 1}}

        1 ->
          {Snakepit.execute_in_session("s#{n}", "add", %{a: n, b: 1}, pool: pool), {:ok, n + 1}}

        2 ->
          {Enum.to_list(Snakepit.stream("count", %{n: 3}, pool: pool)), [0, 1, 2]}

        3 ->
          {Snakepit.execute("add", %{a: n, b: 1}, pool: pool, session_id: "p#{n}", affinity: :prefer),
           {:ok, n + 1}}
      end
    end

    loop = fn loop, n, calls ->
      if :atomics.get(stop, 1) == 1 do
        calls
      else
        {answer, expected} = call.(n, rem(calls, 4))
        ^expected = answer
        :counters.add(done, 1, 1)
        loop.(loop, n, calls + 1)
      end
    end

    callers = for n <- 1..300, do: Task.async(fn -> loop.(loop, n, n) end)

    go_on = fn ->
      (before = :counters.get(done, 1)) && eventually(fn -> :counters.get(done, 1) > before + 300 end)
    end

    for size <- [6, 1, 3, 2] do
      go_on.()
      assert Snakepit.resize_pool(pool, size) == {:ok, size}
      go_on.()
      assert %{size: ^size, workers_up: ^size, status: :ready} = stats(pool)
    end

    :atomics.put(stop, 1, 1)
    # A task whose call went wrong has ended the test by now.
    Task.await_many(callers, :infinity)
    assert %{errors: 0, retries: 0} = stats(pool)
    assert eventually(fn -> length(Snakepit.list_workers(pool)) == 2 end)
  end

  test "it grows once all new workers are ready; they are numbered on, and know the pool's size" do
    pool = pool!(size: 1)
    [first] = pids(pool)
    assert Snakepit.resize_pool(pool, 3) == {:ok, 3}
    assert [%{index: 0, os_pid: ^first}, %{index: 1}, %{index: 2}] = workers(pool)
    assert :ok = Snakepit.Pool.await_ready(pool)

    for {session, index} <- Enum.with_index(sessions(3)) do
      # The one that was there before gets the new size.
      assert eventually(fn ->
               Snakepit.execute_in_session(session, "whoami", %{}, pool: pool) ==
                 {:ok, [to_string(pool), index, 0, 3]}
             end)
    end

    {:ok, handle} = Handle.fetch(pool)
    assert Snakepit.Native.queue_counts(handle.queue) == {3, 0, 0}
    assert Map.keys(stats(pool).breakers.workers) == [0, 1, 2]
  end

  test "threads that libraries start are counted by the size a new worker is started for" do
    pool = pool!(size: 1, limits: [cpus: Enum.take(Snakepit.Machine.cpus(), 2)])
    cores = length(Enum.take(Snakepit.Machine.cpus(), 2))

    threads = fn session ->
      Snakepit.execute_in_session(session, "environment", %{name: "OMP_NUM_THREADS"}, pool: pool)
    end

    assert threads.("any") == {:ok, to_string(cores)}
    {:ok, 2} = Snakepit.resize_pool(pool, 2)
    [old, new] = sessions(2)
    assert threads.(new) == {:ok, to_string(max(1, div(cores, 2)))}
    assert threads.(old) == {:ok, to_string(cores)}
  end

  test "if one worker cannot start, the error is its own, the size stays, and nothing stays behind", %{
    tmp_dir: dir
  } do
    source = """
    import os, snakepit

    if snakepit.worker().index == 2:
        raise RuntimeError("no third GPU")

    @snakepit.tool
    def pid():
        return os.getpid()
    """

    {:ok, pool} = source_pool(dir, source, size: 1)
    old = pids(pool)

    assert {:error, %Error{reason: :import_failed, python_type: "RuntimeError", pool: ^pool} = error} =
             Snakepit.resize_pool(pool, 3)

    assert error.message =~ "no third GPU"
    assert error.worker == "#{pool}-2"
    assert %{size: 1, status: :ready, failure: nil} = stats(pool)
    assert eventually(fn -> match?([%{index: 0}], Snakepit.list_workers(pool)) end)
    assert pids(pool) == old
    assert Snakepit.execute("pid", %{}, pool: pool) == {:ok, hd(old)}
    assert {:ok, 2} = Snakepit.resize_pool(pool, 2)
    assert length(pids(pool)) == 2
  end

  test "a worker that leaves finishes its call and its stream first; idle ones end at once", %{tmp_dir: dir} do
    pool = pool!(size: 4, worker_profile: :thread, threads_per_worker: 2)
    [_, _, third, fourth] = sessions(4)
    {:ok, of_third} = Snakepit.execute_in_session(third, "pid", %{}, pool: pool)
    {:ok, of_fourth} = Snakepit.execute_in_session(fourth, "pid", %{}, pool: pool)
    started = Path.join(dir, "started")
    args = %{started: started, go_on: started <> ".go"}
    busy = Task.async(fn -> Snakepit.execute_in_session(third, "touch_and_wait", args, pool: pool) end)
    assert eventually(fn -> File.exists?(started) end)
    opts = [pool: pool, session_id: third]
    {:ok, stream} = Snakepit.Call.open_stream("count", %{n: 2}, opts, false)
    assert {:item, 0, stream} = Snakepit.Call.next_item(stream)

    assert Snakepit.resize_pool(pool, 1) == {:ok, 1}
    assert eventually(fn -> not alive?(of_fourth) end)

    assert eventually(fn ->
             match?([%{index: 0}, %{index: 2, status: :leaving}], Snakepit.list_workers(pool))
           end)

    assert %{size: 1, workers_up: 1, busy: 2, idle: 2} = stats(pool)

    assert {:item, 1, stream} = Snakepit.Call.next_item(stream)
    assert {:ok, nil} = Snakepit.Call.next_item(stream)
    # The other lane of that worker is not given out any more.
    [first] = pids(pool)
    for _ <- 1..10, do: assert(Snakepit.execute("pid", %{}, pool: pool) == {:ok, first})
    assert alive?(of_third)
    File.write!(started <> ".go", "")
    assert {:ok, _} = Task.await(busy)
    assert eventually(fn -> not alive?(of_third) end)
    assert eventually(fn -> match?([%{index: 0}], Snakepit.list_workers(pool)) end)
  end

  test "who waits for a worker that leaves keeps its turn, and has its session's next worker" do
    pool = pool!(size: 2, max_queue: 2)
    {:ok, handle} = Handle.fetch(pool)
    [_, second] = sessions(2)
    {:ok, _lane, of_second} = Snakepit.Pool.checkout(handle, :infinity, second, false)
    {:ok, _lane, of_first} = Snakepit.Pool.checkout(handle, :infinity, nil, false)
    me = self()

    waiter = fn name, session ->
      task =
        Task.async(fn ->
          {:ok, lane, checkout} = Snakepit.Pool.checkout(handle, :infinity, session, false)
          send(me, {name, lane.index})
          Snakepit.Pool.checkin(checkout)
        end)

      task
    end

    waiting = fn n -> eventually(fn -> match?({_, _, ^n}, Snakepit.Native.queue_counts(handle.queue)) end) end
    early = waiter.(:early, second)
    waiting.(1)
    late = waiter.(:late, nil)
    waiting.(2)
    assert {:ok, 1} = Snakepit.resize_pool(pool, 1)
    waiting.(2)
    # One that comes with the old size in its hand is sent on as well, if there is room.
    assert {:error, %Error{reason: :pool_saturated}} =
             Snakepit.Pool.checkout(handle, :infinity, second, false)

    Snakepit.Pool.checkin(of_second)
    Snakepit.Pool.checkin(of_first)
    Task.await_many([early, late])
    assert {:messages, [{:early, 0}, {:late, 0}]} = Process.info(self(), :messages)
    assert {:ok, %{index: 0}, checkout} = Snakepit.Pool.checkout(handle, :infinity, second, false)
    Snakepit.Pool.checkin(checkout)
  end

  test "a session keeps its dict unless its worker leaves; then it begins anew on another" do
    pool = pool!(size: 3)

    put = fn session, n ->
      Snakepit.execute_in_session(session, "remember", %{key: "n", value: n}, pool: pool)
    end

    get = fn session -> Snakepit.execute_in_session(session, "recall", %{key: "n"}, pool: pool) end
    all = for n <- 1..30, do: "visitor #{n}"
    for {session, n} <- Enum.with_index(all), do: {:ok, _} = put.(session, n)
    {:ok, 2} = Snakepit.resize_pool(pool, 2)

    for {session, n} <- Enum.with_index(all) do
      kept? = Session.worker(session, 3) < 2
      assert get.(session) == {:ok, if(kept?, do: n)}
    end
  end

  test "a worker that dies while it leaves is not started again, and its caller gets an error", %{
    tmp_dir: dir
  } do
    pool = pool!(size: 2)
    [_, second] = sessions(2)
    {:ok, pid} = Snakepit.execute_in_session(second, "pid", %{}, pool: pool)
    started = Path.join(dir, "started")
    args = %{started: started, go_on: "never"}
    busy = Task.async(fn -> Snakepit.execute_in_session(second, "touch_and_wait", args, pool: pool) end)
    assert eventually(fn -> File.exists?(started) end)
    {:ok, 1} = Snakepit.resize_pool(pool, 1)
    {_, 0} = System.cmd("kill", ["-9", "#{pid}"])
    assert {:error, %Error{category: :worker}} = Task.await(busy)
    assert eventually(fn -> match?([%{index: 0}], Snakepit.list_workers(pool)) end)
    assert %{status: :ready, workers_up: 1} = stats(pool)
    assert {:ok, _} = Snakepit.execute("pid", %{}, pool: pool)
  end

  test "recycled workers and their successors come and go with the size" do
    pool = pool!(size: 3, worker_max_requests: 20, max_queue: 100)
    stop = :atomics.new(1, [])

    loop = fn loop ->
      :atomics.get(stop, 1) == 1 || (({:ok, _} = Snakepit.execute("pid", %{}, pool: pool)) && loop.(loop))
    end

    callers = for _ <- 1..4, do: Task.async(fn -> loop.(loop) end)

    for _ <- 1..3, size <- [1, 3] do
      before = pids(pool)
      assert Snakepit.resize_pool(pool, size) == {:ok, size}
      assert eventually(fn -> pids(pool) -- before != [] end)
    end

    :atomics.put(stop, 1, 1)
    Task.await_many(callers, :infinity)
    assert eventually(fn -> match?([%{index: 0}, %{index: 1}, %{index: 2}], Snakepit.list_workers(pool)) end)
    assert %{errors: 0} = stats(pool)
  end

  test "changes asked for at once are made one after the other" do
    pool = pool!(size: 1)
    tasks = for size <- [2, 3, 1, 4, 2], do: Task.async(fn -> {size, Snakepit.resize_pool(pool, size)} end)
    for {size, answer} <- Task.await_many(tasks, :infinity), do: assert(answer == {:ok, size})
    size = stats(pool).size
    assert size in 1..4
    assert eventually(fn -> length(Snakepit.list_workers(pool)) == size end)
    assert Snakepit.resize_pool(pool, size) == {:ok, size}
  end

  test "what a worker may hold of the pool's memory is a share by the new size" do
    pool = pool!(size: 1, chunk_size: "256KB", memory_quota: "16MB")
    held = fn -> Snakepit.execute("arena_quota", %{}, pool: pool) end
    assert held.() == {:ok, 8 * 1024 * 1024}
    {:ok, 4} = Snakepit.resize_pool(pool, 4)
    # Every worker, the old one too.
    for session <- sessions(4) do
      assert eventually(fn ->
               Snakepit.execute_in_session(session, "arena_quota", %{}, pool: pool) == {:ok, 2 * 1024 * 1024}
             end)
    end

    {:ok, 1} = Snakepit.resize_pool(pool, 1)
    assert eventually(fn -> held.() == {:ok, 8 * 1024 * 1024} end)
    # As many chunks as that allows are taken from it.
    results = for _ <- 1..20, do: Snakepit.execute!("ones", %{n: 300_000}, pool: pool, transfer: :zero_copy)
    assert Enum.all?(results, &(&1.shape == {300_000}))
    assert %{workers_up: 1} = stats(pool)
  end

  test "a command is refused after as many deaths as the pool has workers by now" do
    pool = pool!(size: 1)
    {:ok, 4} = Snakepit.resize_pool(pool, 4)
    die = fn -> Snakepit.execute("die", %{}, pool: pool) end
    for _ <- 1..4, do: assert({:error, %Error{reason: :lost}} = die.())
    assert {:error, %Error{reason: :command_breaker_open, details: %{deaths: 4}}} = die.()
    assert eventually(fn -> length(workers(pool)) == 4 end)
  end

  test "the event says from how many to how many, and which pool" do
    me = self()
    id = make_ref()

    :ok =
      Snakepit.Telemetry.attach(id, [:snakepit, :pool, :resized], fn _, m, meta, _ -> send(me, {m, meta}) end)

    on_exit(fn -> Snakepit.Telemetry.detach(id) end)
    pool = pool!(size: 1)
    {:ok, 2} = Snakepit.resize_pool(pool, 2)
    {:ok, 2} = Snakepit.resize_pool(pool, 2)
    {:ok, 1} = Snakepit.resize_pool(pool, 1)
    assert_received {%{from: 1, size: 2, duration_ms: ms}, %{pool: ^pool}} when ms >= 0
    assert_received {%{from: 2, size: 1}, %{pool: ^pool}}
    refute_received {_, %{pool: ^pool}}
  end

  test "a restart keeps the size, a crash of the pool's processes as well; a pool that is started anew has its own" do
    pool = pool!(size: 1)
    {:ok, 2} = Snakepit.resize_pool(pool, 2)
    {:ok, _} = Snakepit.restart_pool(pool)
    assert length(pids(pool)) == 2
    {:ok, 3} = Snakepit.resize_pool(pool, 3)
    {:ok, %{pool: process}} = Handle.fetch(pool)
    before = pids(pool)
    process |> GenServer.whereis() |> Process.exit(:kill)
    # A pool whose processes are being started anew has no size yet.
    assert eventually(fn ->
             length(pids(pool)) == 3 and pids(pool) -- before == pids(pool) and stats(pool)[:size] == 3
           end)

    :ok = Snakepit.stop_pool(pool)
    {:ok, _} = [name: pool, size: 1] |> pool_options() |> Snakepit.start_pool()
    assert stats(pool).size == 1
  end

  test "what cannot be a size, or a pool that is not there or did not start, is refused", %{tmp_dir: dir} do
    pool = pool!()

    for size <- [0, -1, 1.0, "2", nil] do
      assert {:error, %Error{category: :validation, reason: :invalid_option, pool: ^pool} = error} =
               Snakepit.resize_pool(pool, size)

      assert error.message ==
               "pool #{inspect(pool)}: expected :size to be a positive integer, got: #{inspect(size)}"
    end

    assert {:error, %Error{reason: :unknown_pool}} = Snakepit.resize_pool(:no_such_pool, 2)

    # A pool that could not start stays, as configured ones do.
    name = :"test_#{System.unique_integer([:positive])}"
    File.write!(Path.join(dir, "broken_tools.py"), "import no_such_module\n")
    given = [name: name, python_module: "broken_tools", python_path: [dir]]
    {:ok, options} = given |> pool_options() |> Snakepit.Pool.Options.new()
    {:ok, _} = DynamicSupervisor.start_child(Snakepit.Pools, Snakepit.Pool.Supervisor.child_spec(options))
    on_exit(fn -> Snakepit.stop_pool(name) end)
    {:error, _} = Snakepit.Pool.await_ready(name)
    assert {:error, %Error{reason: :import_failed} = error} = Snakepit.resize_pool(name, 2)
    assert error.message =~ "Snakepit.restart_pool(#{inspect(name)})"
  end

  test "a pool that stops while it grows says so", %{tmp_dir: dir} do
    source = """
    import snakepit, time

    if snakepit.worker().index == 1:
        open(#{inspect(Path.join(dir, "began"))}, "w").close()
        time.sleep(600)

    snakepit.tool(lambda: None)
    """

    source = String.replace(source, "snakepit.tool(lambda: None)", "@snakepit.tool\ndef ping():\n    pass\n")
    {:ok, pool} = source_pool(dir, source)
    growing = Task.async(fn -> Snakepit.resize_pool(pool, 2) end)
    assert eventually(fn -> File.exists?(Path.join(dir, "began")) end)
    :ok = Snakepit.stop_pool(pool)
    assert {:error, %Error{category: :pool, reason: :stopped}} = Task.await(growing)
  end
end
