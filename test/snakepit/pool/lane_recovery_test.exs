defmodule Snakepit.Pool.LaneRecoveryTest do
  use Snakepit.Case, async: true
  alias Snakepit.Error

  @moduletag :tmp_dir

  defp pid(pool), do: Snakepit.execute!("pid", %{}, pool: pool)

  # The tool's own cleanup ran.
  defp over?(path), do: match?({:ok, "over"}, File.read(path))

  # Of a call that timed out after its tool began: sooner, there is nothing to cancel.
  defp timed_out(pool, tool, args, opts \\ [], timeout \\ 300) do
    opts = [pool: pool, timeout: timeout] ++ opts
    assert {:error, %Error{category: :timeout}} = Snakepit.execute(tool, args, opts)

    unless File.exists?(args.path),
      do: timed_out(pool, tool, args, Keyword.drop(opts, [:pool, :timeout]), 2 * timeout)
  end

  defp running(pool, tool, args, path) do
    {:ok, caller} = Task.start(fn -> Snakepit.execute(tool, args, pool: pool) end)
    assert eventually(fn -> File.exists?(path) end)
    caller
  end

  for {profile, hows} <- [process: ~w(sleep loop asks), thread: ~w(loop asks)], how <- hows do
    test "a timeout ends a tool that is busy by #{how} (#{profile}), and its worker goes on", %{tmp_dir: dir} do
      threads = if unquote(profile) == :thread, do: [worker_profile: :thread, threads_per_worker: 2], else: []
      pool = pool!([size: 1, cancel_grace: 20_000] ++ threads)
      before = pid(pool)
      path = Path.join(dir, "busy")

      # Both lanes of a worker with threads: one of them is the main thread.
      for n <- 1..length([1 | threads]) do
        args = %{how: unquote(how), path: path <> "#{n}"}
        timed_out(pool, "busy", args)
        assert eventually(fn -> over?(path <> "#{n}") end)
      end

      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      assert pid(pool) == before
    end
  end

  test "a tool that raises by itself before its cancellation reaches it" do
    for threads <- [[], [worker_profile: :thread, threads_per_worker: 2]] do
      pool = pool!([size: 1, cancel_grace: 20_000] ++ threads)
      before = pid(pool)

      # In both of its threads.
      for opts <- [[], [transfer: :zero_copy]], _ <- 1..2 do
        assert {:error, _} = Snakepit.execute("reads_in_vain", %{ms: 400}, [pool: pool, timeout: 200] ++ opts)

        assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
      end

      assert pid(pool) == before
    end
  end

  test "a coroutine", %{tmp_dir: dir} do
    pool = pool!(size: 1, cancel_grace: 20_000)
    before = pid(pool)
    path = Path.join(dir, "busy")
    timed_out(pool, "busy_async", %{path: path})
    assert eventually(fn -> over?(path) end)
    assert pid(pool) == before
    # And the next one.
    assert {:ok, [_, %Snakepit.Tensor{}]} = Snakepit.execute("made_later", %{n: 10, mark: 1}, pool: pool)
  end

  test "a tool that will not end costs its worker", %{tmp_dir: dir} do
    pool = pool!(size: 1, cancel_grace: 300)
    before = pid(pool)
    args = %{how: "deaf", path: Path.join(dir, "busy")}
    timed_out(pool, "busy", args)
    assert pid(pool) != before
  end

  test "a caller that is killed frees its lane, and the worker goes on", %{tmp_dir: dir} do
    pool = pool!(size: 1, cancel_grace: 20_000)
    before = pid(pool)

    for n <- 1..5 do
      path = Path.join(dir, "busy#{n}")
      caller = running(pool, "busy", %{how: "sleep", path: path}, path)
      Process.exit(caller, :kill)
      assert pid(pool) == before
      assert over?(path)
    end
  end

  test "a caller that is killed at any moment of a small call costs nothing" do
    pool = pool!(size: 1, cancel_grace: 20_000)
    before = pid(pool)

    for n <- 1..300 do
      {caller, monitor} = spawn_monitor(fn -> calls_for_ever(pool) end)
      # Where it is by then is up to chance.
      for _ <- 1..(n * 20), do: :erlang.yield()
      Process.exit(caller, :kill)
      assert_receive {:DOWN, ^monitor, _, _, _}
      assert {:ok, ^n} = Snakepit.execute("add", %{a: n, b: 0}, pool: pool)
    end

    assert pid(pool) == before
  end

  defp calls_for_ever(pool) do
    {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
    calls_for_ever(pool)
  end

  test "a call by gRPC that takes too long is cancelled, and the worker goes on", %{tmp_dir: dir} do
    for threads <- [[], [worker_profile: :thread, threads_per_worker: 2]] do
      pool = pool!([size: 1, cancel_grace: 20_000] ++ threads)
      before = pid(pool)
      path = Path.join(dir, "busy#{length(threads)}")
      args = %{how: "loop", path: path}
      timed_out(pool, "busy", args, [transfer: :grpc], 2_000)
      assert eventually(fn -> over?(path) end)
      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, transfer: :grpc)
      assert pid(pool) == before
    end
  end

  test "a stream that is left before its end, or whose reader is killed", %{tmp_dir: dir} do
    pool = pool!(size: 1, cancel_grace: 20_000)
    before = pid(pool)
    path = Path.join(dir, "stream")

    for _ <- 1..20 do
      assert [0, 1, 2] = "for_ever" |> Snakepit.stream(%{path: path}, pool: pool) |> Enum.take(3)
    end

    assert pid(pool) == before
    test = self()

    {:ok, reader} =
      Task.start(fn ->
        Snakepit.execute_stream("for_ever", %{path: path <> "2"}, &send(test, {:item, &1}), pool: pool)
      end)

    assert_receive {:item, 100}, 5_000
    Process.exit(reader, :kill)
    assert pid(pool) == before
    assert over?(path <> "2")
  end

  test "memory of a reply that comes too late is free again", %{tmp_dir: dir} do
    pool = pool!(size: 1, cancel_grace: 20_000)

    for n <- 1..5 do
      go = Path.join(dir, "go#{n}")

      caller =
        spawn(fn ->
          Snakepit.execute("late_ones", %{n: 100_000, path: go}, pool: pool, transfer: :zero_copy)
        end)

      assert eventually(fn -> File.exists?(go) end)
      Process.exit(caller, :kill)
      assert {:ok, _} = Snakepit.execute("pid", %{}, pool: pool)
    end

    {:ok, %{arena: arena}} = Snakepit.Pool.Handle.fetch(pool)
    assert eventually(fn -> Snakepit.Native.arena_leases(arena) == [] end)
    assert [%{held_buffers: 0}] = Snakepit.list_workers(pool)
  end

  test "a caller that is killed with an argument in shared memory: its slot is free again" do
    pool = pool!(size: 1, cancel_grace: 20_000)
    {:ok, %{arena: arena}} = Snakepit.Pool.Handle.fetch(pool)
    {:ok, x} = Snakepit.share(Snakepit.bytes(:binary.copy("x", 100_000)), pool: pool)

    for n <- 1..40 do
      caller = spawn(fn -> Snakepit.execute("keep_for", %{x: x, ms: 30}, pool: pool) end)
      for _ <- 1..(n * 30), do: :erlang.yield()
      Process.exit(caller, :kill)
      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
    end

    assert eventually(fn -> match?([%{held_buffers: 0}], Snakepit.list_workers(pool)) end)
    assert Snakepit.Native.arena_leases(arena) == []
  end

  test "a caller that is killed between two calls does not cost the worker, whatever the last reply was" do
    pool = pool!(size: 1, cancel_grace: 20_000)
    before = pid(pool)
    {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)

    for _ <- 1..5 do
      {:ok, tensor} = Snakepit.execute("ones", %{n: 100_000}, pool: pool, transfer: :zero_copy)
      # As a call does, and no further.
      {caller, monitor} =
        spawn_monitor(fn ->
          {:ok, _lane, _checkout} = Snakepit.Pool.checkout(handle, :infinity, nil, false)
        end)

      assert_receive {:DOWN, ^monitor, _, ^caller, :normal}
      assert pid(pool) == before
      Snakepit.release(tensor)
    end
  end

  test "a reader that raises keeps its worker, though items went by shared memory" do
    pool = pool!(size: 1, cancel_grace: 20_000)
    before = pid(pool)

    for way <- [:zero_copy, :grpc] do
      assert_raise RuntimeError, "mine", fn ->
        Snakepit.execute_stream("blocks", %{n: 50, size: 300_000}, fn _ -> raise "mine" end,
          pool: pool,
          request_transfer: way,
          reply_transfer: if(way == :grpc, do: :inline, else: :zero_copy)
        )
      end

      assert pid(pool) == before
    end

    assert eventually(fn -> match?([%{held_buffers: 0}], Snakepit.list_workers(pool)) end)
  end

  test "cancelling at every moment hits the tool of that call and nothing else" do
    pool = pool!(size: 1, worker_profile: :thread, threads_per_worker: 2, cancel_grace: 20_000)
    before = pid(pool)

    answers =
      for n <- 1..300 do
        Snakepit.execute("spin", %{ms: 3}, pool: pool, timeout: 1 + rem(n, 6))
        Snakepit.execute("add", %{a: n, b: 1}, pool: pool)
      end

    assert answers == for(n <- 1..300, do: {:ok, n + 1})
    assert pid(pool) == before
  end

  test "cancelled while it takes shared memory: the worker's books stay whole" do
    for threads <- [[], [worker_profile: :thread, threads_per_worker: 2]] do
      pool = pool!([size: 1, cancel_grace: 20_000, memory_quota: "8MB", chunk_size: "1MB"] ++ threads)
      before = pid(pool)

      for n <- 1..200 do
        Snakepit.execute("allocates", %{ms: 20}, pool: pool, timeout: 1 + rem(n, 15), session_id: "s")
        result = Snakepit.execute("in_place", %{n: 200_000}, pool: pool, timeout: 10_000)
        assert {:ok, %Snakepit.Tensor{shape: {200_000}} = tensor} = result
        Snakepit.release(tensor)
      end

      assert pid(pool) == before
    end
  end

  test "a tool that imports is not disturbed: a module imported by half would be of no use any more", %{
    tmp_dir: dir
  } do
    for {threads, n} <- [{[], 1}, {[worker_profile: :thread, threads_per_worker: 2], 2}] do
      pool = pool!([size: 1, cancel_grace: 20_000] ++ threads)
      before = pid(pool)
      args = %{path: Path.join(dir, "done#{n}")}
      # Idle lanes are used last in, first out: the last one is no main thread.
      assert {:error, %Error{category: :timeout}} =
               Snakepit.execute("imports_slowly", args, pool: pool, timeout: 200)

      assert {:ok, 42} = Snakepit.execute("imports_slowly", args, pool: pool)
      assert pid(pool) == before
    end
  end

  test "a reader that raises in the middle of a stream", %{tmp_dir: dir} do
    pool = pool!(size: 1, cancel_grace: 20_000)
    before = pid(pool)
    path = Path.join(dir, "stream")

    assert_raise RuntimeError, "mine", fn ->
      Snakepit.execute_stream("for_ever", %{path: path}, fn _ -> raise "mine" end, pool: pool)
    end

    assert pid(pool) == before
    assert over?(path)
  end
end
