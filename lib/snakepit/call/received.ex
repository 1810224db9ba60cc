defmodule Snakepit.Call.Received do
  @moduledoc false
  # A worker's frame, decoded, with its costs; or its reply, fetched by gRPC, where that waits there.

  alias Snakepit.{Error, Native, Pool, Transfer, Worker}
  alias Snakepit.Call.{ByGrpc, Exchange, Limits, Outcome, Request, WayBreaker}
  alias Snakepit.Wire.{Frame, Reply}
  alias Snakepit.Worker.Lane

  @doc "A frame as the end of an exchange that takes one reply. One that waits in the worker is fetched."
  @spec reply(Request.t(), Lane.t(), pos_integer(), binary(), [binary()], Exchange.t()) ::
          {Outcome.result(), Exchange.lane_state(), Exchange.t()}
  def reply(call, lane, call_id, frame, beside, ex) do
    case read(call, lane, call_id, frame, beside) do
      {:ok, :result, term, meta} -> {{:ok, term}, :at_rest, costs(call, ex, meta)}
      {:ok, :error, error, meta} -> {{:error, Error.from_worker(error)}, :at_rest, costs(call, ex, meta)}
      {:ok, :fetch, _, _} -> fetch(call, lane, call_id, WayBreaker.arrived(call, ex, nil))
      {:ok, _item, _, _} -> broken("the worker streamed the reply of a call that takes none", ex)
      {:error, :value, path, reason, what} -> {{:error, unreadable(path, reason, what)}, :at_rest, ex}
      {:error, :closed} -> {{:error, Outcome.gone()}, {:lost, :closed}, ex}
      {:error, :timeout} -> {{:error, Limits.timeout(call)}, {:running, false, unannounced()}, ex}
      {:error, what} -> broken(what, ex)
    end
  end

  @doc "Why a lane is recovered whose reply refers to memory that was not announced in time."
  @spec unannounced() :: String.t()
  def unannounced, do: "the memory of its reply was not announced in time"

  @doc "A frame as what it says."
  @spec read(Request.t(), Lane.t(), pos_integer(), binary(), [binary()]) :: Reply.t()
  def read(call, lane, call_id, frame, beside),
    do:
      Reply.read(
        lane,
        call_id,
        frame,
        beside,
        call.options.copy,
        &Worker.await_chunk/3,
        Limits.remaining(call)
      )

  # The reply waits in the worker, and comes by gRPC.
  defp fetch(call, lane, call_id, ex) do
    flags = Frame.flag(true, :forced)
    head = Frame.head(:fetch, :grpc, Transfer.mask([:grpc]), flags, Limits.remaining(call), lane.number)
    {:ok, _own_id, frame, [], 0} = Native.request(lane.memory, call.handle.arena, head, "", [])
    frame = Frame.with_id(frame, call_id)

    # It waits there in any case: an open breaker has no say.
    permit = with :open <- WayBreaker.allow(call, :grpc), do: nil

    with {:ok, channel} <- ByGrpc.channel(call, lane),
         {:replied, ^call_id, frame, beside} <- ByGrpc.call(call, lane, call_id, channel, frame, []) do
      WayBreaker.record(call, :grpc, permit, :ok)
      reply(call, lane, call_id, frame, beside, ex)
    else
      {:error, :gone} ->
        WayBreaker.record(call, :grpc, permit, :void)
        {{:error, Outcome.gone()}, {:lost, :closed}, ex}

      # The reply that waits there is dropped with the next call.
      {:error, :timeout} ->
        WayBreaker.record(call, :grpc, permit, :void)
        {{:error, Limits.timeout(call)}, :at_rest, ex}

      {:error, why} ->
        WayBreaker.record(call, :grpc, permit, :failure)
        {{:error, Error.new(:transfer, :unavailable, why)}, :at_rest, ex}

      {:error, error, state} ->
        WayBreaker.record(call, :grpc, permit, WayBreaker.fault(call, error))
        {{:error, error}, state, ex}
    end
  end

  @doc "The costs of an exchange, with those that the meta data of a reply add."
  @spec costs(Request.t(), Exchange.t(), Snakepit.Native.meta()) :: Exchange.t()
  def costs(call, ex, {way, bytes, tool_ns, gil_ns, flags}) do
    starved = Frame.starved?(flags)
    if starved, do: Pool.Arena.starved(call.handle)
    ex = WayBreaker.arrived(call, ex, tool_ns)
    way = Transfer.from_number(way)

    %{
      ex
      | reply_way: way,
        reply_bytes: ex.reply_bytes + bytes,
        reply_carried: ex.reply_carried + if(Frame.in_place?(flags), do: 0, else: bytes),
        tool_ns: ex.tool_ns + tool_ns,
        gil_ns: ex.gil_ns + gil_ns,
        fallback: ex.fallback or starved,
        collect: Frame.collection(flags) || ex.collect
    }
  end

  @doc "The error of a value that cannot be read."
  @spec unreadable(String.t(), atom(), String.t()) :: Error.t()
  def unreadable(path, :no_memory, what),
    do: Error.new(:transfer, :no_memory, "#{path}: #{what}; the next ones go another way")

  def unreadable(path, reason, what) do
    Error.new(:python_error, reason, "#{path}: the tool returned #{what}", details: %{path: path})
  end

  @doc "The end of an exchange whose worker broke the protocol."
  @spec broken(String.t(), Exchange.t()) :: {{:error, Error.t()}, Exchange.lane_state(), Exchange.t()}
  def broken(what, ex) do
    {{:error, Error.new(:worker, :protocol, "the worker broke the protocol: #{what}")},
     {:lost, "it broke the protocol: #{what}"}, ex}
  end
end
