defmodule Snakepit.NativeTest do
  # The stubs keep the promises of their specs (Dialyzer believes them), and no bytes from outside harm the VM.
  use ExUnit.Case, async: true
  import Snakepit.Case, only: [eventually: 1]
  import Snakepit.Properties
  alias Snakepit.{Bytes, Native, Tensor}

  @chunk 64 * 1024
  @plain {false, false, MapSet.new()}
  @copy {true, false, MapSet.new()}
  # Ways and kinds on the wire (native/PROTOCOL.md).
  @inline 0
  @zero_copy 1
  @grpc 2
  @result 1

  defp arena(quota \\ 16 * @chunk) do
    {arena, _owner} = Native.arena_new(@chunk, quota)
    arena
  end

  # A worker without a process, with one chunk of its own: made as an arena's, and adopted by a descriptor of its own.
  defp worker_with_chunk do
    arena = arena()
    {:ok, [id]} = Native.arena_ensure(arena, [100])
    {:ok, fd, size, holder} = Native.chunk_fd(id)
    {worker, owner} = Native.worker_new(arena, 1_000_000_000)
    chunk = Bitwise.bsl(owner, 32) + 1
    :ok = Native.worker_adopt(worker, chunk, size, duplicate(fd))
    %{arena: arena, worker: worker, chunk: chunk, size: size, holder: holder}
  end

  # A descriptor of the same file: sent over a socket, as from a worker.
  defp duplicate(fd) do
    {here, there} = socket_pair()
    rights = [%{level: :socket, type: :rights, data: <<fd::32-native>>}]
    :ok = :socket.sendmsg(there, %{iov: ["x"], ctrl: rights})
    {:ok, %{ctrl: [%{data: <<copy::32-native>>}]}} = :socket.recvmsg(here)
    Enum.each([there, here], &:socket.close/1)
    copy
  end

  defp socket_pair do
    path = Path.join(System.tmp_dir!(), "snakepit-test-#{System.unique_integer([:positive])}.sock")
    {:ok, listening} = :socket.open(:local, :stream)
    :ok = :socket.bind(listening, %{family: :local, path: path})
    :ok = :socket.listen(listening)
    {:ok, there} = :socket.open(:local, :stream)
    :ok = :socket.connect(there, %{family: :local, path: path})
    {:ok, here} = :socket.accept(listening)
    File.rm!(path)
    :ok = :socket.close(listening)
    {here, there}
  end

  # A reply as a worker writes it.
  defp frame(call_id, way, table, envelope, opts \\ []) do
    tokens = opts[:released] || []

    entries =
      for entry <- table, into: <<>> do
        case entry do
          {chunk, offset, length, token} ->
            <<chunk::64-little, offset::64-little, length::64-little, token::64-little>>

          buffer when is_binary(buffer) ->
            <<byte_size(buffer)::64-little>>
        end
      end

    head =
      <<opts[:kind] || @result, way, 0, 0, byte_size(envelope)::32-little, call_id::64-little, 5::64-little,
        length(table)::32-little,
        length(tokens)::32-little>> <>
        entries <> for(t <- tokens, into: <<>>, do: <<t::64-little>>) <> envelope

    if way == @inline, do: Enum.reduce(table, head, &(pad(&2) <> &1)), else: head
  end

  defp pad(bytes), do: bytes <> :binary.copy(<<0>>, rem(64 - rem(byte_size(bytes), 64), 64))

  # A bin of the buffer with this index.
  defp ref(index), do: <<0xD6, 4, index::32-little>>

  describe "memory whose owner died" do
    # Runs in a process that is killed afterwards; its answer is kept here, where nothing is collected.
    defp by_one_who_dies(fun) do
      me = self()
      {pid, ref} = spawn_monitor(fn -> send(me, {:made, fun.()}) && Process.sleep(:infinity) end)
      made = receive do: ({:made, made} -> made)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^ref, _, _, :killed} -> made)
    end

    test "is given back, whoever still has the arena; bytes in it stay as they are" do
      {arena, kept, free, used} =
        by_one_who_dies(fn ->
          arena = arena()
          {:ok, [free]} = Native.arena_ensure(arena, [@chunk])
          {:ok, kept} = Native.arena_share(arena, :binary.copy("k", 2 * @chunk))
          [{used, _}] = for {id, size} <- Native.arena_chunks(arena), size > @chunk, do: {id, size}
          {arena, kept, free, used}
        end)

      assert eventually(fn -> Native.chunk_fd(free) == :error end)
      assert Native.arena_chunks(arena) == []
      assert kept == :binary.copy("k", 2 * @chunk)
      assert {:ok, _, _, _} = Native.chunk_fd(used)
      assert Native.arena_ensure(arena, [1]) == {:error, :closed}
      assert Native.arena_grow(arena) == {:error, :closed}
      assert Native.arena_share(arena, "x") == {:error, :closed}
    end

    test "is given back by a worker's process, too" do
      {worker, chunk} =
        by_one_who_dies(fn ->
          %{worker: worker, chunk: chunk} = worker_with_chunk()
          {:ok, _, _, _} = Native.chunk_fd(chunk)
          {worker, chunk}
        end)

      assert eventually(fn -> Native.chunk_fd(chunk) == :error end)
      refute Native.worker_forget(worker, chunk)
    end
  end

  describe "encode" do
    test "an envelope and the large binaries beside it" do
      large = :binary.copy("b", 100)
      args = %{"a" => large, b: %Bytes{data: large}, c: Tensor.new(large, :u8), d: "small"}
      assert {:ok, envelope, buffers, {300, 300, 4}} = Native.encode("cmd", args, nil, 100)
      assert is_binary(envelope)
      assert buffers == [large, large, large]
      assert {:ok, _, [], {0, 0, 4}} = Native.encode("cmd", args, "session", 101)
    end

    test "as much as one likes: the dirty twin answers alike" do
      args = %{"x" => Enum.to_list(1..100_000)}
      assert {:ok, envelope, [], {0, 0, 4}} = Native.encode("cmd", args, nil, 4096)
      assert {:ok, ["cmd", ^args, nil]} = Native.unpack(envelope, MapSet.new())
      assert Native.encode_clean("cmd", args, nil, 4096) == :dirty

      assert {:error, "args.x[100000]", :unsupported_type, "a pid"} =
               Native.encode("cmd", %{x: Enum.to_list(1..100_000) ++ [self()]}, nil, 4096)
    end

    test "whatever is long to look at is left to the dirty twin before it is looked at" do
      zone = %{~U[2024-01-01 00:00:00Z] | time_zone: String.duplicate("z", 2_000_000)}
      long = Enum.to_list(1..10_000)

      for value <- [long, List.to_tuple(long), MapSet.new(long), Map.new(long, &{&1, 1}), zone] do
        assert Native.encode_clean("cmd", %{x: value}, nil, 4096) == :dirty
        assert {:ok, _, [], _} = Native.encode("cmd", %{x: value}, nil, 4096)
      end

      improper = Enum.reduce(1..10_000, 0, &[&1 | &2])
      assert Native.encode_clean("cmd", %{x: improper}, nil, 4096) == :dirty

      assert {:error, "args.x", :unsupported_type, "an improper list"} =
               Native.encode("cmd", %{x: improper}, nil, 4096)

      # So short that an ordinary scheduler finds out.
      assert {:error, "args.x", :unsupported_type, "an improper list"} =
               Native.encode_clean("cmd", %{x: [1 | 2]}, nil, 4096)
    end

    test "refusals say where, why and in words" do
      assert {:error, path, :unsupported_type, what} = Native.encode("cmd", %{"x" => [1, self()]}, nil, 10)
      assert {path, what} == {~s(args["x"][1]), "a pid"}
      assert {:error, "session_id", :not_utf8, _} = Native.encode("cmd", %{}, <<255>>, 10)
      assert :convert = Native.encode("cmd", %{x: %{__struct__: Nx.Tensor}}, nil, 10)
    end
  end

  describe "request and reply" do
    setup do
      worker_with_chunk()
    end

    defp head(way), do: {1, way, 7, 0, 0, 0}

    test "a request by every way", %{worker: worker, arena: arena} do
      {:ok, _} = Native.arena_ensure(arena, [@chunk])
      buffers = [:binary.copy("x", 5000)]

      for way <- [@inline, @zero_copy, @grpc] do
        assert {:ok, call_id, frame, unsent, copied} = Native.request(worker, arena, head(way), "e", buffers)
        assert is_integer(call_id) and call_id > 0
        frame = IO.iodata_to_binary(frame)

        assert <<1, ^way, 7, 0, 1::32-little, ^call_id::64-little, 0::32-little, 1::32-little, _::binary>> =
                 frame

        assert copied == if(way == @zero_copy, do: 5000, else: 0)
        assert length(unsent) == if(way == @zero_copy, do: 1, else: 0)
      end

      assert {:ok, _, _, [], 5000} = Native.request(worker, arena, head(@zero_copy), "e", buffers)
      assert Native.worker_held(worker) == 2
    end

    test "many buffers, tokens or bytes are too much for an ordinary scheduler: the dirty twin does the same",
         context do
      %{worker: worker, arena: arena, chunk: chunk} = context
      many = for n <- 1..10_000, do: <<n::32>>
      {:ok, _} = Native.arena_ensure(arena, [@chunk])
      {:ok, _} = Native.arena_grow(arena)

      # As a request…
      args = %{"x" => Enum.map(1..200, &%Bytes{data: <<&1::64>>})}
      assert Native.encode_clean("c", args, nil, 8) == :dirty
      assert {:ok, _, few, {1600, 1600, 0}} = Native.encode("c", args, nil, 8)
      assert Native.request_clean(worker, arena, head(@zero_copy), "e", few) == :dirty
      assert {:ok, _, frame, [_ | _], 1600} = Native.request(worker, arena, head(@zero_copy), "e", few)
      assert Native.request_clean(worker, arena, head(@inline), "e", many) == :dirty
      assert {:ok, _, [_ | _] = inline, [], 0} = Native.request(worker, arena, head(@inline), "e", many)

      # …whose many parts a lane sends as well…
      {fd, there} = end_of_lane()
      lane = Native.lane_open(fd)
      assert Native.lane_send_clean(lane, inline) == :dirty
      assert Native.lane_send(lane, inline) in [:ok, :wait, :again]
      assert {:ok, <<size::32>>} = :socket.recv(there, 4)
      assert size == IO.iodata_length(inline)
      :ok = Native.lane_close(lane)

      # …whose tokens come back at once…
      <<_::binary-size(32), table::binary-size(6400), _::binary>> = frame
      tokens = for <<_::binary-size(24), token::64-little <- table>>, do: token
      assert Native.worker_held(worker) == 200
      returned = frame(9, @inline, [], <<1>>, released: tokens)
      assert {:ok, :result, 1, _} = Native.reply(worker, 9, returned, [], @plain)
      assert Native.worker_held(worker) == 0
      unknown = Enum.to_list(1..5_000)
      assert Native.worker_released_clean(worker, unknown) == :dirty
      refute Native.worker_released(worker, unknown)
      returned = frame(9, @inline, [], <<1>>, released: unknown)
      assert Native.reply_clean(worker, 9, returned, [], @plain) == :dirty
      assert {:error, :protocol, _} = Native.reply(worker, 9, returned, [], @plain)

      # …and as a reply, by every way.
      indices = for n <- 0..9_999, into: <<0xDC, 10_000::16>>, do: ref(n)
      places = for n <- 1..10_000, do: {chunk, 0, 4, n}

      for {way, table, beside} <- [{@inline, many, []}, {@zero_copy, places, []}, {@grpc, many, many}] do
        frame = frame(9, way, table, indices)
        assert Native.reply_clean(worker, 9, frame, beside, @plain) == :dirty
        assert {:ok, :result, all, {^way, _, 5, 0, _}} = Native.reply(worker, 9, frame, beside, @plain)
        assert length(all) == 10_000
        assert way == @zero_copy or all == many
      end

      :erlang.garbage_collect()
      # The worker has them back one part at a time.
      assert eventually(fn ->
               freed = Native.worker_freed_some(worker)
               Process.put(:freed, freed ++ Process.get(:freed, []))
               assert length(freed) <= 1_024
               length(Process.get(:freed)) == 10_000
             end)

      assert Enum.sort(Process.get(:freed)) == Enum.to_list(1..10_000)
    end

    # The descriptor of a lane's end here, and the other end.
    defp end_of_lane do
      {here, there} = socket_pair()
      {:ok, fd} = :socket.getopt(here, {:otp, :fd})
      copy = duplicate(fd)
      :ok = :socket.close(here)
      {copy, there}
    end

    test "without memory at hand it is cold, and says for which lengths", %{worker: worker} do
      assert {:cold, [5000, 6000]} =
               Native.request(worker, arena(), head(@zero_copy), "e", [
                 :binary.copy("x", 5000),
                 :binary.copy("x", 6000)
               ])
    end

    test "replies of every kind and way", %{worker: worker, chunk: chunk} do
      for {kind, name} <- [{1, :result}, {2, :error}, {3, :item}] do
        frame = frame(9, @inline, [], <<0x92, 1, 2>>, kind: kind)
        assert Native.reply(worker, 9, frame, [], @plain) == {:ok, name, [1, 2], {@inline, 3, 5, 0, 0}}
      end

      for {kind, name} <- [{4, :end}, {5, :fetch}] do
        frame = frame(9, @inline, [], <<0xC0>>, kind: kind)
        assert {:ok, ^name, nil, _} = Native.reply(worker, 9, frame, [], @plain)
      end

      data = :binary.copy("d", 5000)
      inline = frame(9, @inline, [data, "second"], <<0x92, ref(1)::binary, ref(0)::binary>>)

      assert {:ok, :result, ["second", ^data], {@inline, _, 5, 0, 0}} =
               Native.reply(worker, 9, inline, [], @plain)

      beside = frame(9, @grpc, [data], ref(0))
      assert {:ok, :result, ^data, {@grpc, _, 5, 0, 0}} = Native.reply(worker, 9, beside, [data], @plain)
      assert {:error, :protocol, _} = Native.reply(worker, 9, beside, [data, data], @plain)
      assert {:error, :protocol, _} = Native.reply(worker, 9, beside, ["short"], @plain)

      shared = frame(9, @zero_copy, [{chunk, 64, 1000, 1}], ref(0))
      assert {:ok, :result, there, {@zero_copy, _, 5, 0, 0}} = Native.reply(worker, 9, shared, [], @plain)
      assert byte_size(there) == 1000 and Native.in_chunk(there)
      assert {:ok, :result, ^there, _} = answer = Native.reply(worker, 9, shared, [], @copy)
      refute Native.in_chunk(elem(answer, 2))
    end

    test "a chunk that was not announced, places outside of one, tokens nobody gave", context do
      %{worker: worker, chunk: chunk, size: size} = context
      reply = fn place -> Native.reply(worker, 9, frame(9, @zero_copy, [place], ref(0)), [], @plain) end
      assert reply.({chunk + 1, 0, 1, 1}) == {:error, :unknown_chunk, chunk + 1}
      assert {:ok, _, _, _} = reply.({chunk, size - 1, 1, 1})
      max = 2 ** 64 - 1

      for {offset, length} <- [{size, 1}, {0, size + 1}, {max, 1}, {1, max}, {max, max}] do
        assert {:error, :protocol, _} = reply.({chunk, offset, length, 1})
      end

      stray = frame(9, @inline, [], <<1>>, released: [12])
      assert {:error, :protocol, _} = Native.reply(worker, 9, stray, [], @plain)
      assert {:error, :protocol, _} = Native.reply(worker, 8, frame(9, @inline, [], <<1>>), [], @plain)
    end

    test "a value that Elixir cannot hold is named with its place", %{worker: worker} do
      # A set of "a" and b"a".
      set = <<0x91, 0xC7, 6, 3, 0x92, 0xA1, ?a, 0xC4, 1, ?a>>
      frame = frame(9, @inline, [], set)
      assert {:error, :value, "result[0]", :key_collision, words} = Native.reply(worker, 9, frame, [], @plain)
      assert words =~ "set"
    end

    # What an honest worker may send, by every way.
    defp honest(term, chunk, size) do
      {:ok, envelope, buffers, _} = Native.encode("c", %{"x" => term}, nil, 64)

      places =
        for {b, i} <- Enum.with_index(buffers),
            do: {chunk, rem(64 * i, size - byte_size(b)), byte_size(b), i + 1}

      [
        {frame(9, @inline, buffers, envelope), []},
        {frame(9, @zero_copy, places, envelope), []},
        {frame(9, @grpc, buffers, envelope), buffers}
      ]
    end

    # The library's own flags among them: that the test's results are garbage enough to collect.
    defp expected?({:ok, kind, _term, {way, bytes, ns, gil, flags}}),
      do:
        kind in [:result, :error, :item, :end, :fetch] and way in 0..2 and bytes >= 0 and ns >= 0 and gil >= 0 and
          flags in 0..15

    defp expected?({:error, :protocol, what}), do: String.valid?(what)
    defp expected?({:error, :unknown_chunk, id}), do: is_integer(id)
    defp expected?({:error, :value, path, reason, what}), do: is_atom(reason) and String.valid?(path <> what)
    defp expected?(_other), do: false

    test "random frames are refused, and do no harm", %{worker: worker} do
      holds(:proper_types.binary(), 3_000, fn bytes ->
        match?({:error, :protocol, _}, answer_of(fn -> Native.reply(worker, 9, bytes, [], @plain) end))
      end)
    end

    test "a sound header around random envelopes", %{worker: worker} do
      holds(:proper_types.binary(), 5_000, fn bytes ->
        expected?(
          answer_of(fn -> Native.reply(worker, 9, frame(9, @inline, ["buffer"], bytes), [], @plain) end)
        ) and
          case answer_of(fn -> Native.unpack(bytes, MapSet.new()) end) do
            {:ok, _term} -> true
            {:error, what} -> String.valid?(what)
            _ -> false
          end
      end)
    end

    @tag :fuzz
    @tag timeout: :infinity
    test "frames that were changed on the way", %{worker: worker, chunk: chunk, size: size} do
      change = {:proper_types.integer(0, 1_000_000), :proper_types.integer(0, 255)}
      cut = :proper_types.integer(0, 1_000_000)
      type = {Snakepit.Terms.term([64, 1000]), :proper_types.list(change), cut}

      keeps_holding("beam: frames", type, 300, fn {term, changes, cut} ->
        Enum.all?(honest(term, chunk, size), fn {frame, beside} ->
          sound = Native.reply(worker, 9, frame, beside, @plain)
          cut = binary_part(frame, 0, rem(cut, byte_size(frame)))

          match?({:ok, :result, ["c", _, nil], _}, sound) and
            Enum.all?([cut | Enum.scan(changes, frame, &change/2)], fn bytes ->
              Enum.all?(
                [@plain, @copy],
                &expected?(answer_of(fn -> Native.reply(worker, 9, bytes, beside, &1) end))
              )
            end)
        end)
      end)
    end

    defp change({at, byte}, frame) do
      # Often in the header and the table, where it tells most.
      at = if rem(at, 2) == 0, do: rem(at, min(byte_size(frame), 64)), else: rem(at, byte_size(frame))
      <<before::binary-size(at), _, rest::binary>> = frame
      <<before::binary, byte, rest::binary>>
    end

    test "numbers that claim more than there is", %{worker: worker} do
      for envelope <- [
            <<0xDD, 0xFFFFFFFF::32>>,
            <<0xDF, 0xFFFFFFFF::32>>,
            <<0xC6, 0xFFFFFFFF::32>>,
            <<0xC9, 0xFFFFFFFF::32, 2>>,
            <<0xD6, 4, 0xFFFFFFFF::32>>,
            :binary.copy(<<0x91>>, 100_000),
            # A tensor whose dimensions multiply to more than 2^64, or to none.
            <<0xC7, 28, 6, 0x93, 0xA2, "u8", 0x92, 0xCF, 2 ** 63::64, 0xCF, 2 ** 63::64, 0xC4, 0, 0, 0>>
          ] do
        assert {:error, :protocol, _} = Native.reply(worker, 9, frame(9, @inline, [], envelope), [], @plain)
      end

      <<before::binary-size(24), _counts::64, rest::binary>> = frame(9, @inline, [], <<1>>)
      frame = <<before::binary, 0xFFFFFFFFFFFFFFFF::64, rest::binary>>
      assert {:error, :protocol, _} = Native.reply(worker, 9, frame, [], @plain)
    end
  end

  describe "control messages" do
    test "long lists are whole, whatever numbers are in them, and whatever else" do
      edges =
        for bits <- [7, 8, 15, 16, 31, 32, 59, 60, 63],
            near <- -1..1,
            sign <- [-1, 1],
            do: sign * 2 ** bits + near

      ints = Enum.filter(edges, &(&1 in -(2 ** 63)..(2 ** 64 - 1)//1)) ++ Enum.to_list(-70..70)
      within = Enum.filter(ints, &(&1 < 2 ** 63))
      floats = for n <- -50..50, do: n / 7

      for list <- [
            ints,
            within,
            floats,
            floats ++ [1.0e308, 5.0e-324, -0.0],
            within ++ floats,
            floats ++ [:infinity],
            [:nan | floats],
            within ++ ["text"],
            within ++ [within, [floats]],
            [nil, true | floats],
            Enum.map(within, &%{"k" => &1, "text" => floats})
          ] do
        {:ok, packed} = Native.pack(list)
        assert Native.unpack(packed, MapSet.new()) == {:ok, list}
        # A list that ends early is no list.
        assert {:error, _} = Native.unpack(binary_part(packed, 0, byte_size(packed) - 1), MapSet.new())
      end
    end

    test "a list of numbers may lie no deeper than any other" do
      numbers = Enum.to_list(1..100)
      nested = fn depth -> Enum.reduce(2..depth, numbers, fn _, inner -> [inner] end) end
      {:ok, fits} = Native.pack(nested.(128))
      assert Native.unpack(fits, MapSet.new()) == {:ok, nested.(128)}
      assert {:error, _} = Native.unpack(<<0x91>> <> fits, MapSet.new())
    end

    test "come back equal" do
      message = [
        "welcome",
        %{"owner" => 1, "modules" => ["a"], "token" => "t"},
        [1, 2 ** 63, -1],
        nil,
        true,
        1.5
      ]

      assert {:ok, packed} = Native.pack(message)
      assert Native.unpack(packed, MapSet.new()) == {:ok, message}
      assert Native.pack([self()]) == :error
      assert {:error, what} = Native.unpack(packed <> <<0>>, MapSet.new())
      assert is_binary(what)
    end
  end

  test "the layout of frames is what the protocol says" do
    layout = Map.new(Native.frame_layout(), fn {section, entries} -> {section, Map.new(entries)} end)
    assert layout["sizes"]["header"] == [32]
    assert layout["ways"] == %{"inline" => [0], "zero_copy" => [1], "grpc" => [2]}
    assert layout["request_kinds"] == %{"call" => [1], "fetch" => [2], "synchronize" => [3]}
    assert layout["reply_kinds"]["fetch"] == [5]
    assert layout["request"]["lane"] == [28, 2]

    for section <- ["request", "reply"] do
      # The fields lie one after the other within the header.
      fields = layout[section] |> Map.values() |> Enum.sort()
      assert [0, 1] = hd(fields)
      assert [at, size] = List.last(fields)
      assert at + size == 32
    end
  end

  describe "arenas and workers" do
    test "chunks are made, used, listed, and dropped when idle" do
      assert {arena, owner} = Native.arena_new(@chunk, 4 * @chunk)
      assert is_reference(arena) and owner > 0
      assert Native.arena_chunks(arena) == []
      assert {:ok, [id]} = Native.arena_ensure(arena, [10, 20])
      assert Bitwise.bsr(id, 32) == owner
      assert [{^id, @chunk}] = Native.arena_chunks(arena)
      assert {:ok, shared} = Native.arena_share(arena, "0123456789")
      assert shared == "0123456789" and Native.in_chunk(shared)
      assert %{chunks: 1, held_bytes: @chunk, live_slots: 1, live_bytes: live} = Native.arena_usage(arena)
      assert live >= 10
      Native.arena_tend(arena, 0)
      assert {:ok, [other]} = Native.arena_grow(arena)
      assert {other, @chunk} in Native.arena_chunks(arena)
      refute Native.arena_tend(arena, 0)
      assert [{^id, @chunk}] = Native.arena_chunks(arena)
      assert Native.arena_leases(arena) == []
      assert byte_size(shared) == 10
    end

    test "what is shared gets the memory that it lacks" do
      arena = arena(2 * @chunk)
      assert {:ok, shared} = Native.arena_share(arena, "none is there yet")
      assert shared == "none is there yet" and Native.in_chunk(shared)
      assert {:error, {:quota, _, _}} = Native.arena_share(arena, :binary.copy("x", 10 * @chunk))
      assert shared == "none is there yet"
    end

    test "a quota, and sizes that no chunk has" do
      arena = arena(2 * @chunk)
      assert {:error, {:quota, held, quota}} = Native.arena_ensure(arena, [10 * @chunk])
      assert is_integer(held) and quota == 2 * @chunk
      assert {:error, refusal} = Native.arena_ensure(arena, [2 ** 63])
      assert refusal == :too_large or match?({:quota, _, _}, refusal)
      assert {:ok, _} = Native.arena_grow(arena)
      assert {:ok, _} = Native.arena_grow(arena)
      # A third is made in place of what nobody uses.
      assert {:ok, [third]} = Native.arena_grow(arena)
      assert {third, @chunk} in Native.arena_chunks(arena)
      assert Native.arena_usage(arena).held_bytes <= 2 * @chunk
    end

    test "a worker's chunks are checked before they are mapped" do
      %{worker: worker, arena: arena, chunk: chunk, size: size} = worker_with_chunk()
      [{id, _}] = Native.arena_chunks(arena)
      {:ok, fd, ^size, holder} = Native.chunk_fd(id)
      assert is_integer(fd) and is_reference(holder)

      for {claimed, bytes, words} <- [
            {chunk, size, "announced twice"},
            {chunk - 1, size, "ids only grow"},
            {id, size, "not this worker's"},
            {chunk + 1, size + 4096, "bytes was announced"},
            {chunk + 2, 0, "bytes was announced"}
          ] do
        assert {:error, why} = Native.worker_adopt(worker, claimed, bytes, duplicate(fd))
        assert why =~ words
      end

      {:ok, socket} = :socket.open(:local, :stream)
      {:ok, no_memory} = :socket.getopt(socket, {:otp, :fd})
      assert {:error, why} = Native.worker_adopt(worker, chunk + 3, size, duplicate(no_memory))
      assert why =~ "not sealed"
      :socket.close(socket)
      assert {:error, _} = Native.worker_adopt(worker, chunk + 4, size, -1)
      # Alive until here, and with it the descriptor's number.
      assert Native.arena_chunks(arena) == [{id, size}] and is_reference(holder)
      assert Native.worker_forget(worker, chunk)
      refute Native.worker_forget(worker, chunk)
      assert Native.chunk_fd(2 ** 64 - 1) == :error
      assert Native.close_fd(duplicate(fd)) == :ok
      # Still open: what was closed were the duplicates.
      assert Native.close_fd(duplicate(fd)) == :ok
    end

    test "a chunk id that was dropped does not come back, and hides no chunk that is still in use" do
      %{worker: worker, arena: arena, chunk: chunk, size: size} = worker_with_chunk()
      [{id, _}] = Native.arena_chunks(arena)
      {:ok, fd, ^size, holder} = Native.chunk_fd(id)
      shared = frame(9, @zero_copy, [{chunk, 0, 100, 1}], ref(0))
      assert {:ok, :result, bytes, _} = Native.reply(worker, 9, shared, [], @plain)
      assert Native.worker_forget(worker, chunk)
      assert {:error, why} = Native.worker_adopt(worker, chunk, size, duplicate(fd))
      assert why =~ "announced twice"
      assert {:error, ^why} = Native.worker_refuse(worker, chunk)
      assert {:error, why} = Native.worker_refuse(worker, id)
      assert why =~ "not this worker's"
      assert Native.worker_refuse(worker, chunk + 1) == :ok
      # The first chunk, in which the binary lies, still has the id to itself.
      assert {:ok, _, ^size, _} = Native.chunk_fd(chunk)
      assert byte_size(bytes) == 100 and Native.in_chunk(bytes) and is_reference(holder)
    end

    test "what a worker is sent, holds and gives back" do
      %{worker: worker, arena: arena} = worker_with_chunk()
      [{id, _}] = Native.arena_chunks(arena)
      assert Native.worker_needs_chunk(worker, id)
      refute Native.worker_needs_chunk(worker, id)
      # Its chunk lives: it need not be unmapped.
      assert Native.worker_stale(worker) == []

      assert {:ok, _, frame, [], 100} =
               Native.request(worker, arena, head(@zero_copy), "e", [:binary.copy("x", 100)])

      <<_::binary-size(32), _::binary-size(24), token::64-little, _::binary>> = frame
      assert Native.worker_held(worker) == 1
      refute Native.worker_released(worker, [token + 100])
      assert Native.worker_released(worker, [token])
      refute Native.worker_released(worker, [token])
      assert Native.worker_held(worker) == 0
      assert Native.worker_freed(worker) == []
      assert Native.worker_close(worker) == :ok
      assert Native.arena_usage(arena).live_slots == 0
    end

    test "results are leased to who called, and their tokens come back once" do
      %{worker: worker, arena: arena, chunk: chunk} = worker_with_chunk()
      me = self()
      frame = frame(9, @zero_copy, [{chunk, 0, 1000, 77}], ref(0))
      {:ok, :result, there, _} = Native.reply(worker, 9, frame, [], @plain)
      assert [{^me, 1000}] = Native.arena_leases(arena)
      watch = Native.watch(%{list: [there, {"plain", there}]})
      assert Native.watch_freed(watch) == 0
      assert byte_size(there) == 1000
      :erlang.garbage_collect()
      assert eventually(fn -> Native.worker_freed(worker) == [77] end)
      assert Native.worker_freed(worker) == []
      assert Native.watch_freed(watch) >= 1000
      assert Native.arena_leases(arena) == []
      refute Native.in_chunk("plain")
    end

    test "a request that may not be sendable takes no tokens along" do
      %{worker: worker, arena: arena, chunk: chunk} = worker_with_chunk()

      use_and_drop = fn ->
        {:ok, :result, _there, _} =
          Native.reply(worker, 9, frame(9, @zero_copy, [{chunk, 0, 10, 5}], ref(0)), [], @plain)

        :ok
      end

      use_and_drop.()
      :erlang.garbage_collect()
      assert eventually(fn -> Native.arena_leases(arena) == [] end)
      {:ok, _, by_grpc, [], 0} = Native.request(worker, arena, head(@grpc), "e", [])
      assert <<_::binary-size(24), 0::32-little, _::binary>> = by_grpc

      assert eventually(fn ->
               {:ok, _, inline, [], 0} = Native.request(worker, arena, head(@inline), "e", [])
               match?(<<_::binary-size(24), 1::32-little, _::32, 5::64-little, "e">>, inline)
             end)
    end

    test "looking a binary up while others let go of theirs" do
      # Whoever looks may turn out to hold the last reference: it must not be let go under the lock it was found by.
      %{worker: worker, chunk: chunk} = worker_with_chunk()
      places = for i <- 0..15, do: {chunk, 0, 100 + i, i + 1}
      envelope = <<0xDC, 16::16, Enum.map_join(0..15, &ref/1)::binary>>
      frame = frame(9, @zero_copy, places, envelope)
      wide = frame(9, @zero_copy, [{chunk, 0, 4000, 99}], ref(0))
      {:ok, :result, whole, _} = Native.reply(worker, 9, wide, [], @plain)

      droppers =
        for _ <- 1..2 do
          Task.async(fn ->
            for _ <- 1..5_000 do
              {:ok, :result, all, _} = Native.reply(worker, 9, frame, [], @plain)
              16 = length(all)
              :erlang.garbage_collect()
            end

            :done
          end)
        end

      # Only `whole` is as long; the others are looked at on the way to it.
      looker = spawn_link(fn -> look(whole) end)
      assert Task.await_many(droppers, 60_000) == [:done, :done]
      Process.unlink(looker)
      Process.exit(looker, :kill)
      assert byte_size(whole) == 4000
    end

    defp look(binary) do
      Native.in_chunk(binary)
      look(binary)
    end
  end

  describe "spinning" do
    setup do
      {here, there} = socket_pair()
      {:ok, fd} = :socket.getopt(here, :otp, :fd)
      # Long: what it rests after that is long as well.
      %{fd: fd, there: there, poll: Native.busy_poll_new(200)}
    end

    test "ends as soon as there is something to read", %{fd: fd, there: there, poll: poll} do
      # Eventually: who loses its core meanwhile has waited too long, and rests.
      :ok = :socket.send(there, "x")
      assert eventually(fn -> Native.busy_poll(poll, fd, "add", 0, 10) end)
      :ok = :socket.close(there)
      assert eventually(fn -> Native.busy_poll(poll, fd, "add", 0, 10) end)
    end

    test "in vain is not repeated at once, and that by command", %{fd: fd, there: there, poll: poll} do
      # A rest of four milliseconds, within which this asks again at some time.
      assert Enum.any?(1..20, fn _ ->
               assert Native.busy_poll(poll, fd, "slow", 0, 10) in [false, nil]
               Native.busy_poll(poll, fd, "slow", 0, 10) == nil
             end)

      :ok = :socket.send(there, "x")
      assert eventually(fn -> Native.busy_poll(poll, fd, "other", 0, 10) end)
      assert eventually(fn -> Native.busy_poll(poll, fd, "slow", 0, 10) end)
    end

    test "for a descriptor that is none ends", %{poll: poll} do
      assert eventually(fn -> Native.busy_poll(poll, 1_000_000, "add", 0, 10) end)
      # poll(2) leaves negative ones out: nothing will ever come.
      assert Native.busy_poll(poll, -1, "sub", 0, 10) == false
      assert Native.busy_poll(poll, -1, "", 0, 10) == false
    end
  end

  describe "the companion's frames" do
    test "are what the companion reads, and events are what it may write" do
      none = %{memory: nil, open_files: nil, nice: nil, cpus: nil}
      all = %{memory: 2 ** 63 - 1, open_files: 2 ** 31 - 1, nice: -20, cpus: [0, 65_535]}
      start = fn env, limits -> Native.companion_start(1, "/bin/true", ["a"], env, ["U"], nil, limits) end
      frames = [start.([], none), start.([{"K", "V"}], none), start.([], all)]
      assert Enum.all?(frames, &is_binary/1) and frames == Enum.uniq(frames)
      assert is_binary(Native.companion_stop(1, 100))
      assert is_binary(Native.companion_kill(1))
      assert {:bad_frame, words} = Native.companion_event("")
      assert is_binary(words)

      holds(:proper_types.binary(), 3_000, fn bytes ->
        case answer_of(fn -> Native.companion_event(bytes) end) do
          {:started, id, pid} ->
            is_integer(id) and is_integer(pid)

          {:start_failed, id, why} ->
            is_integer(id) and String.valid?(why)

          {:output, id, stream, line, cut} ->
            is_integer(id) and stream in [:stdout, :stderr] and is_binary(line) and is_boolean(cut)

          {:exited, id, {how, n}, tail} ->
            is_integer(id) and how in [:status, :signal] and is_integer(n) and is_binary(tail)

          {:exited, id, {:signal, n, shortage}, tail} ->
            is_integer(id) and is_integer(n) and is_binary(tail) and
              (shortage == :out_of_memory or match?({:out_of_memory, limit} when is_integer(limit), shortage))

          {:dropped, id, lines} ->
            is_integer(id) and is_integer(lines)

          {:bad_frame, why} ->
            String.valid?(why)

          _ ->
            false
        end
      end)
    end
  end

  describe "the queue" do
    # One worker of one lane, unless said otherwise.
    defp queue(workers \\ 1, per_worker \\ 1, max_waiting \\ 10) do
      queue = Native.queue_new(self(), workers, per_worker, max_waiting)
      for w <- 0..(workers - 1), do: :ok = Native.queue_up(queue, w, 100 + w)
      queue
    end

    # A caller that waits has a reference for the message, and a place that it must keep.
    defp checkout(queue, worker, prefer) do
      ref = make_ref()

      with {:wait, place} <- Native.queue_checkout(queue, worker, prefer, ref) do
        Process.put(ref, place)
        {:wait, ref}
      end
    end

    defp cancel(queue, ref), do: Native.queue_cancel(queue, Process.get(ref))

    # A process that does what it is asked with the checkout queue, so that it can die of it.
    defp clerk(queue) do
      me = self()

      spawn(fn ->
        answer = checkout(queue, -1, false)
        send(me, {self(), plain(answer)})
        clerk_loop(me, answer)
      end)
    end

    defp clerk_loop(me, held) do
      receive do
        {:snakepit_lane, _key, answer} = message ->
          send(me, {self(), plain(message)})
          clerk_loop(me, {held, answer})
      end
    end

    # Without the checkout: a copy of it would keep it alive.
    defp plain({:ok, id, run, _checkout}), do: {:ok, id, run}
    defp plain({:snakepit_lane, key, answer}), do: {:snakepit_lane, key, plain(answer)}
    defp plain(answer), do: answer

    defp kill(pid) do
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^ref, _, _, _}, 5_000
    end

    test "a lane is handed out, given back, and known by its run" do
      queue = queue(2, 2)
      assert Native.queue_counts(queue) == {4, 0, 0}
      lanes = for _ <- 1..4, do: checkout(queue, -1, false)

      assert Enum.sort(for {:ok, id, run, _} <- lanes, do: {id, run}) == [
               {0, 100},
               {1, 100},
               {2, 101},
               {3, 101}
             ]

      assert Native.queue_counts(queue) == {0, 4, 0}
      for {:ok, _, _, checkout} <- lanes, do: :ok = Native.queue_checkin(checkout)
      assert {:ok, id, 101, checkout} = checkout(queue, 1, false)
      assert id in 2..3 and is_reference(checkout)
    end

    test "the lane of a holder that dies goes to the owner" do
      queue = queue()
      pid = clerk(queue)
      assert_receive {^pid, {:ok, 0, 100}}
      kill(pid)
      assert_receive {:lane_lost, 0, 100, checkout}, 5_000
      assert Native.queue_counts(queue) == {0, 1, 0}
      :ok = Native.queue_checkin(checkout)
      assert Native.queue_counts(queue) == {1, 0, 0}
    end

    test "so does that of a checkout that is lost in a living process; without an owner it is forgotten" do
      queue = queue()
      lose = fn -> {:ok, _, _, _} = checkout(queue, -1, false) end
      spawn(fn -> lose.() && :erlang.garbage_collect() && Process.sleep(:infinity) end)
      assert_receive {:lane_lost, 0, 100, _checkout}, 5_000

      owner = spawn(fn -> receive do: (:end -> :ok) end)
      queue = Native.queue_new(owner, 1, 1, 10)
      Native.queue_up(queue, 0, 100)
      kill(owner)
      pid = clerk(queue)
      assert_receive {^pid, {:ok, 0, 100}}
      kill(pid)
      assert eventually(fn -> Native.queue_counts(queue) == {0, 0, 0} end)
    end

    test "waiters that die do not hold up the line" do
      queue = queue()
      {:ok, 0, 100, checkout} = checkout(queue, -1, false)
      [first, second, third] = for _ <- 1..3, do: waiting(queue)
      kill(first)
      kill(second)
      Native.queue_checkin(checkout)
      assert_receive {^third, {:snakepit_lane, _, {:ok, 0, 100}}}, 5_000
      refute_received {:lane_lost, _, _}
    end

    defp waiting(queue) do
      pid = clerk(queue)
      assert_receive {^pid, {:wait, _key}}
      pid
    end

    test "one that dies with a lane it never used passes it on" do
      queue = queue()
      {:ok, 0, 100, checkout} = checkout(queue, -1, false)
      # Its message lies unread, or was read and never taken.
      [unread, untaken, last] = for _ <- 1..3, do: waiting(queue)
      true = :erlang.suspend_process(unread)
      Native.queue_checkin(checkout)
      kill(unread)
      assert_receive {^untaken, {:snakepit_lane, _, {:ok, 0, 100}}}, 5_000
      kill(untaken)
      assert_receive {^last, {:snakepit_lane, _, {:ok, 0, 100}}}, 5_000
      refute_received {:lane_lost, _, _}
    end

    test "a lane goes on to a second place in line of the same process while it collects its garbage" do
      queue = queue()
      {:ok, 0, 100, checkout} = checkout(queue, -1, false)
      {:wait, first} = checkout(queue, -1, false)
      {:wait, second} = checkout(queue, -1, false)
      Native.queue_checkin(checkout)
      read = fn -> assert_receive {:snakepit_lane, ^first, {:ok, 0, 100, _}} end
      read.()
      :erlang.garbage_collect()
      assert_receive {:snakepit_lane, ^second, {:ok, 0, 100, _}}, 5_000
    end

    test "a checkout queue that shrinks sends `:moved` to who waits for a worker that leaves, who keeps its turn" do
      queue = queue()
      :ok = Native.queue_resize(queue, 3)
      for worker <- 1..2, do: :ok = Native.queue_up(queue, worker, 100 + worker)
      assert Native.queue_counts(queue) == {3, 0, 0}
      [{:ok, 0, 100, first}, {:ok, 1, 101, second}] = for worker <- 0..1, do: checkout(queue, worker, false)
      {:wait, ref} = checkout(queue, 1, false)
      left = Process.get(ref)
      {:wait, _later} = checkout(queue, 0, false)
      :ok = Native.queue_resize(queue, 1)
      assert_receive {:snakepit_lane, ^ref, {:moved, turn}}
      # The idle one leaves now, the other when its call is done.
      assert_receive {:lanes_retired, 102}
      refute_received {:lanes_retired, 101}
      assert checkout(queue, 1, false) == :moved
      again = make_ref()
      assert Native.queue_checkout_again(queue, 1, false, again, turn) == :moved
      assert {:wait, place} = Native.queue_checkout_again(queue, 0, false, again, turn)
      # The place that it had before is no place in the new line.
      assert Native.queue_cancel(queue, left) == false
      :ok = Native.queue_checkin(second)
      assert_receive {:lanes_retired, 101}
      :ok = Native.queue_checkin(first)
      assert_receive {:snakepit_lane, ^again, {:ok, 0, 100, checkout}}
      :ok = Native.queue_take(checkout)
      assert Native.queue_cancel(queue, place) == false
      :ok = Native.queue_close(queue, 7)
      assert Native.queue_checkout_again(queue, 0, false, make_ref(), 99) == {:closed, 7}
    end

    test "a checkout works once" do
      queue = queue(1, 2)
      {:ok, _, _, a} = checkout(queue, -1, false)
      {:ok, _, _, b} = checkout(queue, -1, false)
      for _ <- 1..3, do: :ok = Native.queue_checkin(a)
      assert Native.queue_counts(queue) == {1, 1, 0}
      :ok = Native.queue_forget(a)
      :ok = Native.queue_take(a)
      :ok = Native.queue_forget(a)
      assert Native.queue_counts(queue) == {1, 1, 0}
      for _ <- 1..3, do: :ok = Native.queue_forget(b)
      :ok = Native.queue_checkin(b)
      assert Native.queue_counts(queue) == {1, 0, 0}
    end

    test "a given back checkout that is collected gives nothing back again" do
      queue = queue()

      again = fn ->
        {:ok, _, _, checkout} = checkout(queue, -1, false)
        :ok = Native.queue_checkin(checkout)
        :ok = Native.queue_take(checkout)
      end

      again.()
      :erlang.garbage_collect()
      assert Native.queue_counts(queue) == {1, 0, 0}
      refute_received {:lane_lost, _, _}
    end

    test "the line is bounded, and those who died in it make room" do
      queue = queue(1, 1, 2)
      {:ok, _, _, _checkout} = checkout(queue, -1, false)
      waiters = for _ <- 1..2, do: waiting(queue)
      assert checkout(queue, -1, false) == :full
      Enum.each(waiters, &kill/1)
      # They leave it by themselves: a refusal looks at nobody.
      assert eventually(fn -> Native.queue_counts(queue) == {0, 1, 0} end)
      assert {:wait, ref} = checkout(queue, -1, false)
      assert Native.queue_counts(queue) == {0, 1, 1}
      assert cancel(queue, ref)
      refute cancel(queue, ref)
      assert Native.queue_counts(queue) == {0, 1, 0}
    end

    test "a place that nobody refers to any more is left" do
      queue = queue(1, 1, 2)
      {:ok, _, _, _checkout} = checkout(queue, -1, false)
      lose = fn -> match?({:wait, _}, Native.queue_checkout(queue, -1, false, make_ref())) end
      assert lose.()
      assert eventually(fn -> :erlang.garbage_collect() && Native.queue_counts(queue) == {0, 1, 0} end)
    end

    test "closing answers those who wait and those who come, and reports when all is at rest" do
      queue = queue(1, 2)
      {:ok, _, _, a} = checkout(queue, -1, false)
      {:ok, _, _, b} = checkout(queue, -1, false)
      {:wait, ref} = checkout(queue, -1, false)
      :ok = Native.queue_close(queue, 7)
      assert_received {:snakepit_lane, ^ref, {:closed, 7}}
      refute cancel(queue, ref)
      assert checkout(queue, -1, false) == {:closed, 7}
      :ok = Native.queue_close(queue, 8)
      assert checkout(queue, -1, false) == {:closed, 7}
      Native.queue_checkin(a)
      refute_received :lanes_at_rest
      Native.queue_forget(b)
      assert_received :lanes_at_rest
    end

    test "a lane of a run that is over does not come back" do
      queue = queue()
      {:ok, 0, 100, old} = checkout(queue, -1, false)
      :ok = Native.queue_down(queue, 0, 100)
      {:wait, ref} = checkout(queue, 0, false)
      :ok = Native.queue_checkin(old)
      refute_received {:snakepit_lane, ^ref, _}
      :ok = Native.queue_up(queue, 0, 200)
      assert_received {:snakepit_lane, ^ref, {:ok, 0, 200, _}}
    end

    test "many who come, wait, leave and die: no lane is held by two, none is lost" do
      queue = queue(2, 2, 1000)
      held = :atomics.new(4, [])
      clashes = :counters.new(1, [])

      tasks =
        for seed <- 1..16 do
          Task.async(fn ->
            :rand.seed(:exsss, seed)
            for _ <- 1..400, do: visit(queue, held, clashes)
            :ok
          end)
        end

      assert Enum.all?(Task.await_many(tasks, 60_000), &(&1 == :ok))
      assert :counters.get(clashes, 1) == 0
      assert eventually(fn -> Native.queue_counts(queue) == {4, 0, 0} end)
      refute_received {:lane_lost, _, _}
    end

    defp visit(queue, held, clashes) do
      affinity = :rand.uniform(3) - 2

      case checkout(queue, affinity, :rand.uniform(2) == 1) do
        {:wait, ref} ->
          receive do
            {:snakepit_lane, ^ref, {:ok, id, _, checkout}} -> use_lane(id, checkout, held, clashes)
          after
            :rand.uniform(3) - 1 ->
              unless cancel(queue, ref) do
                receive do
                  {:snakepit_lane, ^ref, {:ok, id, _, checkout}} -> use_lane(id, checkout, held, clashes)
                end
              end
          end

        {:ok, id, _, checkout} ->
          use_lane(id, checkout, held, clashes)
      end
    end

    defp use_lane(id, checkout, held, clashes) do
      Native.queue_take(checkout)
      if :atomics.add_get(held, id + 1, 1) != 1, do: :counters.add(clashes, 1, 1)
      if :rand.uniform(4) == 1, do: :erlang.yield()
      :atomics.sub(held, id + 1, 1)
      Native.queue_checkin(checkout)
    end
  end
end
