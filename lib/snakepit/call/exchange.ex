defmodule Snakepit.Call.Exchange do
  @moduledoc false
  # A prepared call and a lane: the request goes out by the first of its ways that works, the reply comes back.
  #
  # The second element of every answer says whether the lane is at rest, so that it may be used again, or whether the
  # tool still runs there, so that it has to be cancelled first (`whole?`: see LaneRecovery).

  alias Snakepit.{Breaker, Call, Error, Grpc, Native, Pool, Transfer, Worker}
  alias Snakepit.Call.Cancellation
  alias Snakepit.Terminal.Units
  alias Snakepit.Transfer.Plan
  alias Snakepit.Wire.{Frame, LaneSocket, Reply}
  alias Snakepit.Worker.Lane

  # guard: what the breaker of the request's way is yet to be told: nil, or {its probe or nil, when it was asked in ms}.
  # reply_carried: bytes of the reply that were copied by its way. cold: memory was made for the request.
  # collect: the garbage collection that the caller owes.
  defstruct [:request_way, :reply_way, :guard, :collect] ++
              [reply_bytes: 0, reply_carried: 0, copied: 0, tool_ns: 0, fallback: false, cold: false]

  @type lane_state ::
          :at_rest | {:running, whole? :: boolean(), String.t()} | {:lost, String.t() | :closed}
  @type t :: %__MODULE__{}

  # Messages that a garbage collection may have to read.
  @short_mailbox 200
  # How long after its gRPC connection a dead worker's lane may still look open.
  @gone_ms 100
  # Why a lane is brought to rest.
  @cancelled "its call was cancelled"
  @unannounced "its reply came, but not in time the memory that holds it"
  # A larger frame may not fit the socket's buffer.
  @small_frame 64 * 1024

  @doc """
  One request, one reply. The lane of a plain reply is checked in as soon as that is read: what is left to do is
  decoding, and the next caller need not wait for it. Should the reply prove broken, its worker is ended all the same.
  """
  @spec run(Call.t(), Lane.t(), Native.checkout()) :: {Call.result(), lane_state(), t()}
  def run(call, lane, checkout) do
    case send_request(call, lane) do
      {:sent, call_id, ex} -> receive_reply(call, lane, checkout, call_id, ex)
      {:replied, call_id, frame, beside, ex} -> reply(call, lane, call_id, frame, beside, ex)
      {:error, error, state, ex} -> {{:error, error}, state, ex}
    end
    |> judged(call)
  end

  @typedoc "A stream whose request was sent: its call's id, where its items come from, and how many came."
  @type streaming :: {pos_integer(), :lane | {:grpc, reference()}, t(), non_neg_integer()}
  @type stream_end :: {{:ok, returned :: term()} | {:raised, nil} | {:error, Error.t()}, lane_state(), t()}

  @doc "Sends the request of a stream."
  @spec open_stream(Call.t(), Lane.t()) :: {:streaming, streaming()} | stream_end()
  def open_stream(call, lane) do
    case send_request(call, lane) do
      {:sent, call_id, ex} -> streaming(call, lane, call_id, :lane, ex)
      {:streaming, call_id, source, ex} -> streaming(call, lane, call_id, source, ex)
      {:error, error, state, ex} -> judged({{:error, error}, state, ex}, call)
    end
  end

  defp streaming(call, lane, call_id, source, ex) do
    Cancellation.streams(call.cancellation, lane, call_id)
    {:streaming, {call_id, source, ex, 0}}
  end

  @doc "Waits for a stream's next item, or its end. What is between two items may be another process."
  @spec next_item(Call.t(), Lane.t(), streaming()) :: {:item, term(), streaming()} | stream_end()
  def next_item(call, lane, {call_id, source, ex, items}) do
    case next_frame(call, lane, source) do
      {:ok, frame, beside} ->
        decoded = read(call, lane, call_id, frame, beside)
        item(call, call_id, ex, items, source, decoded)

      :done ->
        broken("the stream ended without its end", ex)

      {:error, :grpc, error} ->
        {{:error, error}, {:lost, "a stream by gRPC broke"}, ex}

      {:error, :timeout} ->
        {{:error, late_item(call, items)}, left(source, "its tool ran beyond the deadline"), ex}

      {:error, :cancelled} ->
        {{:error, Cancellation.error(call.command, items)}, left(source, @cancelled), ex}

      {:error, reason} ->
        no_reply(call, reason, ex)
    end
    |> case do
      {:item, _term, _streaming} = item -> item
      ended -> judged(ended, call)
    end
  end

  @doc "Leaves a stream before its end."
  @spec leave(Call.t(), streaming(), :ok | :raised) :: stream_end()
  def leave(call, {_call_id, source, ex, _items}, status),
    do: judged({{status, nil}, left(source, "a stream was left before its end"), ex}, call)

  # ---- request ----------------------------------------------------------------------------------------------------

  defp send_request(%{plan: plan} = call, lane),
    do: send_request(call, lane, plan.request, %__MODULE__{fallback: Plan.diverted?(plan)})

  defp send_request(call, lane, [way | others], ex) do
    case allow(call, way) do
      :open when others != [] ->
        send_request(call, lane, others, %{ex | fallback: true})

      :open when call.options.request == way ->
        {:error, breaker_open(call.handle, way), :at_rest, %{ex | request_way: way}}

      # No other way is left, or its breaker has no objection.
      :open ->
        send_by(way, call, lane, others, %{ex | guard: nil})

      guard ->
        send_by(way, call, lane, others, %{ex | guard: guard})
    end
  end

  defp send_by(way, call, lane, others, %{guard: guard} = ex) do
    case attempt(way, call, lane, others != [], guard) do
      {:next, why} ->
        tell_breaker(call, way, guard, if(why == :unavailable, do: :failure, else: :void))
        send_request(call, lane, others, %{ex | fallback: true})

      # The arena, which makes the memory, tells the breaker.
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

  defp attempt(:zero_copy, _call, %Lane{zero_copy: false} = lane, others?, _guard) do
    gave_up(others?, :not_capable, "worker #{lane.name} cannot map shared memory")
  end

  defp attempt(:zero_copy, call, lane, others?, guard) do
    case by_memory(call, lane) do
      {:cold, lengths} when others? ->
        if call.plan.make_memory?,
          do: make_or_pass(call, lane, lengths, guard),
          else: pass(call, lengths, guard)

      {:cold, lengths} ->
        make_room(call, lane, lengths)

      sent ->
        sent
    end
  end

  defp attempt(:inline, call, lane, _others?, _guard) do
    {:ok, call_id, frame, [], 0} = request(call, lane, :inline)
    send_frame(call, lane, call_id, frame, 0)
  end

  defp attempt(:grpc, _call, %Lane{grpc: false} = lane, others?, _guard) do
    gave_up(others?, :not_capable, no_grpc(lane))
  end

  defp attempt(:grpc, call, lane, others?, _guard) do
    # The request is made last: a worker that is gone by then did not get it.
    with {:ok, channel} <- channel(call, lane) do
      {:ok, call_id, frame, [], 0} = request(call, lane, :grpc)

      if call.stream?,
        do: grpc_stream(call, lane, call_id, channel, frame),
        else: grpc_call(call, lane, call_id, channel, frame, call.buffers)
    else
      {:error, :gone} -> lost(gone(), :closed)
      {:error, :timeout} -> {:error, timeout(call), :at_rest}
      {:error, why} -> gave_up(others?, :unavailable, why)
    end
  end

  defp request(call, lane, way),
    do: Native.request(lane.memory, call.handle.arena, head(call, lane, way), call.envelope, call.buffers)

  defp by_memory(call, lane) do
    with {:ok, _, _, _, _} = written <- request(call, lane, :zero_copy), do: announced(call, lane, written)
  end

  # The worker is told of chunks before it reads of them.
  defp announced(call, lane, {:ok, call_id, frame, tell, copied}) do
    Worker.send_chunks(lane.worker, tell)
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
  defp pass(call, lengths, guard) do
    Pool.Arena.warm(call.handle, lengths, probe(guard))
    {:passed_on, :cold}
  end

  defp make_or_pass(call, lane, lengths, guard) do
    with {:error, _no_room, :at_rest} <- make_room(call, lane, lengths), do: pass(call, lengths, guard)
  end

  defp no_room(call, lengths, why),
    do: {:error, Pool.Arena.no_room(call.handle, Enum.sum(lengths), why), :at_rest}

  defp head(call, lane, way) do
    flags =
      Frame.flag(match?([_], call.reply_ways), :forced) + Frame.flag(spin?(call), :spin) +
        Frame.flag(call.stream?, :stream) + Frame.flag(call.returned?, :returned)

    Frame.head(:call, way, reply_mask(call, lane), flags, remaining(call), lane.number)
  end

  # A lane can answer by gRPC only once the worker serves it. Where it may answer inline, gRPC is a last resort.
  defp reply_mask(%{plan: %{reply: ways}} = call, lane) do
    if :inline in ways or :grpc not in ways or match?({:ok, _}, channel(call, lane)) or ways == [:grpc],
      do: Transfer.mask(ways),
      else: Transfer.mask(ways -- [:grpc])
  end

  defp send_frame(call, lane, call_id, frame, copied) do
    # A worker that does not read does not hold the caller beyond its deadline.
    case LaneSocket.send(lane.socket, frame, item_deadline(call), call.cancellation) do
      :ok -> {:sent, call_id, copied}
      {:error, :timeout} -> lost(late_item(call, 0), "a call's deadline passed while it was sent")
      {:error, :cancelled} -> {:error, Cancellation.error(call.command), {:running, true, @cancelled}}
      {:error, :closed} -> unsent(lane)
      {:error, what} -> lost(gone(), "its lane failed: #{what}")
    end
  end

  # The worker was dead before: this call is not what it died of.
  defp unsent(lane) do
    Native.worker_unsent(lane.memory, lane.number)
    lost(gone(), :closed)
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
        reply(call, lane, call_id, frame, [], ex)

      {:error, reason} ->
        no_reply(call, reason, ex)
    end
  end

  defp no_reply(call, :timeout, ex),
    do: {{:error, timeout(call)}, {:running, true, "its tool ran beyond the deadline"}, ex}

  defp no_reply(call, :cancelled, ex),
    do: {{:error, Cancellation.error(call.command)}, {:running, true, @cancelled}, ex}

  defp no_reply(_call, :closed, ex), do: {{:error, gone()}, {:lost, :closed}, ex}
  defp no_reply(_call, what, ex), do: {{:error, gone()}, {:lost, "its lane failed: #{what}"}, ex}

  defp reply(call, lane, call_id, frame, beside, ex) do
    case read(call, lane, call_id, frame, beside) do
      {:ok, :result, term, meta} -> {{:ok, term}, :at_rest, costs(call, ex, meta)}
      {:ok, :error, error, meta} -> {{:error, Error.from_worker(error)}, :at_rest, costs(call, ex, meta)}
      {:ok, :fetch, _, _} -> fetch(call, lane, call_id, arrived(call, ex, nil))
      {:ok, _item, _, _} -> broken("the worker streamed the reply of a call that takes none", ex)
      {:error, :value, path, reason, what} -> {{:error, unreadable(path, reason, what)}, :at_rest, ex}
      {:error, :closed} -> no_reply(call, :closed, ex)
      {:error, :timeout} -> {{:error, timeout(call)}, {:running, false, @unannounced}, ex}
      {:error, what} -> broken(what, ex)
    end
  end

  defp read(call, lane, call_id, frame, beside),
    do: Reply.read(lane, call_id, frame, beside, call.options.copy, &Worker.await_chunk/3, remaining(call))

  # The reply waits in the worker, and comes by gRPC.
  defp fetch(call, lane, call_id, ex) do
    flags = Frame.flag(true, :forced)
    head = Frame.head(:fetch, :grpc, Transfer.mask([:grpc]), flags, remaining(call), lane.number)
    {:ok, _own_id, frame, [], 0} = Native.request(lane.memory, call.handle.arena, head, "", [])
    frame = Frame.with_id(frame, call_id)

    # It waits there in any case: an open breaker has no say.
    guard = with :open <- allow(call, :grpc), do: nil

    with {:ok, channel} <- channel(call, lane),
         {:replied, ^call_id, frame, beside} <- grpc_call(call, lane, call_id, channel, frame, []) do
      tell_breaker(call, :grpc, guard, :ok)
      reply(call, lane, call_id, frame, beside, ex)
    else
      {:error, :gone} ->
        tell_breaker(call, :grpc, guard, :void)
        no_reply(call, :closed, ex)

      # What waits there is dropped with the next call.
      {:error, :timeout} ->
        tell_breaker(call, :grpc, guard, :void)
        {{:error, timeout(call)}, :at_rest, ex}

      {:error, why} ->
        tell_breaker(call, :grpc, guard, :failure)
        {{:error, Error.new(:transfer, :unavailable, why)}, :at_rest, ex}

      {:error, error, state} ->
        tell_breaker(call, :grpc, guard, fault(call, error))
        {{:error, error}, state, ex}
    end
  end

  # ---- breakers ---------------------------------------------------------------------------------------------------

  defp allow(_call, :inline), do: nil

  defp allow(call, way) do
    case Breaker.allow(call.handle.breaker, way) do
      :ok -> {nil, now_ms()}
      {:ok, probe} -> {probe, now_ms()}
      :open -> :open
    end
  end

  defp probe(nil), do: nil
  defp probe({probe, _asked}), do: probe

  defp tell_breaker(_call, _way, nil, _result), do: :ok

  defp tell_breaker(call, way, {probe, _asked}, result),
    do: Breaker.record(call.handle.breaker, way, result, probe)

  # The worker answered: whatever it has to say, the request's way works, if not too slowly.
  defp arrived(_call, %{guard: nil} = ex, _tool_ns), do: ex

  defp arrived(%{handle: %{breaker: breaker}} = call, %{guard: {_, asked}} = ex, tool_ns) do
    slow? =
      is_integer(tool_ns) and not call.stream? and
        now_ms() - asked - div(tool_ns, 1_000_000) > Breaker.slow_ms(breaker)

    tell_breaker(call, ex.request_way, ex.guard, if(slow?, do: :slow, else: :ok))
    %{ex | guard: nil}
  end

  # It did not answer.
  defp judged({_, _, %{guard: nil}} = answer, _call), do: answer

  defp judged({result, _, ex} = answer, call) do
    tell_breaker(call, ex.request_way, ex.guard, with({:error, error} <- result, do: fault(call, error)))
    answer
  end

  # What is the way's own fault, and not the caller's, the tool's or the worker's.
  defp fault(_call, %{category: :grpc_error}), do: :failure

  defp fault(call, %{category: :transfer, reason: :quota}),
    do: if(call.payload.bytes <= div(call.handle.quota, 2), do: :failure, else: :void)

  defp fault(_call, %{category: :transfer, reason: reason}) when reason in [:unavailable, :no_memory],
    do: :failure

  defp fault(_call, _error), do: :void

  @doc "The error of a call that has no way left but one that is left alone."
  @spec breaker_open(Pool.Handle.t(), Transfer.way()) :: Error.t()
  def breaker_open(handle, way) do
    now = Breaker.explain(handle.breaker, way)

    words =
      if now.state == :isolated,
        do: "it was isolated, until Snakepit.reset_way/2",
        else: "too many calls failed by it; it is tried again in #{now.retry_in_ms} ms"

    Error.new(:transfer, :breaker_open, "pool #{inspect(handle.name)} does not use #{inspect(way)}: #{words}",
      details: %{way: way, retry_in_ms: now.retry_in_ms},
      pool: handle.name
    )
  end

  # ---- streams ----------------------------------------------------------------------------------------------------

  # The tool is in the middle of its loop.
  defp left(:lane, why), do: {:running, true, why}

  defp left({:grpc, handle}, why) do
    Grpc.cancel(handle)
    {:running, false, why}
  end

  defp item(call, call_id, ex, items, source, decoded) do
    case decoded do
      {:ok, :item, term, meta} ->
        {:item, term, {call_id, source, costs(call, ex, meta), items + 1}}

      {:ok, :end, returned, meta} ->
        settle(source)
        {{:ok, returned}, :at_rest, costs(call, ex, meta)}

      {:ok, :error, error, meta} ->
        settle(source)
        {{:error, Error.from_worker(error)}, :at_rest, costs(call, ex, meta)}

      {:ok, _other, _, _} ->
        broken("the worker answered a stream with a single result", ex)

      {:error, :value, path, reason, what} ->
        why = "a stream had an item that cannot be read"
        {{:error, unreadable(path, reason, what)}, left(source, why), ex}

      {:error, :closed} ->
        no_reply(call, :closed, ex)

      {:error, :timeout} ->
        {{:error, late_item(call, items)}, {:running, false, @unannounced}, ex}

      {:error, what} ->
        broken(what, ex)
    end
  end

  defp next_frame(call, lane, source) do
    cond do
      # An item that is there already outlives neither the deadline nor its call.
      remaining(call) == 0 -> {:error, :timeout}
      Cancellation.cancelled?(call.cancellation) -> {:error, :cancelled}
      true -> frame_from(source, call, lane)
    end
  end

  defp frame_from(:lane, call, lane) do
    with {:ok, frame} <- LaneSocket.recv(lane.socket, item_deadline(call), call.cancellation),
         do: {:ok, frame, []}
  end

  defp frame_from({:grpc, handle}, call, lane) do
    case Grpc.next(handle, left_until(item_deadline(call)), call.cancellation) do
      {:item, frame, beside} -> {:ok, frame, beside}
      :done -> :done
      :timeout -> {:error, :timeout}
      :cancelled -> {:error, :cancelled}
      {:error, :deadline_exceeded, _message} -> {:error, :timeout}
      {:error, code, message} -> broken_stream(call, lane, code, message)
    end
  end

  defp broken_stream(call, lane, code, message) do
    if worker_gone?(call, lane, code),
      do: {:error, :closed},
      else: {:error, :grpc, grpc_error(code, message)}
  end

  defp settle(:lane), do: :ok
  defp settle({:grpc, handle}), do: Grpc.cancel(handle)

  # ---- gRPC -------------------------------------------------------------------------------------------------------

  defp no_grpc(lane), do: "worker #{lane.name} has no gRPC#{Snakepit.Python.advice("grpc")}"

  defp channel(_call, %Lane{grpc: false} = lane), do: {:error, no_grpc(lane)}
  defp channel(call, lane), do: Worker.grpc(lane, remaining(call))

  defp grpc_call(call, lane, call_id, channel, frame, buffers) do
    case Grpc.call(channel, frame, buffers, remaining(call), call.cancellation) do
      {:ok, frame, beside} -> {:replied, call_id, frame, beside}
      other -> grpc_failed(call, lane, other)
    end
  end

  defp grpc_stream(call, lane, call_id, channel, frame) do
    case Grpc.stream(channel, frame, call.buffers, remaining(call)) do
      {:ok, handle} -> {:streaming, call_id, {:grpc, handle}}
      other -> grpc_failed(call, lane, other)
    end
  end

  defp grpc_failed(_call, _lane, {:error, :too_large}) do
    words = "a gRPC message has at most #{Transfer.largest_message()} bytes"
    {:error, Error.new(:transfer, :too_large, words), :at_rest}
  end

  defp grpc_failed(call, _lane, :timeout),
    do: {:error, timeout(call), {:running, false, "its tool ran beyond the deadline"}}

  defp grpc_failed(call, _lane, :cancelled),
    do: {:error, Cancellation.error(call.command), {:running, false, @cancelled}}

  defp grpc_failed(call, lane, {:error, :deadline_exceeded, _}), do: grpc_failed(call, lane, :timeout)

  # Its connection is over, or could not be made. If the worker is gone, it is the worker that failed, not the way.
  defp grpc_failed(call, lane, {:error, code, message}) do
    if worker_gone?(call, lane, code),
      do: lost(gone(), :closed),
      else: lost(grpc_error(code, message), "a call by gRPC failed: #{code}")
  end

  # The sockets of a process that ends are closed one after the other.
  defp worker_gone?(_call, _lane, code) when code != :unavailable, do: false

  defp worker_gone?(call, lane, _unavailable) do
    soon = System.monotonic_time(:millisecond) + @gone_ms
    LaneSocket.recv(lane.socket, min(soon, call.deadline)) == {:error, :closed}
  end

  defp grpc_error(code, message), do: Error.new(:grpc_error, code, "gRPC #{code}: #{message}")

  # ---- helpers ----------------------------------------------------------------------------------------------------

  defp costs(call, ex, {way, bytes, tool_ns, flags}) do
    starved = Frame.starved?(flags)
    if starved, do: Pool.Arena.starved(call.handle)
    ex = arrived(call, ex, tool_ns)
    way = Transfer.from_number(way)

    %{
      ex
      | reply_way: way,
        reply_bytes: ex.reply_bytes + bytes,
        reply_carried: ex.reply_carried + if(Frame.in_place?(flags), do: 0, else: bytes),
        tool_ns: ex.tool_ns + tool_ns,
        fallback: ex.fallback or starved,
        collect: Frame.collection(flags) || ex.collect
    }
  end

  @doc """
  Collects the caller's garbage if so many results lie in shared memory that it should, once the call is over and measured.

  A collection reads the whole mailbox (where `message_queue_data` is `:on_heap`), so a process with a long one is left
  alone: when memory runs low, the arena has it collect.
  """
  @spec collect(t()) :: :ok
  def collect(%__MODULE__{collect: nil}), do: :ok

  def collect(%__MODULE__{collect: type}) do
    with {:message_queue_len, length} when length <= @short_mailbox <-
           Process.info(self(), :message_queue_len),
         do: :erlang.garbage_collect(self(), type: type)

    :ok
  end

  defp unreadable(path, :no_memory, what),
    do: Error.new(:transfer, :no_memory, "#{path}: #{what}; the next ones go another way")

  defp unreadable(path, reason, what) do
    Error.new(:python_error, reason, "#{path}: the tool returned #{what}", details: %{path: path})
  end

  defp broken(what, ex) do
    {{:error, Error.new(:worker, :protocol, "the worker broke the protocol: #{what}")},
     {:lost, "it broke the protocol: #{what}"}, ex}
  end

  # Why it is gone is asked of the worker's process once the lane was given back.
  defp gone, do: Error.new(:worker, :lost, "the worker is gone")

  defp timeout(call) do
    timeout = call.options.timeout || call.handle.options.timeout
    Error.new(:timeout, :timeout, "#{call.command} did not finish within #{timeout} ms")
  end

  defp now_ms, do: System.monotonic_time(:millisecond)

  # Which of a stream's two times passed.
  defp late_item(%{stream?: false} = call, _items), do: timeout(call)

  defp late_item(call, items) do
    after_items = "after #{Units.counted(items, "item")}"

    {reason, words} =
      if remaining(call) == 0,
        do: {:timeout, "did not finish within #{call.options.timeout} ms (:timeout), #{after_items}"},
        else: {:item_timeout, "yielded nothing for #{call.item_timeout} ms (:item_timeout), #{after_items}"}

    Error.new(:timeout, reason, "#{call.command} #{words}", details: %{items: items})
  end

  # Until when a stream's next item must be there.
  defp item_deadline(%{item_timeout: :infinity, deadline: deadline}), do: deadline
  # As an atom, :infinity is greater than any number.
  defp item_deadline(%{item_timeout: ms, deadline: deadline}), do: min(now_ms() + ms, deadline)

  defp remaining(%{deadline: deadline}), do: left_until(deadline)

  defp left_until(:infinity), do: :infinity
  defp left_until(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
