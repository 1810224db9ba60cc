defmodule Snakepit.Call.ItemTimeoutTest do
  # How long a stream may take: the tool for one item, and all of it.
  use Snakepit.Case, async: true

  @moduletag :tmp_dir

  defp rests(pool) do
    assert eventually(fn ->
             match?({:ok, %{idle: 1, busy: 0, queued: 0, workers_up: 1}}, Snakepit.get_stats(pool))
           end)
  end

  # Yields `n` items, then hangs.
  defp hangs(n),
    do: %{
      code:
        "import time\ndef g():\n    yield from range(#{n})\n    for _ in range(6000):\n        time.sleep(0.01)\nx = g()"
    }

  # So long that no machine is too slow for it where it must not pass.
  @long 120_000

  test "a tool that hangs between two items ends at :item_timeout, by every way" do
    pool = pool!(cancel_grace: 20_000)
    before = Snakepit.execute!("pid", %{}, pool: pool)

    for way <- Snakepit.Transfer.ways() do
      opts = [pool: pool, item_timeout: 3_000, timeout: @long, request_transfer: way]

      error =
        assert_raise Error, fn -> "python_value" |> Snakepit.stream(hangs(3), opts) |> Enum.to_list() end

      assert %{category: :timeout, reason: :item_timeout, details: %{items: 3}} = error
      assert error.message == "python_value yielded nothing for 3000 ms (:item_timeout), after 3 items"
      rests(pool)
      assert Snakepit.execute!("pid", %{}, pool: pool) == before
    end

    refute_received _
  end

  test "the whole stream ends at :timeout" do
    pool = pool!(cancel_grace: 20_000)

    for way <- Snakepit.Transfer.ways() do
      opts = [pool: pool, item_timeout: @long, timeout: 3_000, request_transfer: way]

      assert {:error, %Error{category: :timeout, reason: :timeout, details: %{items: 1}} = error} =
               Snakepit.execute_stream("python_value", hangs(1), fn _ -> :ok end, opts)

      assert error.message == "python_value did not finish within 3000 ms (:timeout), after 1 item"
      rests(pool)
    end
  end

  test "what the consumer takes does not count" do
    pool = pool!()

    for way <- Snakepit.Transfer.ways() do
      opts = [pool: pool, item_timeout: 1_000, request_transfer: way]

      slow = fn _item ->
        receive do
        after
          1_100 -> :ok
        end
      end

      assert {:ok, nil} = Snakepit.execute_stream("count", %{n: 2}, slow, opts)
    end
  end

  test "by default each item has the pool's :timeout, and the stream has no end", %{tmp_dir: dir} do
    pool = pool!(timeout: 2_000, cancel_grace: 20_000)

    assert {:error, %Error{reason: :item_timeout, details: %{items: 2}} = error} =
             Snakepit.execute_stream("python_value", hangs(2), fn _ -> :ok end, pool: pool)

    assert error.message =~ "2000 ms"

    # Five items of 600 ms each.
    code = "import time\ndef g():\n    for i in range(5):\n        time.sleep(0.6)\n        yield i\nx = g()"
    assert [0, 1, 2, 3, 4] = "python_value" |> Snakepit.stream(%{code: code}, pool: pool) |> Enum.to_list()

    # A worker must be free within the pool's :timeout.
    {task, go_on} = busy_for_long(pool, dir)

    assert {:error, %Error{reason: :queue_timeout, message: message}} =
             Snakepit.execute_stream("count", %{n: 1}, fn _ -> :ok end, pool: pool)

    assert message =~ "within 2000 ms"

    assert {:error, %Error{reason: :queue_timeout, message: message}} =
             Snakepit.execute_stream("count", %{n: 1}, fn _ -> :ok end, pool: pool, timeout: 50)

    assert message =~ "within 50 ms"
    go_on.()
    assert {:ok, true} = Task.await(task, 60_000)
  end

  defp busy_for_long(pool, dir) do
    started = Path.join(dir, "started")
    args = %{started: started, go_on: started <> ".go"}
    task = Task.async(fn -> Snakepit.execute("touch_and_wait", args, pool: pool, timeout: @long) end)
    eventually(fn -> File.exists?(started) end)
    {task, fn -> File.write!(args.go_on, "") end}
  end

  test "an explicit :timeout alone is all that counts" do
    pool = pool!(timeout: 200, cancel_grace: 20_000)
    code = "import time\ndef g():\n    time.sleep(0.6)\n    yield 1\nx = g()"

    for timeout <- [@long, :infinity] do
      opts = [pool: pool, timeout: timeout]
      assert [1] = "python_value" |> Snakepit.stream(%{code: code}, opts) |> Enum.to_list()
    end
  end

  test "an item that came while the consumer was busy is taken, whatever that took" do
    pool = pool!()
    stream = Snakepit.stream("count", %{n: 2}, pool: pool, item_timeout: 500)

    assert {:suspended, 0, go_on} =
             Enumerable.reduce(stream, {:cont, nil}, fn item, _ -> {:suspend, item} end)

    receive do
    after
      700 -> :ok
    end

    assert {:suspended, 1, go_on} = go_on.({:cont, nil})
    assert {:done, 1} = go_on.({:cont, 1})
    rests(pool)
  end

  test "is refused where nothing is streamed" do
    pool = pool!()

    assert {:error, %Error{reason: :invalid_option, message: message}} =
             Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, item_timeout: 5)

    assert message == "options of the call: :item_timeout is for streams; this call has :timeout"

    assert {:error, %Error{message: message}} =
             Snakepit.map([%{a: 1, b: 2}], "add", pool: pool, item_timeout: 5)

    assert message =~ "each call of a map has :timeout"

    assert {:error, %Error{message: message}} =
             Snakepit.execute_stream("count", %{n: 1}, fn _ -> :ok end, pool: pool, item_timeout: -1)

    assert message =~ "expected :item_timeout to be milliseconds (at most 2147483647) or :infinity, got: -1"
  end
end
