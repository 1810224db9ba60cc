defmodule Snakepit.Call.CancellationTest do
  # Calls that another process cancels by their correlation id: running, waiting, streams, items of maps, by every way.
  use Snakepit.Case, async: true
  alias Snakepit.{Error, Native}

  @moduletag :tmp_dir

  defp pid(pool), do: Snakepit.execute!("pid", %{}, pool: pool)
  defp id, do: "id-#{System.unique_integer([:positive])}"

  defp rests(pool, workers \\ 1) do
    assert eventually(fn ->
             match?(
               {:ok, %{idle: ^workers, busy: 0, queued: 0, workers_up: ^workers}},
               Snakepit.get_stats(pool)
             )
           end)
  end

  # A call whose tool runs for certain.
  defp running(pool, id, dir, opts \\ []) do
    started = Path.join(dir, "started-#{System.unique_integer([:positive])}")
    args = %{started: started, go_on: started <> ".go"}

    task =
      Task.async(fn ->
        result = Snakepit.execute("touch_and_wait", args, [pool: pool, correlation_id: id] ++ opts)
        {result, Process.info(self(), :message_queue_len)}
      end)

    eventually(fn -> File.exists?(started) end)
    {task, fn -> File.write!(args.go_on, "") end}
  end

  defp cancelled(task) do
    assert {{:error, %Error{category: :cancelled, reason: :cancelled} = error}, {:message_queue_len, 0}} =
             Task.await(task, 60_000)

    error
  end

  test "a running call, by every way: the tool ends, its worker goes on", %{tmp_dir: dir} do
    pool = pool!(cancel_grace: 20_000)
    before = pid(pool)

    for way <- Snakepit.Transfer.ways() do
      id = id()
      {task, _go_on} = running(pool, id, dir, request_transfer: way)
      assert {:ok, 1} = Snakepit.cancel(id)
      error = cancelled(task)
      assert error.pool == pool
      assert error.details.correlation_id == id
      assert error.message == "touch_and_wait was cancelled (Snakepit.cancel/1)"
      assert {:ok, 0} = Snakepit.cancel(id)
      assert pid(pool) == before
      rests(pool)
    end
  end

  test "by gRPC alone", %{tmp_dir: dir} do
    pool = pool!(transfers: [:grpc], cancel_grace: 20_000)
    before = pid(pool)
    id = id()
    {task, _go_on} = running(pool, id, dir)
    assert {:ok, 1} = Snakepit.cancel(id)
    cancelled(task)
    assert pid(pool) == before
    rests(pool)
  end

  test "a tool sees it, and cleans up", %{tmp_dir: dir} do
    pool = pool!(cancel_grace: 20_000)
    path = Path.join(dir, "busy")
    id = id()

    for how <- ~w(sleep loop asks) do
      path = path <> how

      task =
        Task.async(fn -> Snakepit.execute("busy", %{how: how, path: path}, pool: pool, correlation_id: id) end)

      assert eventually(fn -> File.exists?(path) end)
      assert {:ok, 1} = Snakepit.cancel(id)
      assert {:error, %Error{category: :cancelled}} = Task.await(task, 60_000)
      assert eventually(fn -> match?({:ok, "over"}, File.read(path)) end)
    end

    rests(pool)
  end

  test "a tool that will not end costs its worker, and the caller nothing", %{tmp_dir: dir} do
    pool = pool!(cancel_grace: 300)
    before = pid(pool)
    path = Path.join(dir, "busy")
    id = id()
    args = %{how: "deaf", path: path}
    task = Task.async(fn -> Snakepit.execute("busy", args, pool: pool, correlation_id: id) end)
    assert eventually(fn -> File.exists?(path) end)
    assert {:ok, 1} = Snakepit.cancel(id)
    assert {:error, %Error{category: :cancelled}} = Task.await(task, 60_000)
    assert pid(pool) != before
  end

  test "callers in the queue leave it, others do not", %{tmp_dir: dir} do
    pool = pool!()
    {busy, go_on} = busy(pool, dir)
    id = id()

    waiting =
      for _ <- 1..3 do
        Task.async(fn ->
          result = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, correlation_id: id)
          {result, Process.info(self(), :message_queue_len)}
        end)
      end

    other = Task.async(fn -> Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, correlation_id: id()) end)
    assert eventually(fn -> match?({:ok, %{queued: 4}}, Snakepit.get_stats(pool)) end)
    assert {:ok, 3} = Snakepit.cancel(id)
    Enum.each(waiting, &cancelled/1)
    assert {:ok, %{queued: 1}} = Snakepit.get_stats(pool)
    go_on.()
    assert {:ok, true} = Task.await(busy, 60_000)
    assert {:ok, 3} = Task.await(other, 60_000)
    rests(pool)
  end

  test "one id in several pools", %{tmp_dir: dir} do
    pools = [pool!(), pool!()]
    id = id()
    tasks = for pool <- pools, do: pool |> running(id, dir) |> elem(0)
    assert {:ok, 2} = Snakepit.cancel(id)
    Enum.each(tasks, &cancelled/1)
    Enum.each(pools, &rests/1)
  end

  test "the items of a map that run, and those that are not begun", %{tmp_dir: dir} do
    pool = pool!(size: 2)
    id = id()

    items =
      for i <- 1..20,
          do: %{started: Path.join(dir, "s#{i}"), go_on: Path.join(dir, "never")}

    task = Task.async(fn -> Snakepit.map(items, "touch_and_wait", pool: pool, correlation_id: id) end)
    assert eventually(fn -> Enum.count(items, &File.exists?(&1.started)) == 2 end)
    assert {:ok, 2} = Snakepit.cancel(id)
    results = Task.await(task, 60_000)
    assert length(results) == 20
    assert Enum.all?(results, &match?({:error, %Error{category: :cancelled}}, &1))
    assert Enum.count(items, &File.exists?(&1.started)) == 2
    rests(pool, 2)
    # The id is free for what comes later.
    assert [{:ok, 3}] = Snakepit.map([%{a: 1, b: 2}], "add", pool: pool, correlation_id: id)
  end

  test "a stream, by every way", %{tmp_dir: _dir} do
    pool = pool!(cancel_grace: 20_000)
    before = pid(pool)

    code =
      "import time\ndef g():\n    yield 1\n    yield 2\n    for _ in range(6000):\n        time.sleep(0.01)\nx = g()"

    for way <- Snakepit.Transfer.ways() do
      id = id()
      me = self()
      opts = [pool: pool, correlation_id: id, request_transfer: way]

      task =
        Task.async(fn ->
          result = Snakepit.execute_stream("python_value", %{code: code}, &send(me, {:item, way, &1}), opts)
          {result, Process.info(self(), :message_queue_len)}
        end)

      assert_receive {:item, ^way, 2}, 20_000
      assert {:ok, 1} = Snakepit.cancel(id)
      error = cancelled(task)
      assert error.details == %{items: 2, correlation_id: id}
      assert error.message =~ "after 2 items"
      assert pid(pool) == before
      rests(pool)
    end
  end

  test "a stream whose consumer is busy: its tool ends at once, the consumer learns it later", %{tmp_dir: dir} do
    pool = pool!(cancel_grace: 20_000)
    path = Path.join(dir, "ended")
    id = id()

    code = """
    import time
    def g():
        try:
            yield 1
            for _ in range(6000):
                time.sleep(0.01)
        finally:
            open(#{inspect(path)}, "w").close()
    x = g()
    """

    stream = Snakepit.stream("python_value", %{code: code}, pool: pool, correlation_id: id)

    assert {:suspended, 1, go_on} =
             Enumerable.reduce(stream, {:cont, nil}, fn item, _ -> {:suspend, item} end)

    assert {:ok, 1} = Snakepit.cancel(id)
    assert eventually(fn -> File.exists?(path) end)
    error = assert_raise Error, fn -> go_on.({:cont, nil}) end
    assert %{category: :cancelled, details: %{items: 1}} = error
    rests(pool)
  end

  test "from a process of its own, from the caller's own consumer, and twice" do
    pool = pool!()
    id = id()
    me = self()

    cancel = fn 0 ->
      send(me, {:counted, Snakepit.cancel(id), Snakepit.cancel(id)})
    end

    assert {:error, %Error{category: :cancelled}} =
             Snakepit.execute_stream("count", %{n: 1_000_000}, cancel, pool: pool, correlation_id: id)

    assert_received {:counted, {:ok, 1}, {:ok, 0}}
    rests(pool)
  end

  test "what nobody calls, and what is no id" do
    assert {:ok, 0} = Snakepit.cancel(id())
    assert {:ok, 0} = Snakepit.cancel(<<255>>)
    assert {:error, %Error{category: :validation, message: message}} = Snakepit.cancel(:none)
    assert message == "expected a correlation id to be a string, got: :none"
  end

  test "every call that is counted answers so, and no other, however close it is to its end" do
    pool = pool!(size: 2, cancel_grace: 20_000)
    id = id()
    me = self()

    callers =
      for _ <- 1..4 do
        spawn_link(fn ->
          results =
            for n <- 1..300 do
              args = if rem(n, 7) < 3, do: %{x: String.duplicate("x", 200_000)}, else: %{x: n}
              transfer = Enum.at([:auto, :zero_copy, :inline, :auto, :zero_copy, :grpc], rem(n, 6))

              Snakepit.execute("identity", args, pool: pool, correlation_id: id, transfer: transfer)
            end

          send(me, {:results, self(), results, Process.info(self(), :message_queue_len)})
        end)
      end

    counter = spawn_link(fn -> count(id, 0, me) end)

    results =
      for caller <- callers do
        assert_receive {:results, ^caller, results, {:message_queue_len, 0}}, 120_000
        results
      end
      |> Enum.concat()

    send(counter, :stop)
    assert_receive {:counted, counted}, 10_000
    assert Enum.count(results, &match?({:error, %Error{category: :cancelled}}, &1)) == counted
    assert Enum.all?(results, &(match?({:ok, _}, &1) or match?({:error, %Error{category: :cancelled}}, &1)))
    rests(pool, 2)
    results = nil
    :erlang.garbage_collect()
    _ = results

    assert eventually(fn ->
             Enum.each(callers, &(Process.alive?(&1) && :erlang.garbage_collect(&1)))
             match?({:ok, %{leased_bytes: 0}}, Snakepit.get_stats(pool))
           end)
  end

  defp count(id, counted, me) do
    {:ok, n} = Snakepit.cancel(id)

    receive do
      :stop -> send(me, {:counted, counted + n})
    after
      1 -> count(id, counted + n, me)
    end
  end

  test "a reply in shared memory that is cancelled gives its memory back", %{tmp_dir: _dir} do
    pool = pool!(cancel_grace: 20_000)
    before = pid(pool)
    id = id()

    for _ <- 1..20 do
      task =
        Task.async(fn ->
          Snakepit.execute("ones", %{n: 500_000}, pool: pool, correlation_id: id, transfer: :zero_copy)
          |> elem(0)
        end)

      Snakepit.cancel(id)
      assert Task.await(task, 60_000) in [:ok, :error]
    end

    assert pid(pool) == before
    rests(pool)
    assert eventually(fn -> match?({:ok, %{leased_bytes: 0}}, Snakepit.get_stats(pool)) end)
    assert eventually(fn -> Enum.all?(Snakepit.list_workers(pool), &(&1.held_buffers == 0)) end)
  end

  test "if the process that cancels is killed in the middle of it, every call it counted ends all the same",
       %{tmp_dir: dir} do
    pool = pool!(max_queue: 1_000)
    {holding, go_on} = running(pool, id(), dir)

    for _ <- 1..5 do
      id = id()
      call = fn -> Snakepit.execute("pid", %{}, pool: pool, correlation_id: id, timeout: :infinity) end
      waiting = for _ <- 1..100, do: Task.async(call)
      assert eventually(fn -> match?({:ok, %{queued: 100}}, Snakepit.get_stats(pool)) end)
      canceller = spawn(fn -> Snakepit.cancel(id) end)
      for _ <- 1..:rand.uniform(3), do: :erlang.yield()
      Process.exit(canceller, :kill)
      {:ok, _rest} = Snakepit.cancel(id)
      assert Enum.all?(Task.await_many(waiting, 60_000), &match?({:error, %Error{category: :cancelled}}, &1))
    end

    go_on.()
    assert {{:ok, _}, _} = Task.await(holding, 60_000)
    rests(pool)
  end

  test "an id that is too long is refused by calls, and found by no cancellation" do
    long = String.duplicate("x", 1025)

    assert {:error, %Error{reason: :invalid_option, message: message}} =
             Snakepit.execute("pid", %{}, pool: pool!(), correlation_id: long)

    assert message =~ "expected :correlation_id to be a string of at most 1024 bytes"
    assert Snakepit.cancel(long) == {:ok, 0}
  end

  test "a call with idempotent: true is not tried again once it is cancelled", %{tmp_dir: dir} do
    pool = pool!()
    id = id()
    {task, _go_on} = running(pool, id, dir, idempotent: true)
    assert {:ok, 1} = Snakepit.cancel(id)
    cancelled(task)
    assert {:ok, %{retries: 0}} = Snakepit.get_stats(pool)
  end

  test "callers killed, workers killed and calls cancelled, all at random: nothing is left, and the pool goes on" do
    pool = pool!(size: 2, cancel_grace: 20_000)
    ids = for n <- 1..4, do: "#{id()}-#{n}"
    seed = :rand.uniform(1_000_000)
    :rand.seed(:exsss, seed)

    for _ <- 1..120 do
      caller = spawn(fn -> storm_call(pool, Enum.random(ids), Enum.random(1..5)) end)

      case Enum.random(1..8) do
        n when n <= 3 -> Process.exit(caller, :kill)
        n when n <= 6 -> assert {:ok, _} = Snakepit.cancel(Enum.random(ids))
        7 -> Snakepit.execute("pid", %{}, pool: pool, timeout: 200)
        8 -> :nothing
      end
    end

    assert eventually(fn ->
             Enum.each(ids, &Snakepit.cancel/1)
             match?({:ok, %{busy: 0, queued: 0, idle: 2, workers_up: 2}}, Snakepit.get_stats(pool))
           end),
           "seed #{seed}"

    assert eventually(fn -> Enum.all?(ids, &(Native.cancel_calls(&1) == {0, []})) end), "seed #{seed}"
    assert eventually(fn -> match?({:ok, %{leased_bytes: 0}}, Snakepit.get_stats(pool)) end), "seed #{seed}"

    assert eventually(fn -> Enum.all?(Snakepit.list_workers(pool), &(&1.held_buffers == 0)) end),
           "seed #{seed}"

    assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, correlation_id: hd(ids))
  end

  defp storm_call(pool, id, 1),
    do: Snakepit.execute("ones", %{n: 200_000}, pool: pool, correlation_id: id, transfer: :zero_copy)

  defp storm_call(pool, id, 2),
    do: Snakepit.execute("identity", %{x: String.duplicate("x", 500_000)}, pool: pool, correlation_id: id)

  defp storm_call(pool, id, 3),
    do: "blocks" |> Snakepit.stream(%{n: 30, size: 50_000}, pool: pool, correlation_id: id) |> Enum.count()

  defp storm_call(pool, id, 4),
    do: Snakepit.map([%{a: 1, b: 2}, %{a: 3, b: 4}, %{a: 5, b: 6}], "add", pool: pool, correlation_id: id)

  defp storm_call(pool, id, 5), do: Snakepit.execute("die", %{}, pool: pool, correlation_id: id)

  describe "what is registered" do
    test "is gone once a call ended, failed, raised or its caller was killed", %{tmp_dir: dir} do
      pool = pool!()
      id = id()
      opts = [pool: pool, correlation_id: id]
      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, opts)
      assert {:error, _} = Snakepit.execute("fail", %{}, opts)
      assert {:error, _} = Snakepit.execute("add", %{a: self()}, opts)
      assert [0, 1] = "count" |> Snakepit.stream(%{n: 9}, opts) |> Enum.take(2)

      assert_raise RuntimeError, fn ->
        Snakepit.execute_stream("count", %{n: 9}, fn _ -> raise "mine" end, opts)
      end

      assert {:ok, 0} = Snakepit.cancel(id)

      {busy, go_on} = busy(pool, dir)
      waiting = for _ <- 1..5, do: spawn(fn -> Snakepit.execute("add", %{a: 1, b: 2}, opts) end)
      assert eventually(fn -> match?({:ok, %{queued: 5}}, Snakepit.get_stats(pool)) end)
      Enum.each(waiting, &Process.exit(&1, :kill))
      assert eventually(fn -> Enum.all?(waiting, &(not Process.alive?(&1))) end)
      assert eventually(fn -> Native.cancel_calls(id) == {0, []} end)
      go_on.()
      assert {:ok, true} = Task.await(busy, 60_000)

      {caller, _} = running_unlinked(pool, id, dir)
      Process.exit(caller, :kill)
      assert eventually(fn -> not Process.alive?(caller) and Snakepit.cancel(id) == {:ok, 0} end)
      rests(pool)
    end

    defp running_unlinked(pool, id, dir) do
      started = Path.join(dir, "started-#{System.unique_integer([:positive])}")
      args = %{started: started, go_on: started <> ".go"}
      caller = spawn(fn -> Snakepit.execute("touch_and_wait", args, pool: pool, correlation_id: id) end)
      assert eventually(fn -> File.exists?(started) end)
      {caller, args}
    end
  end
end
