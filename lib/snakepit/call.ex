defmodule Snakepit.Call do
  @moduledoc false
  # One call, from arguments to result, in the caller's own process:
  #
  #     options → encode → check a lane out → choose a way → send → receive → decode → check the lane in
  #
  # A lane is given back only when it is known to be at rest; a tool that still runs is cancelled first, and a worker
  # whose state is unknown is replaced.

  alias Snakepit.{Breaker, Error, Native, Observation, Pool, Telemetry, Transfer}
  alias Snakepit.Call.{Cancellation, Exchange, Options}
  alias Snakepit.Performance.{Decision, Explanation, Record}
  alias Snakepit.Pool.{CommandBreaker, Counters, Handle, LaneRecovery, Retries}
  alias Snakepit.Worker.Lane

  defstruct [
    :command,
    :handle,
    :options,
    :deadline,
    :envelope,
    :buffers,
    :bytes,
    :size,
    :request_ways,
    :reply_ways,
    :decision,
    :started,
    # What `Snakepit.cancel/1` finds; nil of a call without a correlation id.
    :cancellation,
    # Of a stream: milliseconds.
    item_timeout: :infinity,
    stream?: false,
    # Whether the caller of a stream takes what its generator returns, too.
    returned?: false
  ]

  @reason_ms 100
  # To be handed a lane by another process takes longer.
  @at_once_ns 2_000
  @probe Snakepit.Performance.Probe.command()

  @type t :: %__MODULE__{}
  @type result :: {:ok, term()} | {:error, Error.t()}

  @doc "Runs a call; the result and what it cost."
  @spec run(String.t() | atom(), map(), keyword(), group :: Cancellation.t()) :: {result(), Observation.t()}
  def run(command, args, opts, group \\ nil) do
    case prepare(command, args, opts, false) do
      {:ok, %{options: %{correlation_id: nil}} = call} -> told(attempt(call, 0))
      {:ok, call} -> call |> cancellable(group) |> run_cancellable()
      {:error, %Error{} = error} -> {{:error, error}, %Observation{command: command}}
    end
  end

  defp run_cancellable(call), do: call |> attempt(0) |> unless_cancelled(call) |> told()

  defp cancellable(%{options: %{correlation_id: id}} = call, group),
    do: %{call | cancellation: Cancellation.register(id, group)}

  # The call is over. One that was counted as cancelled answers so, whatever came of it in the same moment.
  defp unless_cancelled({result, seen} = answer, call) do
    if Cancellation.finish(call.cancellation) and not match?({:error, %Error{category: :cancelled}}, result),
      do: {{:error, named(Cancellation.error(call.command), call)}, seen},
      else: answer
  end

  defp told({result, %{command: command} = seen} = answer) do
    unless command == @probe, do: tell(seen, result)
    answer
  end

  defp attempt(call, tried) do
    case once(call, &Exchange.run/3) do
      {{:error, %Error{category: :worker, reason: reason}}, _seen} = failed
      when call.options.idempotent and reason in [:lost, :protocol] ->
        again(call, tried, failed)

      {result, seen} ->
        {result, %{seen | retries: tried}}
    end
  end

  # A lane, and what is exchanged on it.
  defp once(call, exchange) do
    case checkout_unless_cancelled(call) do
      {:ok, lane, checkout, suspect, queued} ->
        guarded(call, lane, checkout, suspect, fn ->
          finish(call, lane, checkout, queued, exchange.(call, lane, checkout))
        end)
        |> judged(call, suspect)

      {:error, error} ->
        unserved(call, error)
    end
  end

  defp checkout_unless_cancelled(call) do
    with {:cancelled?, false} <- {:cancelled?, Cancellation.cancelled?(call.cancellation)},
         {:ok, _lane, checkout, suspect, queued} = out <- checkout(call) do
      # A lane that was handed over as the call was cancelled. Who got one at once sees it when it waits.
      if queued >= @at_once_ns and Cancellation.cancelled?(call.cancellation) do
        CommandBreaker.void(call.handle.commands, suspect)
        Pool.checkin(checkout)
        not_begun(call)
      else
        out
      end
    else
      {:cancelled?, true} -> not_begun(call)
      {:error, %Error{category: :cancelled}} -> {:error, Cancellation.error(call.command)}
      {:error, error} -> {:error, error}
    end
  end

  defp not_begun(call) do
    Counters.add(call.handle.counters, :errors, 1)
    {:error, Cancellation.error(call.command)}
  end

  # It got no lane.
  defp unserved(call, error) do
    waited = now_ns() - call.started

    {{:error, error |> named(call) |> Error.of_command(call.command)},
     %Observation{
       pool: call.handle.name,
       command: call.command,
       correlation_id: call.options.correlation_id,
       queue_ns: waited,
       total_ns: waited
     }}
  end

  # Its worker is out of the pool's lanes by now, so another takes the call; the deadline stays.
  defp again(%{handle: handle} = call, tried, {result, seen}) do
    case Retries.spend(handle.retries, tried, :rand.uniform()) do
      {:ok, wait_ms} ->
        Counters.add(handle.counters, :retries, 1)

        receive do
        after
          wait_ms -> attempt(call, tried + 1)
        end

      :exhausted ->
        {result, %{seen | retries: tried}}
    end
  end

  @typedoc "A stream that is under way, and the lane it holds."
  @opaque stream :: {t(), Lane.t(), Native.checkout(), checked_out(), Exchange.streaming()}
  @typep checked_out :: {CommandBreaker.suspect() | nil, queued_ns :: non_neg_integer()}

  @doc """
  Begins a call whose tool yields items. From now on it holds a lane, until `next_item/1` says that it ended, `leave/1` is
  called, or nothing refers to it any more: then its tool is cancelled, as when the process dies.

  `returned?`: whether its end has what the generator returned; else that stays in Python, whatever it is.
  """
  @spec open_stream(String.t() | atom(), map(), keyword(), returned? :: boolean()) ::
          {:ok, stream()} | {:error, Error.t()}
  def open_stream(command, args, opts, returned?) do
    with {:ok, call} <- prepare(command, args, opts, true),
         :ok <- not_idempotent(call) do
      call = cancellable(%{call | returned?: returned?}, nil)

      case checkout_unless_cancelled(call) do
        {:ok, lane, checkout, suspect, queued} ->
          out = {suspect, queued}

          guarded(call, lane, checkout, suspect, fn ->
            case Exchange.open_stream(call, lane) do
              {:streaming, streaming} -> {:ok, {call, lane, checkout, out, streaming}}
              ended -> ended({call, lane, checkout, out, nil}, ended)
            end
          end)

        {:error, error} ->
          {result, _seen} = call |> unserved(error) |> unless_cancelled(call) |> told()
          result
      end
    end
  end

  @doc "Waits for the next item. The stream's deadline is one for the whole of it, the time between items included."
  @spec next_item(stream()) :: {:item, term(), stream()} | {:ok, returned :: term()} | {:error, Error.t()}
  def next_item({call, lane, checkout, {suspect, _queued} = out, streaming} = stream) do
    guarded(call, lane, checkout, suspect, fn ->
      case Exchange.next_item(call, lane, streaming) do
        {:item, item, streaming} -> {:item, item, {call, lane, checkout, out, streaming}}
        ended -> ended(stream, ended)
      end
    end)
  end

  @doc "Leaves a stream before its end: its tool is cancelled. `status` is told with the event of its end."
  @spec leave(stream(), :ok | :raised) :: :ok
  def leave({call, lane, checkout, {suspect, _queued}, streaming} = stream, status \\ :ok) do
    guarded(call, lane, checkout, suspect, fn -> ended(stream, Exchange.leave(call, streaming, status)) end)
    :ok
  end

  defp ended({call, lane, checkout, {suspect, queued}, _streaming}, ended) do
    {result, _seen} =
      call
      |> finish(lane, checkout, queued, ended)
      |> judged(call, suspect)
      |> unless_cancelled(call)
      |> told()

    result
  end

  @doc "Runs a call whose tool yields items, and `fun` with each of them; answers with what it returned."
  @spec each(String.t() | atom(), map(), keyword(), (term() -> any())) :: {:ok, term()} | {:error, Error.t()}
  def each(command, args, opts, fun) do
    with {:ok, stream} <- open_stream(command, args, opts, true), do: each(stream, fun)
  end

  defp each(stream, fun) do
    case next_item(stream) do
      {:item, item, stream} ->
        left_if_raised(stream, fn -> fun.(item) end)
        each(stream, fun)

      {:ok, returned} ->
        {:ok, returned}

      {:error, error} ->
        {:error, error}
    end
  end

  @doc "The answer of a consumer; if it raises, throws or exits, the stream is left first."
  @spec left_if_raised(stream(), (() -> answer)) :: answer when answer: term()
  def left_if_raised(stream, consume) do
    consume.()
  catch
    kind, reason ->
      leave(stream, :raised)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  # Items that were handed out cannot be taken back.
  defp not_idempotent(%{options: %{idempotent: false}}), do: :ok

  defp not_idempotent(call) do
    words = "options of the call: :idempotent is not for streams, which are never tried again"

    with {:error, error} <- invalid(:invalid_option, words),
         do: {:error, error |> named(call) |> Error.of_command(call.command)}
  end

  @doc "Which ways a call would take, and why; nothing is sent."
  @spec explain(String.t() | atom(), map(), keyword()) :: {:ok, Explanation.t()} | {:error, Error.t()}
  def explain(command, args, opts) do
    with {:ok, %{handle: handle, size: size} = call} <- prepare(command, args, opts, false, &Decision.would/3) do
      type = Enum.at(Snakepit.Performance.data_types(), size.kind)

      facts =
        size
        |> Map.take([:bytes, :fresh, :count, :envelope])
        |> Map.merge(%{command: call.command, data_type: type})

      case Snakepit.Performance.enabled(handle) do
        :ok ->
          explanation = Explanation.call(handle, facts, call.request_ways, call.decision)
          {:ok, Explanation.new(handle, type, explanation)}

        {:error, error} ->
          {:error, error |> named(call) |> Error.of_command(call.command)}
      end
    end
  end

  # ---- before a lane ----------------------------------------------------------------------------------------------

  defp prepare(command, args, opts, stream?, decide \\ &Decision.ways/3) do
    started = now_ns()

    with {:ok, options} <- Options.new(opts),
         :ok <- only_of_streams(options, stream?),
         {:ok, handle} <- Handle.fetch(options.pool || Snakepit.default_pool()),
         {:error, error} <- prepared(command, args, options, handle, stream?, started, decide) do
      {:error, error |> named(%{options: options, handle: handle}) |> Error.of_command(command)}
    else
      {:ok, call} -> {:ok, call}
      {:error, error} -> {:error, Error.of_command(error, command)}
    end
  end

  defp prepared(command, args, options, handle, stream?, started, decide) do
    with {:ok, command} <- command(command, handle),
         :ok <- arguments(args, handle),
         {:ok, envelope, buffers, {bytes, fresh, kind}} <- encode(command, args, options, handle) do
      call = %__MODULE__{
        command: command,
        handle: handle,
        options: options,
        deadline: deadline(options.timeout || if(stream?, do: :infinity, else: handle.options.timeout)),
        item_timeout: if(stream?, do: item_timeout(options, handle), else: :infinity),
        envelope: envelope,
        buffers: buffers,
        bytes: bytes,
        size: %{bytes: bytes, fresh: fresh, kind: kind, count: length(buffers), envelope: byte_size(envelope)},
        started: started,
        stream?: stream?
      }

      ways(call, decide)
    end
  end

  defp only_of_streams(%{item_timeout: ms}, false) when ms != nil,
    do: invalid(:invalid_option, "options of the call: :item_timeout is for streams; this call has :timeout")

  defp only_of_streams(_options, _stream?), do: :ok

  # A stream that hangs ends as a call does that hangs, unless the caller said when.
  defp item_timeout(%{item_timeout: nil, timeout: nil}, handle), do: handle.options.timeout
  defp item_timeout(%{item_timeout: nil}, _handle), do: :infinity
  defp item_timeout(%{item_timeout: ms}, _handle), do: ms

  defp command(command, _handle) when is_binary(command) and byte_size(command) <= 1024 do
    if String.valid?(command), do: {:ok, command}, else: bad_command(command)
  end

  defp command(command, _handle) when is_atom(command) and command not in [nil, true, false],
    do: {:ok, Atom.to_string(command)}

  defp command(command, _handle), do: bad_command(command)

  defp bad_command(command) do
    shown = inspect(command, printable_limit: 100)

    invalid(
      :invalid_command,
      "expected a command to be a string of at most 1024 bytes or an atom, got: #{shown}"
    )
  end

  defp arguments(args, _handle) when is_map(args) and not is_struct(args), do: :ok

  defp arguments(args, _handle) do
    shown = inspect(args, limit: 5, printable_limit: 100)

    hint = if Keyword.keyword?(args), do: "; write #{inspect(Map.new(args), limit: 5, printable_limit: 100)}"
    words = "expected the arguments to be a map of names to values, got: #{shown}#{hint}"
    invalid(:invalid_arguments, words, %{path: "args"})
  end

  defp encode(command, args, options, handle) do
    case Native.encode(command, args, caller(options, handle.options), handle.options.inline_limit) do
      {:ok, _envelope, _buffers, _size} = encoded ->
        encoded

      :convert ->
        encode(command, Snakepit.Call.Convert.term(args), options, handle)

      {:error, path, :unsupported_type, what} ->
        error = "#{path}: #{what} cannot be sent to Python#{hint(what)}"
        invalid(:unsupported_type, error, %{path: path, type: what})

      {:error, path, :not_utf8, what} ->
        invalid(:not_utf8, "#{path}: #{what}: wrap it with Snakepit.bytes/1 to send it as bytes", %{
          path: path
        })

      {:error, path, reason, what} ->
        invalid(reason, "#{path}: #{what}", %{path: path})
    end
  end

  # What the tool may learn of its caller (native/PROTOCOL.md).
  defp caller(%{correlation_id: nil, session: session}, %{fake: nil}), do: session
  defp caller(%{correlation_id: id, session: session}, %{fake: nil}), do: [session, id]
  # A fake tool may depend on the process that calls.
  defp caller(%{correlation_id: id, session: session}, %{fake: {module, _}}),
    do: [[session, module.caller()], id]

  defp hint("the struct " <> _), do: ": send the map of what Python needs, such as Map.from_struct/1 gives"
  defp hint("a bitstring" <> _), do: ": pad it to whole bytes, and send its bit_size too"
  defp hint(_what), do: ""

  # What a forced way, the pool and `zero_copy: false` leave.
  defp ways(%{options: options, handle: handle} = call, decide) do
    allowed =
      if options.zero_copy, do: handle.options.transfers, else: handle.options.transfers -- [:zero_copy]

    with {:ok, for_request} <- choice(options.request, allowed, handle),
         {:ok, for_reply} <- choice(options.reply, allowed, handle),
         isolated = Breaker.isolated(handle.breaker),
         {:ok, for_request} <- without(for_request, isolated, handle),
         {:ok, for_reply} <- without(for_reply, isolated, handle),
         :ok <- reply_open(for_reply, options, handle) do
      case decide.(handle, call.size, for_request) do
        {[], _} ->
          size = call.bytes + byte_size(call.envelope)

          {:error,
           Error.new(
             :transfer,
             :too_large,
             "the arguments have #{size} bytes; by #{Enum.join(for_request, " or ")} a message has at most #{Transfer.largest_message()}",
             pool: handle.name
           )}

        {ways, decision} ->
          {:ok, %{call | request_ways: ways, reply_ways: for_reply, decision: decision}}
      end
    end
  end

  defp choice(:auto, [], handle) do
    invalid(:no_way, "pool #{inspect(handle.name)} allows zero_copy alone, and the call forbids it")
  end

  defp choice(:auto, allowed, _handle), do: {:ok, allowed}

  defp choice(forced, allowed, handle) do
    if forced in allowed do
      {:ok, [forced]}
    else
      names = Enum.map_join(handle.options.transfers, ", ", &inspect/1)

      invalid(
        :way_not_allowed,
        "the way #{inspect(forced)} is not open to this call: pool #{inspect(handle.name)} allows #{names}"
      )
    end
  end

  defp without(ways, [], _handle), do: {:ok, ways}

  defp without(ways, isolated, handle) do
    case ways -- isolated do
      [] -> {:error, Exchange.breaker_open(handle, hd(ways))}
      left -> {:ok, left}
    end
  end

  # A worker passes over a way that does not work by itself, unless it is forced: then it need not run the tool first.
  defp reply_open([way], %{reply: way}, handle) when way != :inline do
    if Breaker.refuses?(handle.breaker, way),
      do: {:error, Exchange.breaker_open(handle, way)},
      else: :ok
  end

  defp reply_open(_ways, _options, _handle), do: :ok

  defp invalid(reason, message, details \\ %{}),
    do: {:error, Error.new(:validation, reason, message, details: details)}

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  # ---- a lane -----------------------------------------------------------------------------------------------------

  defp checkout(%{handle: handle} = call) do
    before = now_ns()

    with {:ok, suspect} <- allowed(call, CommandBreaker.allow(handle.commands, call.command)),
         {:ok, lane, checkout} <- lane(call, suspect),
         queued = now_ns() - before,
         {:ok, suspect} <- still_allowed(call, suspect, checkout, queued) do
      {:ok, lane, checkout, suspect, queued}
    else
      {:error, error} ->
        Counters.add(handle.counters, :errors, 1)
        {:error, error}
    end
  end

  # A command whose calls ended too many workers gets none.
  defp allowed(%{handle: handle, command: command}, answer) do
    with {:open, _row} <- answer,
         do: {:error, CommandBreaker.refused(handle.commands, handle.name, command)}
  end

  defp lane(%{handle: handle, options: options} = call, suspect) do
    prefer? = options.affinity == :prefer

    with {:error, _} = failed <-
           Pool.checkout(handle, queue_deadline(call), options.session, prefer?, call.cancellation) do
      CommandBreaker.tell(handle.commands, suspect, failed)
      failed
    end
  end

  # A stream that has all the time does not wait for a worker longer than a call does.
  defp queue_deadline(%{stream?: true, options: %{timeout: nil}, handle: handle}),
    do: deadline(handle.options.timeout)

  defp queue_deadline(call), do: call.deadline

  # Who got a lane at once need not ask twice.
  defp still_allowed(_call, suspect, _checkout, queued) when queued < @at_once_ns, do: {:ok, suspect}

  # While this call waited, others of its command may have ended their workers.
  defp still_allowed(%{handle: handle} = call, suspect, checkout, _queued) do
    answer = CommandBreaker.allow_still(handle.commands, call.command, suspect)

    with {:error, _} = refused <- allowed(call, answer) do
      Pool.checkin(checkout)
      refused
    end
  end

  defp judged({result, _seen} = answer, call, suspect) do
    CommandBreaker.tell(call.handle.commands, suspect, result)
    answer
  end

  # Whatever happens between check-out and check-in, the lane does not stay with us.
  defp guarded(%{handle: handle} = call, lane, checkout, suspect, fun) do
    fun.()
  catch
    kind, reason ->
      CommandBreaker.void(handle.commands, suspect)
      Pool.discard(handle, checkout, lane, "a call ended abnormally")
      Cancellation.finish(call.cancellation)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp finish(call, lane, checkout, queued, {result, lane_state, exchange}) do
    case lane_state do
      :at_rest -> Pool.checkin(checkout)
      {:running, whole?, why} -> LaneRecovery.start(call.handle, lane, checkout, whole?, why)
      {:lost, why} -> Pool.discard(call.handle, checkout, lane, why)
    end

    result = with {:error, %Error{} = error} <- result, do: {:error, named(error, call, lane)}
    seen = observe(call, lane, queued, exchange, result)
    Exchange.collect(exchange)
    {result, seen}
  end

  # A run that is ending says why within moments, for which a caller that has no time left waits all the same.
  defp time_for_reason(%{deadline: :infinity}), do: :infinity

  defp time_for_reason(%{deadline: deadline}),
    do: max(deadline - System.monotonic_time(:millisecond), @reason_ms)

  defp named(error, call, lane) do
    error = if error.category == :worker and error.reason == :lost, do: lost(error, call, lane), else: error

    error =
      if error.reason == :unknown_command,
        do: Pool.Elsewhere.add(error, call.handle, call.command),
        else: error

    %{named(error, call) | worker: lane.name, command: call.command}
  end

  # A call that its pool's end does not wait for has lost its worker, but not by any fault of the worker's.
  defp lost(error, call, lane) do
    case Pool.Manager.why(call.handle, lane, time_for_reason(call)) do
      :stopping -> Pool.stopped(call.handle)
      :gone -> if Pool.Handle.current?(call.handle), do: error, else: Pool.stopped(call.handle)
      words -> %{error | message: words}
    end
  end

  defp named(error, %{options: %{correlation_id: nil}, handle: handle} = call),
    do: %{in_its_time(error, call) | pool: handle.name}

  defp named(error, %{options: %{correlation_id: id}, handle: handle} = call),
    do: %{in_its_time(error, call) | pool: handle.name, details: Map.put(error.details, :correlation_id, id)}

  # The message has the timeout that the caller gave. The measured time differs by a millisecond.
  defp in_its_time(%Error{reason: :queue_timeout}, %{handle: handle, options: options}),
    do: Pool.waited_in_vain(handle, options.timeout || handle.options.timeout)

  defp in_its_time(error, _call), do: error

  defp observe(call, lane, queued, exchange, result) do
    total = now_ns() - call.started
    # What is done for measuring's sake is nobody's call.
    unless call.command == @probe, do: count(call, exchange, queued, total, result)

    %Observation{
      pool: call.handle.name,
      worker: lane.name,
      command: call.command,
      correlation_id: call.options.correlation_id,
      request_way: exchange.request_way,
      reply_way: exchange.reply_way,
      request_bytes: call.bytes,
      reply_bytes: exchange.reply_bytes,
      copied_bytes: exchange.copied,
      queue_ns: queued,
      tool_ns: exchange.tool_ns,
      total_ns: total,
      fallback: exchange.fallback,
      cold: exchange.cold
    }
  end

  defp count(call, exchange, queued, total, result) do
    counters = call.handle.counters
    Counters.add(counters, :calls, 1)
    Retries.earn(call.handle.retries)
    if match?({:error, _}, result), do: Counters.add(counters, :errors, 1)
    if exchange.fallback, do: Counters.add(counters, :fallbacks, 1)
    if exchange.copied > 0, do: Counters.add(counters, :copied_bytes, exchange.copied)

    case exchange.request_way do
      nil -> :ok
      way -> Counters.add(counters, counter(:request, way), 1)
    end

    case exchange.reply_way do
      nil -> :ok
      way -> Counters.add(counters, counter(:reply, way), 1)
    end

    Counters.add(counters, :request_bytes, call.bytes + byte_size(call.envelope))
    Counters.add(counters, :reply_bytes, exchange.reply_bytes)
    if cost_model = call.handle.cost_model, do: record(cost_model, call, exchange, queued, total, result)
  end

  @stop [:snakepit, :call, :stop]
  @fallback [:snakepit, :call, :fallback]

  defp tell(seen, result) do
    if Telemetry.listened_to?(@stop) do
      measurements = Map.take(seen, [:tool_ns, :queue_ns, :request_bytes, :reply_bytes, :copied_bytes])

      metadata =
        Map.take(seen, [:pool, :worker, :command, :correlation_id, :request_way, :reply_way, :retries])

      status = Map.put(metadata, :status, elem(result, 0))
      Telemetry.execute(@stop, Map.put(measurements, :duration_ns, seen.total_ns), status)
    end

    if seen.fallback and Telemetry.listened_to?(@fallback) do
      metadata = Map.take(seen, [:pool, :command, :request_way, :reply_way])
      Telemetry.execute(@fallback, Map.take(seen, [:request_bytes, :reply_bytes]), metadata)
    end
  end

  # Streams and calls that failed are not learned from.
  defp record(cost_model, call, exchange, queued, total, result) do
    # A call that came to nothing is counted as one.
    {there, back} = {exchange.request_way || :inline, exchange.reply_way || :inline}
    ok? = match?({:ok, _}, result) and not call.stream?
    decision = if exchange.fallback, do: nil, else: call.decision

    legs =
      there |> Record.word(back, call.size.kind, not exchange.cold, ok?) |> Record.with_decision(decision)

    carried = if there == :zero_copy, do: exchange.copied, else: call.bytes
    work = max(total - exchange.tool_ns - queued, 0)
    Native.cost_model_record(cost_model, legs, work, carried, exchange.reply_carried)
  end

  defp counter(:request, :inline), do: :request_inline
  defp counter(:request, :zero_copy), do: :request_zero_copy
  defp counter(:request, :grpc), do: :request_grpc
  defp counter(:reply, :inline), do: :reply_inline
  defp counter(:reply, :zero_copy), do: :reply_zero_copy
  defp counter(:reply, :grpc), do: :reply_grpc

  defp now_ns, do: System.monotonic_time(:nanosecond)
end
