defmodule Snakepit.Pool.ArenaTest do
  # Shared memory as calls use it: warm, by reference, given back, bounded, and never wrong.
  use Snakepit.Case, async: true
  alias Snakepit.{Native, Pool}

  @mib 1024 * 1024

  defp memory(pool) do
    {:ok, %{memory: memory}} = Snakepit.get_stats(pool)
    memory
  end

  defp bytes(size, seed \\ 7), do: seed |> noise(size) |> Snakepit.bytes()

  # Bytes that differ by place and by seed, and are quick to make.
  defp noise(seed, size) do
    pattern = for i <- 0..250, into: <<>>, do: <<rem(i * 7 + seed, 256)>>
    pattern |> :binary.copy(div(size, 251) + 1) |> binary_part(0, size)
  end

  # A result in the worker's shared memory.
  defp result(pool, n, opts \\ []) do
    {{:ok, x}, %{reply_way: :zero_copy}} =
      Snakepit.observe("in_place", %{n: n}, [pool: pool, reply_transfer: :zero_copy] ++ opts)

    assert x.data == :binary.copy(<<7>>, n)
    assert Native.in_chunk(x.data)
    x
  end

  # What the worker's own arena holds.
  defp worker_slots(pool),
    do:
      Snakepit.execute!("numpy_value", %{code: "snakepit.memory.memory_array.arena.live_slots()"}, pool: pool)

  # In a process of its own, whose garbage ends with it.
  defp elsewhere(fun), do: fun |> Task.async() |> Task.await(60_000)

  # Keeps results until the worker's memory is full: one came by it, and a later one did not.
  defp until_full(fun, held) do
    ways = for {_, seen} <- held, do: seen.reply_way

    if hd(ways ++ [nil]) == :inline and :zero_copy in ways,
      do: held,
      else: until_full(fun, [fun.() | held])
  end

  test "memory that is warm is used again: a hundred calls need no new chunk" do
    pool = pool!()
    call = fn -> Snakepit.observe("fresh", %{x: bytes(@mib)}, pool: pool) end
    # Until the first chunk is there.
    eventually(fn ->
      match?({{:ok, _}, %{request_way: :zero_copy, reply_way: :zero_copy}}, elsewhere(call))
    end)

    before = memory(pool).chunks
    assert before > 0

    for _ <- 1..100 do
      {result, seen} =
        elsewhere(fn ->
          {{:ok, data}, seen} = call.()
          {data == bytes(@mib).data, seen}
        end)

      assert result
      assert %{request_way: :zero_copy, copied_bytes: @mib} = seen
    end

    assert memory(pool).chunks == before
  end

  describe "by reference" do
    test "a result is passed on without a copy: to its own worker, to another, and in part" do
      pool = pool!(size: 2, transfers: [:zero_copy, :inline])
      # Sessions of both workers.
      [a, b] =
        1..20
        |> Enum.map(&"session #{&1}")
        |> Enum.uniq_by(&Snakepit.execute!("pid", %{}, pool: pool, session_id: &1))

      x = result(pool, 300_000, session_id: a)

      for session <- [a, b, a, b] do
        opts = [pool: pool, session_id: session]
        assert {{:ok, 2_100_000}, seen} = Snakepit.observe("total", %{x: x}, opts)
        assert %{request_way: :zero_copy, request_bytes: 300_000, copied_bytes: 0} = seen

        part = binary_part(x.data, 1000, 100_000)
        assert {{:ok, ^part}, seen} = Snakepit.observe("fresh", %{x: Snakepit.bytes(part)}, opts)
        assert %{request_way: :zero_copy, request_bytes: 100_000, copied_bytes: 0} = seen

        # The same bytes as another tensor, beside some that are not there yet.
        again = Tensor.new(x.data, :u8, {300, 1000})
        args = %{x: [again, bytes(5000)]}
        assert {{:ok, [^again, other]}, %{copied_bytes: 5000}} = Snakepit.observe("fresh", args, opts)
        assert other == noise(7, 5000)
      end
    end

    test "calls that must have memory get it, while others want some as well" do
      pool = pool!(size: 2, chunk_size: 256 * 1024, idle_chunk_ms: 50)

      callers =
        for seed <- 1..4 do
          Task.async(fn ->
            :rand.seed(:exsss, seed)

            for _ <- 1..15 do
              sizes = for _ <- 1..60, do: 4_096 + :rand.uniform(200_000)
              args = %{x: Enum.map(sizes, &bytes/1)}
              {:ok, back} = Snakepit.execute("identity", args, pool: pool, request_transfer: :zero_copy)
              assert Enum.map(back, &byte_size/1) == sizes
              Enum.each(back, &Snakepit.release/1)
            end
          end)
        end

      Task.await_many(callers, 60_000)
    end

    test "identity gives back what it was given, in place" do
      pool = pool!()
      x = result(pool, 100_000)
      opts = [pool: pool, transfer: :zero_copy]
      assert {{:ok, ^x}, %{copied_bytes: 0}} = Snakepit.observe("identity", %{x: x}, opts)
    end

    test "across pools, which know nothing of each other" do
      [one, two] = [pool!(), pool!()]
      x = result(one, 200_000)

      assert {{:ok, 1_400_000}, %{copied_bytes: 0}} =
               Snakepit.observe("total", %{x: x}, pool: two, transfer: :zero_copy)
    end

    test "share/2 copies once" do
      pool = pool!(size: 2)
      data = noise(3, 400_000)
      assert {:ok, shared} = Snakepit.share(Snakepit.bytes(data), pool: pool)
      assert shared == Snakepit.bytes(data)
      assert Native.in_chunk(shared.data)

      for session <- ["a", "b", "c", "d"] do
        assert {{:ok, 400_000}, %{copied_bytes: 0}} =
                 Snakepit.observe("length", %{x: shared},
                   pool: pool,
                   session_id: session,
                   transfer: :zero_copy
                 )
      end

      # Once for both workers.
      assert memory(pool).live_slots == 1
      assert {:ok, tensor} = Snakepit.share(Tensor.new(data, :u8), pool: pool)
      assert tensor == Tensor.new(data, :u8)
      assert {:ok, ""} = Snakepit.share("", pool: pool)
      assert {:ok, "short"} = Snakepit.share("short", pool: pool)
      assert {:error, %Error{reason: :unknown_pool}} = Snakepit.share("x", pool: :no_such_pool)
      assert byte_size(shared.data) == 400_000
    end
  end

  test "copy: true gives binaries of the VM's own" do
    pool = pool!()
    args = %{x: [bytes(100_000), bytes(2 * @mib)]}

    for transfer <- Snakepit.Transfer.ways() do
      assert {:ok, [a, b]} = Snakepit.execute("fresh", args, pool: pool, transfer: transfer, copy: true)
      assert {a, b} == {noise(7, 100_000), noise(7, 2 * @mib)}
      refute Native.in_chunk(a) or Native.in_chunk(b)
    end
  end

  test "bytes that a worker writes to while they are encoded are read once: a string is UTF-8, or refused" do
    pool = pool!()

    {{:ok, x}, %{reply_way: :zero_copy}} =
      Snakepit.observe("scribbled", %{n: @mib}, pool: pool, reply_transfer: :zero_copy)

    text = binary_part(x.data, 0, 4_000)
    map = %{text => 1}

    encoded =
      for _ <- 1..3_000,
          {args, rest} <- [{text, 1}, {map, 2}],
          {:ok, envelope, [], _} <- [Native.encode("identity", args, nil, 65_536)] do
        assert String.valid?(binary_part(envelope, byte_size(envelope) - rest - 4_000, 4_000))
      end

    Snakepit.execute!("scribble_no_more", %{}, pool: pool)
    assert encoded != []
  end

  test "results outlive their worker, and their pool" do
    pool = pool!()
    x = result(pool, 3 * @mib)
    part = binary_part(result(pool, @mib).data, 10, 1000)
    assert {:error, %Error{category: :worker}} = Snakepit.execute("die", %{}, pool: pool)
    assert Snakepit.execute("total", %{x: x}, pool: pool) == {:ok, 7 * 3 * @mib}
    :ok = Snakepit.stop_pool(pool)
    other = pool!()
    # Whoever tends memory now must not take theirs.
    assert eventually(fn -> match?({:ok, _}, Snakepit.execute("fresh", %{x: bytes(@mib)}, pool: other)) end)
    assert x.data == :binary.copy(<<7>>, 3 * @mib)
    assert part == :binary.copy(<<7>>, 1000)
    assert Snakepit.execute("total", %{x: x}, pool: other) == {:ok, 7 * 3 * @mib}
  end

  describe "given back" do
    test "slots are free once nobody refers to them" do
      pool = pool!()

      elsewhere(fn ->
        x = result(pool, @mib)
        {:ok, _} = Snakepit.execute("total", %{x: x}, pool: pool)
        {:ok, shared} = Snakepit.share(bytes(@mib), pool: pool)
        {:ok, _} = Snakepit.execute("length", %{x: shared}, pool: pool, transfer: :zero_copy)
        assert memory(pool).live_slots > 0
        assert worker_slots(pool) > 0
        # Still in use here.
        assert byte_size(shared.data) == byte_size(x.data)
      end)

      assert eventually(fn -> memory(pool).live_slots == 0 end)
      assert eventually(fn -> worker_slots(pool) == 0 end)
      assert {:ok, %{leased_bytes: 0}} = Snakepit.get_stats(pool)
    end

    test "release/1 says how many bytes came free, and takes nothing that is in use" do
      pool = pool!()

      elsewhere(fn ->
        freed = Snakepit.release(result(pool, @mib))
        assert freed >= @mib
        kept = result(pool, @mib)
        assert Snakepit.release(kept) == 0
        assert kept.data == :binary.copy(<<7>>, @mib)
        assert Snakepit.release(%{a: [kept], b: {1, "x"}}) == 0
        assert kept.shape == {@mib}
        assert Snakepit.release(:nothing) == 0
      end)

      assert eventually(fn -> worker_slots(pool) == 0 end)
    end

    test "by a call that failed on its way, all the same" do
      # grpcio is found, but cannot be loaded: the call fails after its frame was made.
      dir = Path.join(System.tmp_dir!(), "snakepit-no-grpc-#{System.unique_integer([:positive])}")
      File.mkdir_p!(dir)
      on_exit(fn -> File.rm_rf!(dir) end)
      File.write!(Path.join(dir, "grpc.py"), "raise ImportError('broken')")
      %{python_path: [tools]} = pool_options([])
      pool = pool!(python_path: [tools, dir])
      elsewhere(fn -> result(pool, @mib) end)

      # A request that cannot be sent must not take the freed tokens with it.
      for _ <- 1..20 do
        assert {:error, %Error{category: :transfer, reason: :unavailable}} =
                 Snakepit.execute("pid", %{}, pool: pool, transfer: :grpc)
      end

      assert eventually(fn -> worker_slots(pool) == 0 end)
    end

    test "leases are counted for the process that called" do
      pool = pool!()
      {:ok, handle} = Pool.Handle.fetch(pool)
      me = self()
      mine = result(pool, @mib)
      assert [{^me, @mib}] = Native.arena_leases(handle.arena)

      task =
        Task.async(fn ->
          theirs = [result(pool, @mib), result(pool, @mib)]
          send(me, :there)
          receive do: (:go_on -> length(theirs))
        end)

      pid = task.pid
      assert_receive :there, 10_000
      assert [{^pid, 2_097_152}, {^me, @mib}] = Native.arena_leases(handle.arena)
      assert {:ok, %{leased_bytes: 3_145_728}} = Snakepit.get_stats(pool)
      send(pid, :go_on)
      assert Task.await(task) == 2
      assert eventually(fn -> Native.arena_leases(handle.arena) == [{me, @mib}] end)
      assert byte_size(mine.data) == @mib
    end

    test "a tool that keeps a view keeps its slot, until it forgets" do
      pool = pool!()
      held = fn -> hd(Snakepit.list_workers(pool)).held_buffers end

      keep = fn seed ->
        Snakepit.execute("keep", %{x: bytes(100_000, seed)}, pool: pool, transfer: :zero_copy)
      end

      assert {:ok, 1} = keep.(5)
      assert {:ok, 2} = keep.(9)
      assert held.() == 2

      for n <- 1..200 do
        data = noise(n, 100_000)

        assert {:ok, ^data} =
                 Snakepit.execute("fresh", %{x: Snakepit.bytes(data)},
                   pool: pool,
                   transfer: :zero_copy,
                   copy: true
                 )
      end

      # Their first bytes, as they were sent.
      assert Snakepit.execute("kept_sum", %{}, pool: pool) == {:ok, 5 + 9}
      assert held.() >= 2
      assert {:ok, 0} = Snakepit.execute("forget", %{}, pool: pool)
      assert eventually(fn -> held.() == 0 end)
      assert eventually(fn -> memory(pool).live_slots == 0 end)
    end

    test "a tool that keeps a result's memory keeps it from being written again" do
      pool = pool!()
      x = result(pool, 100_000)
      assert {:ok, 1} = Snakepit.execute("keep", %{x: x}, pool: pool, transfer: :zero_copy)
      assert x.data == :binary.copy(<<7>>, 100_000)
      # Gone here, still seen there.
      x = nil
      :erlang.garbage_collect()
      assert x == nil

      for n <- 1..50 do
        data = noise(n, 100_000)

        assert {:ok, ^data} =
                 Snakepit.execute("fresh", %{x: Snakepit.bytes(data)}, pool: pool, transfer: :zero_copy)
      end

      assert Snakepit.execute("kept_sum", %{}, pool: pool) == {:ok, 7}
    end

    test "idle chunks go back to the system, and memory is made again when it is wanted" do
      pool = pool!(idle_chunk_ms: 50, chunk_size: "1MB")

      for _ <- 1..2 do
        elsewhere(fn ->
          data = bytes(400_000)
          assert {:ok, _} = Snakepit.execute("fresh", %{x: data}, pool: pool, transfer: :zero_copy)
        end)

        assert eventually(fn -> memory(pool).chunks == 0 end)

        assert eventually(fn ->
                 Snakepit.execute!("numpy_value", %{code: "snakepit.memory.memory_array.arena.total"},
                   pool: pool
                 ) ==
                   0
               end)
      end
    end
  end

  describe "bounded" do
    # 512 KiB in each direction.
    @small [chunk_size: "256KB", memory_quota: "1MB"]

    test "over the quota, what is forced fails and says so, what is free goes another way" do
      pool = pool!(@small)
      large = bytes(2 * @mib)

      assert {:error, %Error{category: :transfer, reason: :quota} = error} =
               Snakepit.execute("length", %{x: large}, pool: pool, request_transfer: :zero_copy)

      assert error.message =~
               "#{2 * @mib} bytes are more than pool #{inspect(pool)} may hold for arguments, 524288"

      assert error.message =~ ":memory_quota"
      assert {:error, %Error{reason: :quota, message: message}} = Snakepit.share(large, pool: pool)
      assert message =~ ":memory_quota"
      assert {{:ok, 2_097_152}, %{request_way: :inline}} = Snakepit.observe("length", %{x: large}, pool: pool)

      assert {:error, %Error{category: :transfer, reason: :quota}} =
               Snakepit.execute("ones", %{n: 2 * @mib}, pool: pool, reply_transfer: :zero_copy)

      assert {{:ok, %Tensor{shape: {2_097_152}}}, %{reply_way: :inline}} =
               Snakepit.observe("ones", %{n: 2 * @mib}, pool: pool)

      assert {:error, %Error{category: :transfer}} = Snakepit.share(large, pool: pool)
      assert memory(pool).held_bytes <= 512 * 1024
      # And what fits still goes.
      assert {:ok, 100_000} =
               Snakepit.execute("length", %{x: bytes(100_000)}, pool: pool, transfer: :zero_copy)
    end

    test "results nobody lets go of: replies come inline, and by shared memory again when there is room" do
      pool = pool!(@small)
      ones = fn -> Snakepit.observe("ones", %{n: 100_000}, pool: pool) end

      elsewhere(fn ->
        # Memory is made beside the calls: the first results come inline, then some by shared memory, then no more.
        held = until_full(ones, [])
        assert Enum.all?(held, fn {{:ok, x}, _} -> x.data == :binary.copy(<<1>>, 100_000) end)
      end)

      assert eventually(fn -> match?({{:ok, _}, %{reply_way: :zero_copy}}, elsewhere(ones)) end)
    end

    test "who holds most without knowing is made to collect" do
      pool = pool!(@small)

      # A process that lets go of every result, and never collects by itself.
      holder =
        spawn(fn ->
          for _ <- 1..12, do: Snakepit.execute("ones", %{n: 100_000}, pool: pool)
          receive do: (:never -> :ok)
        end)

      on_exit(fn -> Process.exit(holder, :kill) end)
      ones = fn -> Snakepit.observe("ones", %{n: 100_000}, pool: pool) end
      assert eventually(fn -> match?({{:ok, _}, %{reply_way: :zero_copy}}, elsewhere(ones)) end)
      assert Process.alive?(holder)
    end

    test "a caller that lets go of its results has room for the next, however seldom it would collect by itself" do
      pool = pool!(memory_quota: "2MB", chunk_size: "1MB")

      elsewhere(fn ->
        # A heap with room for all that these calls leave on it.
        :erlang.process_flag(:min_heap_size, 1_000_000)
        :erlang.garbage_collect()
        for _ <- 1..40, do: assert(byte_size(result(pool, 256 * 1024).data) == 256 * 1024)
      end)
    end

    test "results that a task passed on: whoever has them is made to collect" do
      pool = pool!(@small)
      test = self()

      # Gets results of a task that is dead by then, lets go of each, and never collects by itself.
      holder =
        spawn(fn ->
          for _ <- 1..12, do: elsewhere(fn -> Snakepit.execute("ones", %{n: 100_000}, pool: pool) end)
          # So that it is the one who refers to most.
          kept = :binary.copy(<<1>>, 64 * @mib)
          send(test, :holding)
          receive do: (:never -> kept)
        end)

      on_exit(fn -> Process.exit(holder, :kill) end)
      assert_receive :holding, 30_000
      ones = fn -> Snakepit.observe("ones", %{n: 100_000}, pool: pool) end
      assert eventually(fn -> match?({{:ok, _}, %{reply_way: :zero_copy}}, elsewhere(ones)) end)
      assert Process.alive?(holder)
    end

    test "a pool that may not use shared memory has none" do
      pool = pool!(transfers: [:inline])
      data = bytes(@mib)

      assert {{:ok, _}, %{request_way: :inline, reply_way: :inline}} =
               Snakepit.observe("fresh", %{x: data}, pool: pool)

      assert %{chunks: 0, held_bytes: 0} = memory(pool)

      assert {:error, %Error{category: :validation, reason: :way_not_allowed}} =
               Snakepit.execute("fresh", %{x: data}, pool: pool, transfer: :zero_copy)
    end
  end

  test "eight callers at once, sizes around every limit, and every byte is right" do
    pool = pool!(size: 2, chunk_size: "1MB", memory_quota: "16MB")
    sizes = [1, 4095, 4096, 4097, 65_536, 100_003, 524_288, 524_289, 1_048_576, 1_300_000]

    wrong =
      1..8
      |> Enum.map(fn n -> Task.async(fn -> calls(pool, n, sizes) end) end)
      |> Task.await_many(120_000)
      |> List.flatten()

    assert wrong == []
    assert {:ok, %{errors: 0}} = Snakepit.get_stats(pool)
    assert eventually(fn -> memory(pool).live_slots == 0 end)
  end

  # Results are held for a while and looked at again, when other calls have used the memory around them.
  defp calls(pool, n, sizes) do
    :rand.seed(:exsss, n)

    {wrong, held} =
      Enum.reduce(1..250, {[], []}, fn i, {wrong, held} ->
        size = Enum.random(sizes) + :rand.uniform(3) - 2
        data = noise(n * 31 + i, size)
        tool = Enum.random(["fresh", "identity"])
        # Now and then a result of before is sent on.
        {data, value} = if i > 10 and :rand.uniform(3) == 1, do: hd(held), else: {data, data}
        {:ok, back} = Snakepit.execute(tool, %{x: Snakepit.bytes(value)}, pool: pool)
        wrong = if back == data, do: wrong, else: [{n, i, tool, byte_size(data)} | wrong]
        {wrong, Enum.take([{data, back} | held], 5)}
      end)

    wrong ++ for {data, back} <- held, data != back, do: {n, :held, byte_size(data)}
  end
end
