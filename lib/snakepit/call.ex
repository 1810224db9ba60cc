defmodule Snakepit.Call do
  @moduledoc false
  # One call, from arguments to result, in the caller's own process:
  #
  #     options → encode → check a lane out → plan → send → receive → decode → check the lane in
  #     Call.Request       Pool             Decision  Call.Exchange              Call.Outcome
  #
  # A lane is given back only when it is known to be at rest. A tool that still runs is cancelled first; a worker whose
  # state is unknown is replaced.

  alias Snakepit.{Error, Native, Observation, Performance, Pool}
  alias Snakepit.Call.{Cancellation, Exchange, Items, Outcome, Request}
  alias Snakepit.Performance.Explanation
  alias Snakepit.Performance.Model.Decision
  alias Snakepit.Pool.{CommandBreaker, Counters, LaneRecovery, Retries}
  alias Snakepit.Worker.Lane

  # To be handed a lane by another process takes longer.
  @at_once_ns 2_000

  @doc "Runs a call; the result and what it cost."
  @spec run(String.t() | atom(), map(), keyword(), group :: Cancellation.t()) ::
          {Outcome.result(), Observation.t()}
  def run(command, args, opts, group \\ nil) do
    case Request.new(command, args, opts, false) do
      {:ok, %{options: %{correlation_id: nil}} = call} -> Outcome.emit(attempt(call, 0))
      {:ok, call} -> call |> cancellable(group) |> run_cancellable()
      {:error, %Error{} = error} -> {{:error, error}, %Observation{command: command}}
    end
  end

  defp run_cancellable(call), do: call |> attempt(0) |> unless_cancelled(call) |> Outcome.emit()

  defp cancellable(%{options: %{correlation_id: id}} = call, group),
    do: %{call | cancellation: Cancellation.register(id, group)}

  # The call is over. One that was counted as cancelled answers so, whatever came of it in the same moment.
  defp unless_cancelled({result, seen} = answer, call) do
    if Cancellation.finish(call.cancellation) and not match?({:error, %Error{category: :cancelled}}, result),
      do: {{:error, Outcome.named(Cancellation.error(call.command), call)}, seen},
      else: answer
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
          call = planned(call, lane)
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
      # The lane was handed over as the call was cancelled. A call that got one at once sees that when it waits.
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

    {{:error, error |> Outcome.named(call) |> Error.of_command(call.command)},
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
  @opaque stream :: {Request.t(), Lane.t(), Native.checkout(), checked_out(), Items.streaming()}
  @typep checked_out :: {CommandBreaker.suspect() | nil, queued_ns :: non_neg_integer()}

  @doc """
  Begins a call whose tool yields items. From now on it holds a lane, until `next_item/1` says that it ended, `leave/1` is
  called, or nothing refers to it any more: then its tool is cancelled, as when the process dies.

  `returned?`: whether its end has what the generator returned; else that stays in Python, whatever it is.
  """
  @spec open_stream(String.t() | atom(), map(), keyword(), returned? :: boolean()) ::
          {:ok, stream()} | {:error, Error.t()}
  def open_stream(command, args, opts, returned?) do
    with {:ok, call} <- Request.new(command, args, opts, true) do
      call = cancellable(%{call | returned?: returned?}, nil)

      case checkout_unless_cancelled(call) do
        {:ok, lane, checkout, suspect, queued} ->
          out = {suspect, queued}

          guarded(call, lane, checkout, suspect, fn ->
            call = planned(call, lane)

            case Exchange.open_stream(call, lane) do
              {:streaming, streaming} -> {:ok, {call, lane, checkout, out, streaming}}
              ended -> ended({call, lane, checkout, out, nil}, ended)
            end
          end)

        {:error, error} ->
          {result, _seen} = call |> unserved(error) |> unless_cancelled(call) |> Outcome.emit()
          result
      end
    end
  end

  @doc "Waits for the next item. The stream's deadline is one for the whole of it, the time between items included."
  @spec next_item(stream()) :: {:item, term(), stream()} | {:ok, returned :: term()} | {:error, Error.t()}
  def next_item({call, lane, checkout, {suspect, _queued} = out, streaming} = stream) do
    guarded(call, lane, checkout, suspect, fn ->
      case Items.next(call, lane, streaming) do
        {:item, item, streaming} -> {:item, item, {call, lane, checkout, out, streaming}}
        ended -> ended(stream, ended)
      end
    end)
  end

  @doc "Leaves a stream before its end: its tool is cancelled. The event of its end has `status`."
  @spec leave(stream(), :ok | :raised) :: :ok
  def leave({call, lane, checkout, {suspect, _queued}, streaming} = stream, status \\ :ok) do
    guarded(call, lane, checkout, suspect, fn -> ended(stream, Items.leave(call, streaming, status)) end)
    :ok
  end

  defp ended({call, lane, checkout, {suspect, queued}, _streaming}, ended) do
    {result, _seen} =
      call
      |> finish(lane, checkout, queued, ended)
      |> judged(call, suspect)
      |> unless_cancelled(call)
      |> Outcome.emit()

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

  @doc "Which ways a call would take, and why; nothing is sent."
  @spec explain(String.t() | atom(), map(), keyword()) :: {:ok, Explanation.t()} | {:error, Error.t()}
  def explain(command, args, opts) do
    with {:ok, %{handle: handle, payload: payload} = call} <- Request.new(command, args, opts, false),
         {:enabled, _call, :ok} <- {:enabled, call, Performance.enabled(handle)} do
      plan = Decision.plan(handle, nil, payload, call.request_ways, call.reply_ways, :look)
      {:ok, Explanation.new(handle, payload.type, Explanation.call(handle, call.command, payload, plan))}
    else
      {:enabled, call, {:error, error}} ->
        {:error, error |> Outcome.named(call) |> Error.of_command(call.command)}

      {:error, error} ->
        {:error, error}
    end
  end

  defp planned(%{handle: handle, payload: payload} = call, lane),
    do: %{call | plan: Decision.plan(handle, lane, payload, call.request_ways, call.reply_ways, :call)}

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
      CommandBreaker.record(handle.commands, suspect, failed)
      failed
    end
  end

  # A stream that has all the time does not wait for a worker longer than a call does.
  defp queue_deadline(%{stream?: true, options: %{timeout: nil}, handle: handle}),
    do: Request.deadline(handle.options.timeout)

  defp queue_deadline(call), do: call.deadline

  # A caller that got a lane at once need not ask twice.
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
    CommandBreaker.record(call.handle.commands, suspect, result)
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

    result = with {:error, %Error{} = error} <- result, do: {:error, Outcome.named(error, call, lane)}
    seen = Outcome.observe(call, lane, queued, exchange, result)
    Outcome.collect(exchange)
    {result, seen}
  end

  defp now_ns, do: System.monotonic_time(:nanosecond)
end
