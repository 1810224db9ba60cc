defmodule Snakepit.Wire.LaneSocketTest do
  # Frames over a pair of sockets of which one end is a lane, and the other does as it likes.
  use Snakepit.Case, async: true

  alias Snakepit.Native
  alias Snakepit.Wire.LaneSocket

  # The lane, and the other end as a :socket.
  defp pair do
    {own, other} = connected()
    {:ok, fd} = :socket.getopt(own, {:otp, :fd})
    lane = LaneSocket.open(duplicate(fd, own, other))
    :socket.close(own)
    {lane, other}
  end

  defp connected do
    path = Path.join(System.tmp_dir!(), "pair-#{System.unique_integer([:positive])}-#{System.pid()}.sock")
    {:ok, listening} = :socket.open(:local, :stream)
    :ok = :socket.bind(listening, %{family: :local, path: path})
    :ok = :socket.listen(listening, 1)
    {:ok, other} = :socket.open(:local, :stream)
    :ok = :socket.connect(other, %{family: :local, path: path})
    {:ok, own} = :socket.accept(listening)
    File.rm!(path)
    :socket.close(listening)
    {own, other}
  end

  # A descriptor that nobody else owns, as a worker passes it.
  defp duplicate(fd, own, other) do
    rights = %{level: :socket, type: :rights, data: <<fd::32-native>>}
    :ok = :socket.sendmsg(own, %{iov: ["x"], ctrl: [rights]})
    {:ok, %{ctrl: [%{data: <<duplicate::32-native>>}]}} = :socket.recvmsg(other, 1, 4_096)
    duplicate
  end

  defp frame(bytes), do: <<byte_size(bytes)::32, bytes::binary>>
  defp soon, do: System.monotonic_time(:millisecond) + 10_000
  defp now, do: System.monotonic_time(:millisecond)

  defp noise(size) do
    pattern = for i <- 0..250, into: <<>>, do: <<i>>
    pattern |> :binary.copy(div(size, 251) + 1) |> binary_part(0, size)
  end

  # As long as the fd is open it names this file.
  defp identity(fd), do: File.read_link("/proc/self/fd/#{fd}")

  # So long as the process waits for a message, and so for the lane.
  defp waits?(pid), do: match?({:status, :waiting}, Process.info(pid, :status))

  test "frames come whole and in order, however their bytes are cut" do
    {%{socket: lane}, other} = pair()
    frames = for size <- [0, 1, 50, 65_531, 65_532, 65_533, 300_000, 3, 2_000_000, 0], do: noise(size)
    bytes = for frame <- frames, into: <<>>, do: frame(frame)

    for cut <- [7, 1_000, 65_536, byte_size(bytes)] do
      writer = Task.async(fn -> write(other, bytes, cut) end)
      for frame <- frames, do: assert(LaneSocket.recv(lane, soon()) == {:ok, frame})
      assert Task.await(writer, 30_000) == :ok
    end

    assert LaneSocket.recv(lane, now()) == {:error, :timeout}
    refute_received _
  end

  defp write(_other, <<>>, _cut), do: :ok

  defp write(other, bytes, cut) do
    size = min(cut, byte_size(bytes))
    <<part::binary-size(size), rest::binary>> = bytes
    :ok = :socket.send(other, part)
    # Cuts of a few bytes only where a frame begins: all of it would take long.
    write(other, rest, max(cut, if(size < 100, do: cut * 4, else: cut)))
  end

  test "frames of one part or many go out whole, to a reader that takes its time" do
    {%{socket: lane}, other} = pair()
    many = for i <- 0..200, do: noise(rem(i * 37, 150))

    for parts <- [[""], [noise(3)], many, [noise(5_000_000), "", noise(70), noise(1_000_001)]] do
      whole = IO.iodata_to_binary(parts)
      sender = Task.async(fn -> LaneSocket.send(lane, parts, soon()) end)
      assert {:ok, bytes} = :socket.recv(other, 4 + byte_size(whole), 10_000)
      assert bytes == frame(whole)
      assert Task.await(sender) == :ok
    end

    assert LaneSocket.send(lane, "a binary", soon()) == :ok
    assert :socket.recv(other, 12, 10_000) == {:ok, frame("a binary")}
  end

  test "after a deadline nothing is lost, and no message is left" do
    {%{socket: lane}, other} = pair()
    <<first::binary-size(100_000), rest::binary>> = frame(noise(300_000))
    :ok = :socket.send(other, first)
    assert LaneSocket.recv(lane, now() + 20) == {:error, :timeout}
    assert LaneSocket.recv(lane, now()) == {:error, :timeout}
    writer = Task.async(fn -> :socket.send(other, rest) end)
    assert LaneSocket.recv(lane, soon()) == {:ok, noise(300_000)}
    assert Task.await(writer) == :ok
    refute_received _

    large = noise(3_000_000)
    assert LaneSocket.send(lane, large, now() + 20) == {:error, :timeout}
    flush = Task.async(fn -> LaneSocket.flush(lane, soon()) end)
    assert :socket.recv(other, 3_000_004, 10_000) == {:ok, frame(large)}
    assert Task.await(flush) == :ok
    assert LaneSocket.flush(lane, now()) == :ok
    refute_received _
  end

  test "where a caller was killed in the middle of a frame, another goes on" do
    {%{socket: lane}, other} = pair()
    large = noise(3_000_000)

    {sender, _} = spawn_monitor(fn -> LaneSocket.send(lane, [large], :infinity) end)
    assert eventually(fn -> waits?(sender) end)
    Process.exit(sender, :kill)
    assert_receive {:DOWN, _, _, ^sender, :killed}
    flush = Task.async(fn -> LaneSocket.flush(lane, soon()) end)
    assert :socket.recv(other, 3_000_004, 10_000) == {:ok, frame(large)}
    assert Task.await(flush) == :ok

    <<first::binary-size(100_000), rest::binary>> = frame(large)
    :ok = :socket.send(other, first)
    {reader, _} = spawn_monitor(fn -> LaneSocket.recv(lane, :infinity) end)
    assert eventually(fn -> waits?(reader) end)
    Process.exit(reader, :kill)
    assert_receive {:DOWN, _, _, ^reader, :killed}
    writer = Task.async(fn -> :socket.send(other, rest) end)
    assert LaneSocket.recv(lane, soon()) == {:ok, large}
    assert Task.await(writer) == :ok
  end

  test "what came before the other end was closed is read, and then that it is" do
    {%{socket: lane}, other} = pair()
    :ok = :socket.send(other, [frame("one"), frame("two"), <<9::32, "half">>])
    :socket.close(other)
    assert LaneSocket.recv(lane, soon()) == {:ok, "one"}
    assert LaneSocket.recv(lane, soon()) == {:ok, "two"}
    assert LaneSocket.recv(lane, soon()) == {:error, :closed}
    assert LaneSocket.send(lane, "three", soon()) == {:error, :closed}
  end

  test "closing gives the descriptor back and answers whoever waits" do
    for wait <- [&LaneSocket.recv(&1, :infinity), &LaneSocket.send(&1, noise(9_000_000), :infinity)] do
      {%{socket: lane, fd: fd} = open, _other} = pair()
      {:ok, identity} = identity(fd)
      waiting = Task.async(fn -> wait.(lane) end)
      assert eventually(fn -> waits?(waiting.pid) end)
      assert LaneSocket.close(open) == :ok
      assert Task.await(waiting) == {:error, :closed}
      assert LaneSocket.close(open) == :ok
      assert eventually(fn -> identity(fd) != {:ok, identity} end)
      assert LaneSocket.recv(lane, soon()) == {:error, :closed}
      assert LaneSocket.send(lane, "x", soon()) == {:error, :closed}
    end

    refute_received _
  end

  test "the end of the process that opened it, even a brutal one, closes it under whoever waits" do
    me = self()

    {owner, _} =
      spawn_monitor(fn ->
        send(me, pair())
        Process.sleep(:infinity)
      end)

    assert_receive {%LaneSocket{socket: lane, fd: fd}, _other}, 5_000
    {:ok, identity} = identity(fd)
    waiting = Task.async(fn -> LaneSocket.recv(lane, :infinity) end)
    assert eventually(fn -> waits?(waiting.pid) end)
    Process.exit(owner, :kill)
    assert Task.await(waiting) == {:error, :closed}
    assert eventually(fn -> identity(fd) != {:ok, identity} end)
  end

  test "a length that no frame has, and a descriptor that is no socket, are errors" do
    {%{socket: lane}, other} = pair()
    :ok = :socket.send(other, <<0xFFFFFFFF::32, "x">>)
    assert {:error, what} = LaneSocket.recv(lane, soon())
    assert what =~ "long"

    {:ok, file} = File.open("/dev/null", [:raw])
    fd = file |> :prim_file.get_handle() |> :binary.decode_unsigned(:little)
    {own, other} = connected()
    lane = fd |> duplicate(own, other) |> Native.lane_open()
    File.close(file)
    assert {:error, what} = LaneSocket.recv(lane, soon())
    assert what =~ "socket"
    assert {:error, _} = LaneSocket.send(lane, "x", soon())
  end

  # A receive that begins at such a marker does not look at what was in the mailbox before its reference was made.
  test "no receive on the way of a call searches the caller's mailbox" do
    for module <- [LaneSocket, Snakepit.Pool.Checkout, Snakepit.Grpc, Snakepit.Call.FanOut] do
      receives = receives(module)
      assert receives != []

      # `serve` runs in a process of its own.
      for {function, marked?} <- receives,
          function != "serve/1",
          do: assert(marked?, "#{inspect(module)}.#{function} searches it")
    end

    for module <- [
          Snakepit,
          Snakepit.Call,
          Snakepit.Call.Exchange,
          Snakepit.Call.Request,
          Snakepit.Call.Received,
          Snakepit.Call.Items,
          Snakepit.Call.ByGrpc,
          Snakepit.Call.Outcome,
          Snakepit.Wire.Reply,
          Snakepit.Pool.LaneRecovery,
          Snakepit.Pool.Arena,
          Enumerable.Snakepit.Stream
        ],
        do: assert(receives(module) == [] and searching(module) == [])
  end

  # Calls of functions that receive for their caller, by a search.
  defp searching(module) do
    {:ok, {_, [imports: imports]}} = :beam_lib.chunks(:code.which(module), [:imports])

    for {other, function, arity} <- imports,
        other in [:gen_tcp, :inet, :prim_inet, :proc_lib] or
          {other, function} in [{Task, :await}, {Task, :yield}, {Task, :async_stream}],
        do: {other, function, arity}
  end

  # Of each receive that matches: in which function, and whether the compiler could mark where to begin.
  defp receives(module) do
    {:ok, {_, [debug_info: {:debug_info_v1, backend, data}]}} =
      :beam_lib.chunks(:code.which(module), [:debug_info])

    {:ok, forms} = backend.debug_info(:erlang_v1, module, data, [])
    {:ok, ^module, {_, _, _, functions, _}} = :compile.forms(forms, [:to_asm, :binary])

    for {:function, name, arity, _, code} <- functions,
        [before, {:loop_rec, _, _}] <- code |> Enum.reject(&label?/1) |> Enum.chunk_every(2, 1, :discard) do
      {"#{name}/#{arity}", match?({:recv_marker_use, _}, before)}
    end
  end

  defp label?(instruction), do: match?({:label, _}, instruction) or match?({:line, _}, instruction)
end
