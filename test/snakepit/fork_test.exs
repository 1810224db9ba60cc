defmodule Snakepit.ForkTest do
  # Tools that fork: what a child does reaches nobody.
  use Snakepit.Case, async: true

  @moduletag :tmp_dir
  @n 200_000

  setup_all do
    seed = System.get_env("SNAKEPIT_FORK_SEED", "#{:erlang.unique_integer([:positive])}")
    %{fork_seed: String.to_integer(seed)}
  end

  defp forks!(options \\ []) do
    pool = pool!([python_module: "forks"] ++ options)

    # The first large result makes a slot, and the worker lends slots from then on. A slot is free again once no result
    # lies in it: until then nothing else may be asked for, since each result would take the slot once more.
    assert eventually(fn ->
             large!(pool, 3) == :binary.copy(<<3>>, @n) and
               Enum.any?(1..20, fn _ -> :erlang.garbage_collect() and lent?(pool) end)
           end)

    pool
  end

  defp large!(pool, mark, n \\ @n) do
    {:ok, tensor} = Snakepit.execute("large", %{mark: mark, n: n}, pool: pool, reply_transfer: :zero_copy)
    tensor.data
  end

  defp lent?(pool), do: Snakepit.execute!("lends", %{}, pool: pool)

  defp pid!(pool), do: Snakepit.execute!("pid", %{}, pool: pool)

  defp file(context), do: Path.join(context.tmp_dir, "#{System.unique_integer([:positive])}")

  defp u8(mark), do: %Tensor{type: {:u, 8}, shape: {@n}, data: :binary.copy(<<mark>>, @n)}

  # Starts a child that writes to all it has; what stops it, and waits for its end.
  defp scribbler(pool, context, how, x) do
    {seen, stop} = {file(context), file(context)}
    args = %{how: how, seen: seen, stop: stop, x: x}
    {:ok, [child, lent?]} = Snakepit.execute("scribbler", args, pool: pool, transfer: :zero_copy)
    on_exit(fn -> File.write(stop, "") end)
    assert eventually(fn -> File.exists?(seen) or not alive?(child) end)

    done = fn ->
      File.write!(stop, "")
      Snakepit.execute!("ended", %{child: child}, pool: pool)
    end

    write_again = fn ->
      File.write!(seen <> ".again", "")
      assert eventually(fn -> not File.exists?(seen <> ".again") or not alive?(child) end)
    end

    %{child: child, lent?: lent?, done: done, write_again: write_again}
  end

  # Whether results of other calls are what they were made to be, once each child has written to its memory after them.
  defp exact?(pool, rounds, children \\ []) do
    results =
      for mark <- 1..rounds do
        doubled = Snakepit.execute!("twice", %{x: u8(mark)}, pool: pool, transfer: :zero_copy).data
        {mark, doubled, large!(pool, mark, @n + mark)}
      end

    Enum.each(children, & &1.write_again.())

    Enum.all?(results, fn {mark, doubled, large} ->
      doubled == :binary.copy(<<2 * mark>>, @n) and large == :binary.copy(<<mark>>, @n + mark)
    end)
  end

  for how <- ~w(os c thread c_thread), kind <- [:tensor, :bytes, nil] do
    test "forked by #{how}, given #{kind || "nothing"}: a child's writes reach nobody, nobody's reach it",
         context do
      pool = forks!()

      x =
        case unquote(kind) do
          :tensor -> u8(104)
          :bytes -> Snakepit.bytes(:binary.copy(<<104>>, @n))
          nil -> nil
        end

      child = scribbler(pool, context, unquote(how), x)
      assert child.lent?
      assert exact?(pool, 40, [child])
      assert Snakepit.execute!("maps_of", %{child: child.child}, pool: pool) == []
      assert Snakepit.execute!("descriptors_of", %{child: child.child}, pool: pool) == []
      assert child.done.() == 0
    end
  end

  test "any number of children at once, by any way, in threads: every result is exact", context do
    :rand.seed(:exsss, context.fork_seed)
    pool = forks!(worker_profile: :thread, threads_per_worker: 2)

    children =
      for _ <- 1..6 do
        x = Enum.random([nil, u8(104), Snakepit.bytes(:binary.copy(<<104>>, @n))])
        child = scribbler(pool, context, Enum.random(~w(os c thread c_thread)), x)
        # Random work in between, which moves what lies where.
        for _ <- 1..Enum.random(1..10), do: large!(pool, 5, Enum.random([1_000, @n, 3 * @n]))
        child
      end

    exact =
      for _ <- 1..2 do
        Task.async(fn -> exact?(pool, 40) end)
      end
      |> Task.await_many(120_000)

    assert exact == [true, true], "SNAKEPIT_FORK_SEED=#{context.fork_seed}"
    assert exact?(pool, 20, children), "SNAKEPIT_FORK_SEED=#{context.fork_seed}"
    assert Enum.map(children, & &1.done.()) == List.duplicate(0, 6), "SNAKEPIT_FORK_SEED=#{context.fork_seed}"
  end

  for method <- ~w(fork forkserver spawn) do
    test "multiprocessing by #{method}: processes have copies", _context do
      pool = forks!()
      old = pid!(pool)
      expected = [200_000, 150_000, 100, @n]
      args = %{method: unquote(method), x: u8(104)}

      assert Snakepit.execute!("pool_of", args, pool: pool, transfer: :zero_copy, timeout: 120_000) ==
               expected

      assert exact?(pool, 20)
      assert pid!(pool) == old
    end
  end

  test "a child's child has the child's memory" do
    pool = forks!()
    assert Snakepit.execute!("grandchild", %{x: u8(104)}, pool: pool, transfer: :zero_copy) == 0
    assert exact?(pool, 20)
  end

  for how <- ~w(os c) do
    test "a child forked by #{how} makes arrays in memory of its own" do
      pool = forks!()
      child = Snakepit.execute!("uses_snakepit_in_child", %{how: unquote(how)}, pool: pool)
      assert Snakepit.execute!("ended", %{child: child}, pool: pool) == 0
    end
  end

  # ---- children that return -----------------------------------------------------------------------------------------

  # How the child of a call ended. The worker is the same as before, and answers.
  defp returned(pool, call) do
    old = pid!(pool)
    child = call.()
    status = Snakepit.execute!("ended", %{child: child}, pool: pool)
    for n <- 1..20, do: assert(large!(pool, n) == :binary.copy(<<n>>, @n))
    assert pid!(pool) == old
    status
  end

  for how <- ~w(os c) do
    test "both sides return, forked by #{how}: only the worker answers" do
      pool = forks!()

      status =
        returned(pool, fn -> "both_return" |> Snakepit.execute!(%{how: unquote(how)}, pool: pool) |> hd() end)

      assert status == 0

      # A large result would go through memory that is not the child's.
      for _ <- 1..3 do
        args = %{how: unquote(how), large: true}
        assert Snakepit.execute!("both_return", args, pool: pool).data == :binary.copy(<<1>>, 300_000)
      end

      assert exact?(pool, 5)
    end

    test "both sides return by gRPC, forked by #{how}: only the worker answers" do
      pool = forks!(transfers: [:grpc, :zero_copy])

      status =
        returned(pool, fn ->
          "both_return" |> Snakepit.execute!(%{how: unquote(how)}, pool: pool, transfer: :grpc) |> hd()
        end)

      assert status == 0
      args = %{how: unquote(how), large: true}

      assert Snakepit.execute!("both_return", args, pool: pool, transfer: :grpc).data ==
               :binary.copy(<<1>>, 300_000)

      assert exact?(pool, 5)
    end

    test "both sides return from a thread's lane, forked by #{how}" do
      pool = forks!(worker_profile: :thread, threads_per_worker: 2)

      tasks =
        for _ <- 1..8,
            do: Task.async(fn -> Snakepit.execute!("both_return", %{how: unquote(how)}, pool: pool) end)

      answers = Task.await_many(tasks, 60_000)
      worker = pid!(pool)
      assert Enum.all?(answers, &match?([child, ^worker] when child > 0, &1))
      for [child, _] <- answers, do: assert(Snakepit.execute!("ended", %{child: child}, pool: pool) == 0)
      assert exact?(pool, 5)
    end
  end

  test "a child that raises, exits, yields, or returns later reaches nobody" do
    pool = forks!()
    assert returned(pool, fn -> Snakepit.execute!("child_raises", %{}, pool: pool) end) == 1
    assert returned(pool, fn -> Snakepit.execute!("child_exits", %{}, pool: pool) end) == 0
    assert returned(pool, fn -> Snakepit.execute!("child_exits", %{code: 7}, pool: pool) end) == 7
    assert returned(pool, fn -> Snakepit.execute!("returns_in_both_later", %{}, pool: pool) end) == 0

    status =
      returned(pool, fn ->
        assert [1, child, 3] = Enum.to_list(Snakepit.stream("yields_in_both", %{}, pool: pool))
        child
      end)

    assert status == 0
  end

  test "a module that forks while it is imported, and lets its child go on", %{tmp_dir: dir} do
    {:ok, pool} =
      source_pool(dir, """
      import os
      from snakepit import tool
      CHILD = os.fork()
      @tool
      def child():
          return [CHILD, os.waitstatus_to_exitcode(os.waitpid(CHILD, 0)[1])]
      """)

    assert {:ok, [child, 0]} = Snakepit.execute("child", %{}, pool: pool)
    assert child > 0
  end

  # ---- signals --------------------------------------------------------------------------------------------------------

  test "a program that a tool starts ignores and blocks no signal that it would not under any Python" do
    pool = forks!()

    # Python ignores SIGPIPE and SIGXFSZ, and only `subprocess` undoes that. libc ignores two of its own for `popen`.
    pythons =
      for signal <- [13, 25, 32, 33], reduce: 0, do: (mask -> Bitwise.bor(mask, Bitwise.bsl(1, signal - 1)))

    for {name, [ignored, blocked]} <- Snakepit.execute!("masks_of_programs", %{}, pool: pool, timeout: 60_000) do
      assert blocked == 0, name
      assert Bitwise.band(ignored, Bitwise.bnot(pythons)) == 0, name
      if String.starts_with?(name, "subprocess"), do: assert(ignored == 0, name)
    end
  end

  for profile <- [:process, :thread] do
    test "signals in a forked child do what they do in any Python, #{profile}" do
      options = if unquote(profile) == :thread, do: [worker_profile: :thread, threads_per_worker: 2], else: []
      pool = forks!(options)
      # SIG_DFL is 0, SIG_IGN 1.
      plain = %{
        "SIGINT" => "default_int_handler",
        "SIGTERM" => "0",
        "SIGHUP" => "0",
        "SIGQUIT" => "0",
        "SIGPIPE" => "1",
        "cancel" => "0"
      }

      assert Snakepit.execute!("handlers_in_child", %{own: false}, pool: pool) == plain

      if unquote(profile) == :process do
        assert Snakepit.execute!("handlers_in_child", %{own: true}, pool: pool) == %{
                 plain
                 | "SIGHUP" => "_own"
               }
      end
    end
  end
end
