defmodule Snakepit.Call.Outcome do
  @moduledoc false
  # The end of a call: its error in words, its observation, the pool's counts, what the cost model learns from it, and
  # the events.

  alias Snakepit.{Error, Observation, Pool, Telemetry, Transfer}
  alias Snakepit.Call.{Exchange, Request}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.Decision
  alias Snakepit.Pool.{Counters, Retries}
  alias Snakepit.Transfer.Plan
  alias Snakepit.Worker.Lane

  @type result :: {:ok, term()} | {:error, Error.t()}

  @reason_ms 100
  # Messages that a garbage collection may have to read.
  @short_mailbox 200
  @probe Transfer.probe_command()

  # A run that is ending says why within moments, for which a caller that has no time left waits all the same.
  defp time_for_reason(%{deadline: :infinity}), do: :infinity

  defp time_for_reason(%{deadline: deadline}),
    do: max(deadline - System.monotonic_time(:millisecond), @reason_ms)

  @doc "The error of a call that had this lane: with the names of pool and worker, and why the worker is gone if it is."
  @spec named(Error.t(), Request.t(), Lane.t()) :: Error.t()
  def named(error, call, lane) do
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

  @doc "The error of a call, with the name of its pool and its correlation id."
  @spec named(Error.t(), Request.t() | map()) :: Error.t()
  def named(error, %{options: %{correlation_id: nil}, handle: handle} = call),
    do: %{in_its_time(error, call) | pool: handle.name}

  def named(error, %{options: %{correlation_id: id}, handle: handle} = call),
    do: %{in_its_time(error, call) | pool: handle.name, details: Map.put(error.details, :correlation_id, id)}

  # The message has the timeout that the caller gave. The measured time differs by a millisecond.
  defp in_its_time(%Error{reason: :queue_timeout}, %{handle: handle, options: options}),
    do: Pool.waited_in_vain(handle, options.timeout || handle.options.timeout)

  defp in_its_time(error, _call), do: error

  @doc "The cost of a call, which is counted and recorded."
  @spec observe(Request.t(), Lane.t(), queued_ns :: non_neg_integer(), Exchange.t(), result()) ::
          Observation.t()
  def observe(call, lane, queued, exchange, result) do
    total = System.monotonic_time(:nanosecond) - call.started
    # Probes are nobody's call.
    unless call.command == @probe, do: count(call, exchange, queued, total, result)

    %Observation{
      pool: call.handle.name,
      worker: lane.name,
      command: call.command,
      correlation_id: call.options.correlation_id,
      request_way: exchange.request_way,
      reply_way: exchange.reply_way,
      request_bytes: call.payload.bytes,
      reply_bytes: exchange.reply_bytes,
      copied_bytes: exchange.copied,
      queue_ns: queued,
      tool_ns: exchange.tool_ns,
      gil_ns: exchange.gil_ns,
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

    Counters.add(counters, :request_bytes, call.payload.bytes + call.payload.envelope)
    Counters.add(counters, :reply_bytes, exchange.reply_bytes)
    record(call.handle.performance, call, exchange, queued, total, result)
    Decision.emit(call.handle, call.payload, call.plan, exchange.request_way || hd(call.plan.request))
  end

  @stop [:snakepit, :call, :stop]
  @fallback [:snakepit, :call, :fallback]

  @doc "Emits the end of a call."
  @spec emit({result, Observation.t()}) :: {result, Observation.t()} when result: term()
  def emit({_result, %{command: @probe}} = answer), do: answer

  def emit({result, seen} = answer) do
    stopped(seen, result)
    if seen.fallback, do: fell_back(seen)
    answer
  end

  defp stopped(seen, result) do
    if Telemetry.listened_to?(@stop) do
      measurements =
        Map.take(seen, [:tool_ns, :gil_ns, :queue_ns, :request_bytes, :reply_bytes, :copied_bytes])

      metadata =
        Map.take(seen, [:pool, :worker, :command, :correlation_id, :request_way, :reply_way, :retries])

      status = Map.put(metadata, :status, elem(result, 0))
      Telemetry.execute(@stop, Map.put(measurements, :duration_ns, seen.total_ns), status)
    end
  end

  defp fell_back(seen) do
    if Telemetry.listened_to?(@fallback) do
      metadata = Map.take(seen, [:pool, :command, :request_way, :reply_way])
      Telemetry.execute(@fallback, Map.take(seen, [:request_bytes, :reply_bytes]), metadata)
    end
  end

  # A model that could not decide does not learn from the call.
  defp record(_failed, %{plan: %{reason: :undecided}}, _exchange, _queued, _total, _result), do: :ok

  defp record(%Model{ref: ref} = model, %{payload: payload} = call, exchange, queued, total, result)
       when ref != nil do
    # A call that came to nothing is counted as one.
    {there, back} = {exchange.request_way || :inline, exchange.reply_way || :inline}
    # Streams and calls that failed are not learned from.
    learn? = match?({:ok, _}, result) and not call.stream?
    carried = if there == :zero_copy, do: exchange.copied, else: payload.bytes
    work = max(total - exchange.tool_ns - exchange.gil_ns - queued, 0)
    about = {there, back, payload.type, not exchange.cold, learn?}
    Model.record(model, about, explored(call.plan, payload, there), work, carried, exchange.reply_carried)
  end

  defp record(_not_measured, _call, _exchange, _queued, _total, _result), do: :ok

  defp explored(%{predicted: nil}, _payload, _way), do: nil

  defp explored(plan, payload, way) do
    {explored?, propensity} = Plan.choice(plan, way)
    # The prediction is for one buffer.
    predicted = if payload.count == 1, do: Plan.predicted(plan, way)
    {explored?, propensity, predicted, plan.reason == :holdout and hd(plan.request) == way}
  end

  defp counter(:request, :inline), do: :request_inline
  defp counter(:request, :zero_copy), do: :request_zero_copy
  defp counter(:request, :grpc), do: :request_grpc
  defp counter(:reply, :inline), do: :reply_inline
  defp counter(:reply, :zero_copy), do: :reply_zero_copy
  defp counter(:reply, :grpc), do: :reply_grpc

  @doc "The error of a call whose worker is gone. Why is asked of the worker's process once the lane was given back."
  @spec gone() :: Error.t()
  def gone, do: Error.new(:worker, :lost, "the worker is gone")

  @doc """
  Collects the caller's garbage if so many results lie in shared memory that it should, once the call is over and measured.

  A collection reads the whole mailbox (where `message_queue_data` is `:on_heap`), so a process with a long one is left
  alone: when memory runs low, the arena has it collect.
  """
  @spec collect(Exchange.t()) :: :ok
  def collect(%{collect: nil}), do: :ok

  def collect(%{collect: type}) do
    with {:message_queue_len, length} when length <= @short_mailbox <-
           Process.info(self(), :message_queue_len),
         do: :erlang.garbage_collect(self(), type: type)

    :ok
  end
end
