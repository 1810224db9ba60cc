defmodule Snakepit.Call.Exchange do
  @moduledoc false
  # A prepared call and a lane: the request goes out by the first of its ways that works, the reply comes back.
  #
  # The second element of every answer says whether the lane is at rest, so that it may be used again; whether the tool
  # still runs there, so that it has to be cancelled first (`whole?`: see LaneRecovery); or whether it is lost, and its
  # worker is ended.

  alias Snakepit.{Error, Native, Pool, Transfer, Worker}
  alias Snakepit.Call.{ByGrpc, Cancellation, Items, Limits, Outcome, Received, Request, WayBreaker}
  alias Snakepit.Transfer.Plan
  alias Snakepit.Wire.{Frame, LaneSocket}
  alias Snakepit.Worker.Lane

  # permit: the breaker's leave to try the request's way, until its result is recorded: {its probe or nil, when it was
  # asked in ms}.
  # reply_carried: bytes of the reply that were copied by its way. cold: memory was made for the request.
  # collect: the garbage collection that the caller owes.
  defstruct [:request_way, :reply_way, :permit, :collect] ++
              [
                reply_bytes: 0,
                reply_carried: 0,
                copied: 0,
                tool_ns: 0,
                gil_ns: 0,
                fallback: false,
                cold: false
              ]

  @type lane_state ::
          :at_rest | {:running, whole? :: boolean(), String.t()} | {:lost, String.t() | :closed}
  @type t :: %__MODULE__{
          request_way: Transfer.way() | nil,
          reply_way: Transfer.way() | nil,
          permit: {probe :: term(), ms :: integer()} | nil,
          collect: :minor | :major | nil,
          reply_bytes: non_neg_integer(),
          reply_carried: non_neg_integer(),
          copied: non_neg_integer(),
          tool_ns: non_neg_integer(),
          gil_ns: non_neg_integer(),
          fallback: boolean(),
          cold: boolean()
        }

  # A larger frame may not fit the socket's buffer.
  @small_frame 64 * 1024

  @doc """
  One request, one reply. The lane of a plain reply is checked in as soon as that is read: what is left to do is
  decoding, and the next caller need not wait for it. Should the reply prove broken, its worker is ended all the same.
  """
  @spec run(Request.t(), Lane.t(), Native.checkout()) :: {Outcome.result(), lane_state(), t()}
  def run(call, lane, checkout) do
    case send_request(call, lane) do
      {:sent, call_id, ex} -> receive_reply(call, lane, checkout, call_id, ex)
      {:replied, call_id, frame, beside, ex} -> Received.reply(call, lane, call_id, frame, beside, ex)
      {:error, error, state, ex} -> {{:error, error}, state, ex}
    end
    |> WayBreaker.judged(call)
  end

  @doc "Sends the request of a stream."
  @spec open_stream(Request.t(), Lane.t()) :: {:streaming, Items.streaming()} | Items.stream_end()
  def open_stream(call, lane) do
    case send_request(call, lane) do
      {:sent, call_id, ex} -> streaming(call, lane, call_id, :lane, ex)
      {:streaming, call_id, source, ex} -> streaming(call, lane, call_id, source, ex)
      {:error, error, state, ex} -> WayBreaker.judged({{:error, error}, state, ex}, call)
    end
  end

  defp streaming(call, lane, call_id, source, ex) do
    Cancellation.streams(call.cancellation, lane, call_id)
    {:streaming, {call_id, source, ex, 0}}
  end

  # ---- request ----------------------------------------------------------------------------------------------------

  defp send_request(%{plan: plan} = call, lane),
    do: send_request(call, lane, plan.request, %__MODULE__{fallback: Plan.diverted?(plan)})

  defp send_request(call, lane, [way | others], ex) do
    case WayBreaker.allow(call, way) do
      :open when others != [] ->
        send_request(call, lane, others, %{ex | fallback: true})

      :open when call.options.request == way ->
        {:error, WayBreaker.open(call.handle, way), :at_rest, %{ex | request_way: way}}

      # No other way is left: this one is tried although its breaker is open, and not recorded.
      :open ->
        send_by(way, call, lane, others, %{ex | permit: nil})

      permit ->
        send_by(way, call, lane, others, %{ex | permit: permit})
    end
  end

  defp send_by(way, call, lane, others, %{permit: permit} = ex) do
    case attempt(way, call, lane, others != [], permit) do
      {:next, why} ->
        WayBreaker.record(call, way, permit, if(why == :unavailable, do: :failure, else: :void))
        send_request(call, lane, others, %{ex | fallback: true})

      # The arena, which makes the memory, records it in the breaker.
      {:passed_on, :cold} ->
        send_request(call, lane, others, %{ex | fallback: true})

      {:sent, call_id, copied} ->
        {:sent, call_id, %{ex | request_way: way, copied: copied}}

      {:sent_cold, call_id, copied} ->
        {:sent, call_id, %{ex | request_way: way, copied: copied, cold: true}}

      {:replied, call_id, frame, beside} ->
        {:replied, call_id, frame, beside, %{ex | request_way: way}}

      {:streaming, call_id, source} ->
        {:streaming, call_id, source, %{ex | request_way: way}}

      {:error, error, state} ->
        {:error, error, state, %{ex | request_way: way}}
    end
  end

  defp attempt(:zero_copy, _call, %Lane{zero_copy: false} = lane, others?, _permit) do
    gave_up(others?, :not_capable, "worker #{lane.name} cannot map shared memory")
  end

  defp attempt(:zero_copy, call, lane, others?, permit) do
    case by_memory(call, lane) do
      {:cold, lengths} when others? ->
        if call.plan.make_memory?,
          do: make_or_pass(call, lane, lengths, permit),
          else: pass(call, lengths, permit)

      {:cold, lengths} ->
        make_room(call, lane, lengths)

      sent ->
        sent
    end
  end

  defp attempt(:inline, call, lane, _others?, _permit) do
    {:ok, call_id, frame, [], 0} = request(call, lane, :inline)
    send_frame(call, lane, call_id, frame, 0)
  end

  defp attempt(:grpc, _call, %Lane{grpc: false} = lane, others?, _permit) do
    gave_up(others?, :not_capable, ByGrpc.missing(lane))
  end

  defp attempt(:grpc, call, lane, others?, _permit) do
    # The request is made last: a worker that is gone by then did not get it.
    with {:ok, channel} <- ByGrpc.channel(call, lane) do
      {:ok, call_id, frame, [], 0} = request(call, lane, :grpc)

      if call.stream?,
        do: ByGrpc.stream(call, lane, call_id, channel, frame),
        else: ByGrpc.call(call, lane, call_id, channel, frame, call.buffers)
    else
      {:error, :gone} -> lost(Outcome.gone(), :closed)
      {:error, :timeout} -> {:error, Limits.timeout(call), :at_rest}
      {:error, why} -> gave_up(others?, :unavailable, why)
    end
  end

  defp request(call, lane, way),
    do: Native.request(lane.memory, call.handle.arena, head(call, lane, way), call.envelope, call.buffers)

  defp by_memory(call, lane) do
    with {:ok, _, _, _, _} = written <- request(call, lane, :zero_copy), do: announced(call, lane, written)
  end

  # The worker gets a chunk's descriptor before a frame refers to it.
  defp announced(call, lane, {:ok, call_id, frame, unsent, copied}) do
    Worker.send_chunks(lane.worker, unsent)
    send_frame(call, lane, call_id, frame, copied)
  end

  # Forced, the only way, or the cheapest even so: the caller pays for the memory.
  defp make_room(call, lane, lengths) do
    head = head(call, lane, :zero_copy)

    case Native.request_making_room(lane.memory, call.handle.arena, head, call.envelope, call.buffers) do
      {:ok, _, _, _, _} = written ->
        with {:sent, call_id, copied} <- announced(call, lane, written), do: {:sent_cold, call_id, copied}

      {:cold, lengths} ->
        no_room(call, lengths, :taken)

      {:error, why} ->
        no_room(call, lengths, why)
    end
  end

  defp gave_up(true, reason, _words), do: {:next, reason}
  defp gave_up(false, reason, words), do: {:error, Error.new(:transfer, reason, words), :at_rest}

  # Another way is cheaper than fresh memory; the next call will find it warm.
  defp pass(call, lengths, permit) do
    Pool.Arena.warm(call.handle, lengths, WayBreaker.probe(permit))
    {:passed_on, :cold}
  end

  defp make_or_pass(call, lane, lengths, permit) do
    with {:error, _no_room, :at_rest} <- make_room(call, lane, lengths), do: pass(call, lengths, permit)
  end

  defp no_room(call, lengths, why),
    do: {:error, Pool.Arena.no_room(call.handle, Enum.sum(lengths), why), :at_rest}

  defp head(call, lane, way) do
    flags =
      Frame.flag(match?([_], call.reply_ways), :forced) + Frame.flag(spin?(call), :spin) +
        Frame.flag(call.stream?, :stream) + Frame.flag(call.returned?, :returned)

    Frame.head(:call, way, reply_mask(call, lane), flags, Limits.remaining(call), lane.number)
  end

  # A lane can answer by gRPC only once the worker serves it. Where it may answer inline, gRPC is a last resort.
  defp reply_mask(%{plan: %{reply: ways}} = call, lane) do
    if :inline in ways or :grpc not in ways or match?({:ok, _}, ByGrpc.channel(call, lane)) or
         ways == [:grpc],
       do: Transfer.mask(ways),
       else: Transfer.mask(ways -- [:grpc])
  end

  defp send_frame(call, lane, call_id, frame, copied) do
    # A worker that does not read does not hold the caller beyond its deadline.
    case LaneSocket.send(lane.socket, frame, Limits.item_deadline(call), call.cancellation) do
      :ok -> {:sent, call_id, copied}
      {:error, :timeout} -> lost(Limits.late_item(call, 0), "a call's deadline passed while it was sent")
      {:error, :cancelled} -> {:error, Cancellation.error(call.command), {:running, true, Cancellation.why()}}
      {:error, :closed} -> unsent(lane)
      {:error, what} -> lost(Outcome.gone(), "its lane failed: #{what}")
    end
  end

  # The worker was dead before: this call is not what it died of.
  defp unsent(lane) do
    Native.worker_unsent(lane.memory, lane.number)
    lost(Outcome.gone(), :closed)
  end

  defp lost(error, why), do: {:error, error, {:lost, why}}

  # ---- reply ------------------------------------------------------------------------------------------------------

  # To spin is worth it where no other process wants the scheduler, and on neither side if there is no core to spare.
  defp spin?(%{handle: %{busy_poll: nil}}), do: false
  defp spin?(_call), do: :erlang.statistics(:total_run_queue_lengths) == 0

  # A worker that was just sent so much has to read it first.
  defp meet(%{payload: %{bytes: bytes}}, _lane, %{request_way: :inline}) when bytes > @small_frame, do: :ok

  defp meet(call, lane, ex) do
    if spin?(call) do
      way = Transfer.number(ex.request_way)
      Native.busy_poll(call.handle.busy_poll, lane.fd, call.command, way, call.payload.bytes)
    end
  end

  defp receive_reply(call, lane, checkout, call_id, ex) do
    meet(call, lane, ex)

    case LaneSocket.recv(lane.socket, call.deadline, call.cancellation) do
      {:ok, frame} ->
        # Should this process die now, nothing is lost with such a frame.
        if Frame.self_contained?(frame), do: Pool.checkin(checkout)
        Received.reply(call, lane, call_id, frame, [], ex)

      {:error, reason} ->
        no_reply(call, reason, ex)
    end
  end

  defp no_reply(call, :timeout, ex),
    do: {{:error, Limits.timeout(call)}, {:running, true, "its tool ran beyond the deadline"}, ex}

  defp no_reply(call, :cancelled, ex),
    do: {{:error, Cancellation.error(call.command)}, {:running, true, Cancellation.why()}, ex}

  defp no_reply(_call, :closed, ex), do: {{:error, Outcome.gone()}, {:lost, :closed}, ex}
  defp no_reply(_call, what, ex), do: {{:error, Outcome.gone()}, {:lost, "its lane failed: #{what}"}, ex}
end
