defmodule Snakepit.Wire.FuzzRepliesTest do
  # Damaged replies of real workers, read as a call reads them: a result, an error, or the end of the lane.
  use Snakepit.Case, async: true
  import Snakepit.Fuzzing
  alias Snakepit.Call.{ByGrpc, Exchange, Received, Request}
  alias Snakepit.{Native, Pool, Transfer}
  alias Snakepit.Wire.{Frame, LaneSocket}

  @moduletag :fuzz
  @moduletag timeout: :infinity
  @inline Transfer.number(:inline)

  # Python's values, most of them with something beside the envelope as well.
  @values [
    "None",
    "[True, -1, 2**63, 1.5, 'é', b'b']",
    "[2**64, -(2**200), float('nan')]",
    "{'a': {1: [(), (1, (2,))]}, 'b': {1, 'x', (2, 3)}}",
    "[datetime.date(2024, 2, 29), datetime.time(1, 2, 3, 4), datetime.datetime(2024, 2, 29, 1)]",
    "datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin'))",
    "[__import__('decimal').Decimal(text) for text in ('-1.50E+7', 'NaN', 'Infinity')]",
    "['é' * 5000, b'b' * 5000, {'k': 'x' * 4096}]",
    "[bytes([i]) * 4096 for i in range(5)]",
    "__import__('numpy').arange(6, dtype='f4').reshape(2, 3)",
    "[__import__('numpy').zeros((30, 40), 'c16'), {'t': __import__('numpy').arange(9000, dtype='>i2')}]"
  ]

  setup_all do
    # What was captured points into chunks that the worker must not give back meanwhile.
    pool = pool!(chunk_size: 256 * 1024, idle_chunk_ms: 100_000_000)
    handle = Pool.Handle.fetch!(pool)
    # This process holds the only lane until it ends, so nobody else can call.
    {:ok, lane, checkout} = Pool.Checkout.checkout(handle, :infinity, nil, false)

    corpus =
      for({tool, args} <- requests(), mask <- [1, 2, 4, 7], do: captured(pool, lane, tool, args, mask))
      |> List.flatten()

    %{pool: pool, lane: lane, checkout: checkout, corpus: corpus}
  end

  defp requests do
    for(code <- @values, do: {"python_value", %{code: "x = " <> code}}) ++
      [{"fail", %{}}, {"add", %{a: 1}}, {"no_such_tool", %{}}, {"ones", %{n: 3_000}}, {"count", %{n: 3}}]
  end

  # The reply to a request, as the worker sent it, and what came beside it.
  defp captured(pool, lane, tool, args, mask) do
    {:ok, call} = Request.new(tool, args, [pool: pool], false)
    by_lane = request(call, lane, :inline, mask)
    :ok = LaneSocket.send(lane.socket, by_lane.frame, :infinity)
    {:ok, frame} = LaneSocket.recv(lane.socket, :infinity)
    replies = [%{call: call, id: by_lane.id, frame: frame, beside: []}]

    if mask == 4 do
      {:ok, channel} = ByGrpc.channel(call, lane)
      %{id: id, frame: frame} = request(call, lane, :grpc, mask)
      {:replied, ^id, frame, beside} = ByGrpc.call(call, lane, id, channel, frame, [])
      [%{call: call, id: id, frame: frame, beside: beside} | replies]
    else
      replies
    end
  end

  defp request(call, lane, way, mask) do
    head = Frame.head(:call, way, mask, Frame.flag(mask == 2, :forced), 60_000, lane.number)
    {:ok, id, frame, [], 0} = Native.request(lane.memory, call.handle.arena, head, call.envelope, [])
    %{id: id, frame: frame}
  end

  defp read(reply, lane),
    do: Received.reply(reply.call, lane, reply.id, reply.frame, reply.beside, %Exchange{})

  test "each is what a call may answer", %{pool: pool, lane: lane, corpus: corpus} do
    ways = MapSet.new(corpus, fn %{frame: <<kind, way, _::binary>>} -> {kind, way} end)
    # Results by every way, errors, and replies that wait to be fetched: what is damaged is worth it.
    assert MapSet.subset?(MapSet.new([{1, 0}, {1, 1}, {1, 2}, {2, 0}, {5, 2}]), ways)

    # These places stay the worker's as long as it does: a value that is held is not given back.
    held =
      for %{frame: <<1, _::binary>>} = reply <- corpus,
          do: assert({{:ok, _}, :at_rest, _} = read(reply, lane))

    # A fetch asks the worker each time, which takes long: enough of them come by damage.
    corpus = Enum.reject(corpus, &match?(%{frame: <<5, _::binary>>}, &1))
    frames = Enum.map(corpus, & &1.frame)

    make = fn ->
      reply = Enum.random(corpus)
      beside = if below(8) == 0, do: Enum.drop(reply.beside, 1), else: reply.beside
      copy? = below(2) == 0
      reply = put_in(reply.call.options.copy, copy?)
      %{reply | frame: damaged(reply.frame, frames), beside: beside}
    end

    fuzz("beam: replies", make, &answered(read(&1, lane)))
    assert length(held) > 0
    assert {:ok, 3} == again(pool, lane)
  end

  # The lane as it is after all that: what is let go by now goes with the request.
  defp again(pool, lane) do
    %{call: call, id: id, frame: frame} = captured(pool, lane, "add", %{a: 1, b: 2}, @inline + 1) |> hd()
    {result, :at_rest, _} = Received.reply(call, lane, id, frame, [], %Exchange{})
    result
  end

  # The types of `Received.reply/6`.
  defp answered({result, state, %Exchange{}} = answer) do
    result? =
      match?({:ok, _}, result) or
        match?({:error, %Error{category: c, reason: r}} when is_atom(c) and is_atom(r), result)

    state? =
      case state do
        :at_rest -> true
        {:running, whole?, why} -> is_boolean(whole?) and is_binary(why)
        {:lost, why} -> why == :closed or is_binary(why)
        _ -> false
      end

    # All of the words can be shown.
    words? =
      with {:error, error} <- result,
           do: String.valid?(Exception.message(error) <> inspect(error)),
           else: (_ -> true)

    if result? and state? and words? and whole?(result), do: :ok, else: answer
  end

  # Every part of the term is there: what points into memory can be read.
  defp whole?({:ok, term}), do: is_integer(:erlang.phash2(term))
  defp whole?(_error), do: true
end
