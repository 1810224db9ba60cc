defmodule Snakepit.StreamTest do
  # Items of tools that yield: in order, lazily, and never at the cost of the pool.
  use Snakepit.Case, async: true

  setup do
    %{pool: pool!()}
  end

  defp os_pid(pool), do: Snakepit.execute!("pid", %{}, pool: pool)

  defp rests(pool) do
    assert eventually(fn ->
             match?({:ok, %{idle: 1, busy: 0, queued: 0, workers_up: 1}}, Snakepit.get_stats(pool))
           end)
  end

  test "items come one by one, each time it is enumerated", %{pool: pool} do
    pid = os_pid(pool)
    stream = Snakepit.stream("count", %{n: 5}, pool: pool)
    assert Enum.to_list(stream) == [0, 1, 2, 3, 4]
    assert Enum.to_list(stream) == [0, 1, 2, 3, 4]
    assert Enum.count(stream) == 5
    assert stream |> Stream.map(&(&1 * 2)) |> Enum.sum() == 20
    assert Enum.to_list(Snakepit.stream("count", %{n: 0}, pool: pool)) == []
    assert Enum.to_list(Snakepit.stream("count_later", %{n: 3}, pool: pool)) == [0, 1, 2]
    assert os_pid(pool) == pid
  end

  test "an unread stream costs nothing", %{pool: pool} do
    Snakepit.stream("no_such_tool", %{}, pool: :no_such_pool)
    stream = Snakepit.stream("count", %{n: 5}, pool: pool)
    assert {:ok, %{calls: 0}} = Snakepit.get_stats(pool)
    assert Enum.take(stream, 0) == []
    assert {:ok, %{calls: 0}} = Snakepit.get_stats(pool)
  end

  test "execute_stream calls back with each item", %{pool: pool} do
    me = self()
    assert {:ok, nil} = Snakepit.execute_stream("count", %{n: 3}, &send(me, {:item, &1}), pool: pool)
    for i <- 0..2, do: assert_received({:item, ^i})
    assert {:ok, nil} = Snakepit.execute_stream("count", %{n: 0}, &send(me, {:item, &1}), pool: pool)
    refute_received _
  end

  test "a tool that does not yield is a stream of one, and one that does is a list to execute", %{pool: pool} do
    assert Enum.to_list(Snakepit.stream("add", %{a: 1, b: 2}, pool: pool)) == [3]
    assert Snakepit.execute("count", %{n: 3}, pool: pool) == {:ok, [0, 1, 2]}
    assert Snakepit.execute("count_later", %{n: 3}, pool: pool) == {:ok, [0, 1, 2]}
  end

  test "many items, and large ones, by every way", %{pool: pool} do
    assert "count" |> Snakepit.stream(%{n: 20_000}, pool: pool) |> Enum.sum() == div(20_000 * 19_999, 2)

    for way <- Snakepit.Transfer.ways() do
      opts = [pool: pool, request_transfer: way]
      blocks = Enum.to_list(Snakepit.stream("blocks", %{n: 20, size: 300_000}, opts))
      assert blocks == for(i <- 0..19, do: :binary.copy(<<i>>, 300_000))
    end

    for way <- [:inline, :zero_copy] do
      blocks = Enum.to_list(Snakepit.stream("blocks", %{n: 5, size: 300_000}, pool: pool, transfer: way))
      assert blocks == for(i <- 0..4, do: :binary.copy(<<i>>, 300_000))
    end
  end

  test "a stream left before its end is cancelled, and the worker goes on", %{pool: pool} do
    for way <- Snakepit.Transfer.ways() do
      old = os_pid(pool)

      assert "count" |> Snakepit.stream(%{n: 1_000_000}, pool: pool, request_transfer: way) |> Enum.take(3) ==
               [0, 1, 2]

      assert os_pid(pool) == old
      rests(pool)
    end
  end

  test "an error comes after the items before it, and the worker is kept", %{pool: pool} do
    pid = os_pid(pool)
    me = self()
    stream = Snakepit.stream("count_and_fail", %{n: 3}, pool: pool)
    error = assert_raise Error, fn -> Enum.each(stream, &send(me, {:item, &1})) end
    assert %{category: :python_error, python_type: "ValueError"} = error
    assert error.message =~ "after 3"
    for i <- 0..2, do: assert_received({:item, ^i})

    assert {:error, %Error{python_type: "ValueError"}} =
             Snakepit.execute_stream("count_and_fail", %{n: 1}, fn _ -> :ok end, pool: pool)

    assert {:error, %Error{reason: :unknown_command}} =
             Snakepit.execute_stream("no_such_tool", %{}, fn _ -> :ok end, pool: pool)

    assert {:error, %Error{reason: :unknown_pool}} =
             Snakepit.execute_stream("count", %{n: 1}, fn _ -> :ok end, pool: :no_such_pool)

    assert_raise Error, ~r/no_such_pool/, fn ->
      Enum.to_list(Snakepit.stream("count", %{n: 1}, pool: :no_such_pool))
    end

    assert os_pid(pool) == pid
  end

  test "an item that cannot cross is an error with its place", %{pool: pool} do
    code = "def g():\n    yield 1\n    yield [object()]\nx = g()"
    stream = Snakepit.stream("python_value", %{code: code}, pool: pool)
    error = assert_raise Error, fn -> Enum.to_list(stream) end
    assert %{category: :python_error, details: %{path: "item[0]"}} = error
    rests(pool)
  end

  test "whatever the consumer raises, throws or exits with is the consumer's", %{pool: pool} do
    for {raise_it, kind} <- [
          {fn _ -> raise "mine" end, :error},
          {fn _ -> throw(:mine) end, :throw},
          {fn _ -> exit(:mine) end, :exit}
        ] do
      assert {^kind, _} =
               (try do
                  Snakepit.execute_stream("count", %{n: 10}, raise_it, pool: pool)
                catch
                  kind, reason -> {kind, reason}
                end)

      assert is_integer(os_pid(pool))
      rests(pool)
    end
  end

  test "goes wherever a stream goes, and waits for its consumer meanwhile" do
    pool = pool!(size: 2)

    for way <- Snakepit.Transfer.ways() do
      count = &Snakepit.stream("count", %{n: &1}, pool: pool, request_transfer: way)
      assert count.(4) |> Stream.zip(count.(3)) |> Enum.to_list() == [{0, 0}, {1, 1}, {2, 2}]
      assert Enum.zip(count.(3), [:a, :b, :c, :d]) == [{0, :a}, {1, :b}, {2, :c}]
      assert Enum.zip(count.(1_000_000), [:a, :b]) == [{0, :a}, {1, :b}]
      assert count.(3) |> Stream.cycle() |> Enum.take(7) == [0, 1, 2, 0, 1, 2, 0]
      assert count.(5) |> Stream.chunk_every(2) |> Enum.to_list() == [[0, 1], [2, 3], [4]]
      assert count.(1_000_000) |> Stream.chunk_every(2) |> Enum.take(2) == [[0, 1], [2, 3]]
      assert count.(4) |> Stream.transform(0, &{[&1 + &2], &1 + &2}) |> Enum.to_list() == [0, 1, 3, 6]
      assert [count.(2), count.(2)] |> Stream.concat() |> Stream.zip(1..9) |> Enum.count() == 4
      assert count.(5) |> Task.async_stream(&(&1 * 2)) |> Enum.to_list() == for(i <- 0..4, do: {:ok, 2 * i})
      blocks = Snakepit.stream("blocks", %{n: 4, size: 100_000}, pool: pool, request_transfer: way)

      assert for({a, i} <- Stream.zip(blocks, 0..9), do: a == :binary.copy(<<i>>, 100_000)) == [
               true,
               true,
               true,
               true
             ]

      error =
        assert_raise Error, fn ->
          "count_and_fail" |> Snakepit.stream(%{n: 2}, pool: pool) |> Enum.zip(count.(9))
        end

      assert error.python_type == "ValueError"
    end

    assert eventually(fn -> match?({:ok, %{idle: 2, busy: 0, workers_up: 2}}, Snakepit.get_stats(pool)) end)
    assert for(worker <- Snakepit.list_workers(pool), do: worker.restarts) == [0, 0]
  end

  # The first item, and how to go on.
  defp suspended(pool, way, opts \\ []) do
    stream = Snakepit.stream("count", %{n: 1_000_000}, [pool: pool, request_transfer: way] ++ opts)
    next = fn item, acc -> {:suspend, [item | acc]} end
    assert {:suspended, [], first} = Enumerable.reduce(stream, {:suspend, []}, next)
    assert {:suspended, [0], go_on} = first.({:cont, []})
    go_on
  end

  test "left while it is suspended, dropped, or with a consumer that dies then: the worker goes on", %{
    pool: pool
  } do
    old = os_pid(pool)
    me = self()

    for way <- Snakepit.Transfer.ways() do
      go_on = suspended(pool, way)
      assert {:suspended, [1, 0], go_on} = go_on.({:cont, [0]})
      assert go_on.({:halt, [1, 0]}) == {:halted, [1, 0]}
      rests(pool)

      {pid, _} =
        spawn_monitor(fn ->
          go_on = suspended(pool, way)
          send(me, {:suspended, self()})
          receive do: (:never -> go_on.({:cont, []}))
        end)

      assert_receive {:suspended, ^pid}, 30_000
      Process.exit(pid, :kill)
      assert_receive {:DOWN, _, _, ^pid, :killed}
      rests(pool)

      holder =
        spawn(fn ->
          suspended(pool, way)
          :erlang.garbage_collect()
          send(me, {:dropped, self()})
          Process.sleep(:infinity)
        end)

      assert_receive {:dropped, ^holder}, 30_000
      rests(pool)
      assert Process.alive?(holder)
      Process.exit(holder, :kill)
      assert os_pid(pool) == old
    end
  end

  test "a suspended stream goes on once, in whichever process", %{pool: pool} do
    old = os_pid(pool)

    for way <- Snakepit.Transfer.ways() do
      go_on = suspended(pool, way)
      assert {:suspended, [1], again} = Task.await(Task.async(fn -> go_on.({:cont, []}) end))
      assert_raise ArgumentError, ~r/only once/, fn -> go_on.({:cont, []}) end
      assert go_on.({:halt, [7]}) == {:halted, [7]}
      assert {:suspended, [2], last} = again.({:cont, []})
      assert last.({:halt, []}) == {:halted, []}
      assert os_pid(pool) == old
      rests(pool)
    end

    refute_received _
  end

  test "an exception in the consumer leaves a suspended stream", %{pool: pool} do
    old = os_pid(pool)
    stream = Snakepit.stream("count", %{n: 1_000_000}, pool: pool)

    # Stream.zip/2 forgets it then, and this process waits for the lane that its own garbage holds.
    for _ <- 1..20 do
      assert_raise RuntimeError, "mine", fn ->
        stream |> Stream.zip(1..3) |> Enum.each(fn _ -> raise "mine" end)
      end

      assert os_pid(pool) == old
    end

    rests(pool)
  end

  test "the deadline goes on while it is suspended", %{pool: pool} do
    code = "import time\ndef g():\n    yield 1\n    time.sleep(60)\nx = g()"

    for way <- Snakepit.Transfer.ways() do
      stream = Snakepit.stream("python_value", %{code: code}, pool: pool, timeout: 500, request_transfer: way)

      assert {:suspended, 1, go_on} =
               Enumerable.reduce(stream, {:cont, nil}, fn item, _ -> {:suspend, item} end)

      error = assert_raise Error, fn -> go_on.({:cont, nil}) end
      assert error.category == :timeout
      rests(pool)
    end
  end

  test "the deadline holds where the next item is there already", %{pool: pool} do
    for way <- Snakepit.Transfer.ways() do
      stream = Snakepit.stream("count", %{n: 100}, pool: pool, timeout: 500, request_transfer: way)

      late = fn ->
        Enum.each(stream, fn _item ->
          receive do
          after
            600 -> :late
          end
        end)
      end

      assert assert_raise(Error, late).category == :timeout
      rests(pool)
    end
  end

  test "a consumer that is killed frees its lane", %{pool: pool} do
    old = os_pid(pool)
    me = self()

    pid =
      spawn(fn ->
        Snakepit.execute_stream(
          "count",
          %{n: 1_000_000},
          &(send(me, {:item, &1}) && Process.sleep(:infinity)),
          pool: pool
        )
      end)

    assert_receive {:item, 0}, 10_000
    Process.exit(pid, :kill)
    assert os_pid(pool) == old
    rests(pool)
  end

  test "a worker that dies in the middle of a stream: the items before it, then the reason", %{pool: pool} do
    me = self()

    code =
      "import os, signal\ndef g():\n    yield 1\n    os.kill(os.getpid(), signal.SIGKILL)\n    yield 2\nx = g()"

    for way <- Snakepit.Transfer.ways() do
      opts = [pool: pool, request_transfer: way]
      result = Snakepit.execute_stream("python_value", %{code: code}, &send(me, {way, &1}), opts)
      assert {:error, %Error{category: category} = error} = result

      if way == :grpc,
        do: assert(category in [:worker, :grpc_error]),
        else: assert(error.message =~ "SIGKILL")

      assert_received {^way, 1}
      refute_received {^way, _}
      rests(pool)
    end
  end

  test "what a worker sent before it died is read by a caller that was busy meanwhile", %{pool: pool} do
    me = self()
    old = os_pid(pool)

    code =
      "import os, signal\ndef g():\n    yield from (1, 2, 3)\n    os.kill(os.getpid(), signal.SIGKILL)\n    yield 4\nx = g()"

    take = fn item ->
      send(me, {:item, item})
      # Until all of Snakepit knows of its death.
      if item == 1, do: eventually(fn -> hd(Snakepit.list_workers(pool)).os_pid != old end)
    end

    opts = [pool: pool, request_transfer: :inline]
    assert {:error, error} = Snakepit.execute_stream("python_value", %{code: code}, take, opts)
    assert error.message =~ "SIGKILL"
    for n <- 1..3, do: assert_received({:item, ^n})
    refute_received {:item, _}
    rests(pool)
  end

  @tag :tmp_dir
  test "has a deadline, which is the whole stream's", %{pool: pool, tmp_dir: dir} do
    code =
      "import os, time\ndef g():\n    yield 1\n    while not os.path.exists(#{inspect(dir <> "/never")}): time.sleep(0.01)\nx = g()"

    old = os_pid(pool)
    me = self()

    assert {:error, %Error{category: :timeout}} =
             Snakepit.execute_stream("python_value", %{code: code}, &send(me, {:item, &1}),
               pool: pool,
               timeout: 2_000
             )

    assert_received {:item, 1}
    assert os_pid(pool) == old
    rests(pool)
  end

  test "the worker waits while the consumer works: no more than a socket's buffer is under way", %{pool: pool} do
    # A hundred blocks of 1 MiB would be noticed.
    code =
      "import snakepit_test_tools as t\nt.MADE = 0\ndef g():\n    for i in range(100):\n        t.MADE += 1\n        yield bytes(1 << 20)\nx = g()"

    opts = [pool: pool, reply_transfer: :inline]

    assert "python_value" |> Snakepit.stream(%{code: code}, opts) |> Stream.map(&byte_size/1) |> Enum.uniq() ==
             [1_048_576]

    assert Snakepit.execute("python_value", %{code: "import snakepit_test_tools as t\nx = t.MADE"}, pool: pool) ==
             {:ok, 100}
  end

  describe "what a generator returns" do
    test "is the answer of execute_stream, by every way, small or large", %{pool: pool} do
      pattern = :binary.copy("0123456789abcdef", 20_000)

      for way <- Snakepit.Transfer.ways(),
          {code, expected} <- [
            {"7", 7},
            {"None", nil},
            {"{'sum': (1, 2)}", %{"sum" => {1, 2}}},
            {"b'0123456789abcdef' * 20_000", pattern},
            {"[b'0123456789abcdef' * 20_000, 'x', b'0123456789abcdef' * 20_000]", [pattern, "x", pattern]}
          ] do
        me = self()
        opts = [pool: pool, transfer: way]
        code = "def g():\n    yield 1\n    return #{code}\nx = g()"
        result = Snakepit.execute_stream("python_value", %{code: code}, &send(me, {way, &1}), opts)

        assert result == {:ok, expected}
        assert_received {^way, 1}
        rests(pool)
      end
    end

    test "goes to on_return of stream/3, after the last item", %{pool: pool} do
      me = self()
      code = "def g():\n    yield 1\n    yield 2\n    return 'all'\nx = g()"
      opts = [pool: pool, on_return: &send(me, {:returned, &1})]
      stream = Snakepit.stream("python_value", %{code: code}, opts)

      assert Enum.take(stream, 1) == [1]
      refute_received {:returned, _}

      items =
        Enum.map(stream, fn item ->
          refute_received {:returned, _}
          item
        end)

      assert items == [1, 2]
      assert_received {:returned, "all"}
      refute_received {:returned, _}

      # Suspended between its items, too.
      assert Enum.zip(stream, [:a, :b, :c]) == [{1, :a}, {2, :b}]
      assert_received {:returned, "all"}
      rests(pool)
    end

    test "stays in Python where nobody asked for it, and is a failure that names it where it cannot cross", %{
      pool: pool
    } do
      code = "def g():\n    yield 1\n    return {'it': object()}\nx = g()"
      assert Enum.to_list(Snakepit.stream("python_value", %{code: code}, pool: pool)) == [1]
      assert Snakepit.execute("python_value", %{code: code}, pool: pool) == {:ok, [1]}

      assert {:error, %Error{category: :python_error, reason: :unsupported_type} = error} =
               Snakepit.execute_stream("python_value", %{code: code}, fn 1 -> :ok end, pool: pool)

      assert error.message == ~S(returned["it"]: an object cannot cross)
      assert error.details.path == ~S(returned["it"])
      rests(pool)
    end

    test "is nil of what is no generator", %{pool: pool} do
      for code <- ["x = 5", "async def g():\n    yield 5\nx = g()", "async def f():\n    return 5\nx = f()"],
          do:
            assert(
              {:ok, nil} = Snakepit.execute_stream("python_value", %{code: code}, fn 5 -> :ok end, pool: pool)
            )
    end

    test "on_return is checked, and is of stream/3 alone", %{pool: pool} do
      stream = Snakepit.stream("count", %{n: 1}, pool: pool, on_return: :it)
      error = assert_raise Error, fn -> Enum.to_list(stream) end
      assert error.category == :validation

      assert error.message ==
               "options of the call: expected :on_return to be a function of 1 argument, got: :it"

      assert {:error, %Error{category: :validation} = error} =
               Snakepit.execute("count", %{n: 1}, pool: pool, on_return: & &1)

      assert error.message =~ ":on_return is of stream/3 alone"
    end
  end

  test "two streams at once on two threads do not mix" do
    pool = pool!(worker_profile: :thread, threads_per_worker: 2)

    sums =
      [1_000, 2_000]
      |> Enum.map(&Task.async(fn -> "count" |> Snakepit.stream(%{n: &1}, pool: pool) |> Enum.to_list() end))
      |> Task.await_many(30_000)

    assert sums == [Enum.to_list(0..999), Enum.to_list(0..1999)]
  end
end
