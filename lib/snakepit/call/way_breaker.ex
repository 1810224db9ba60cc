defmodule Snakepit.Call.WayBreaker do
  @moduledoc false
  # A call and the breakers of its pool's ways: a way is asked for before it is used, and what came of it is recorded.

  alias Snakepit.{Breaker, Error, Pool, Transfer}
  alias Snakepit.Call.Request

  @typedoc "What is yet to be recorded: the probe, if this call has it, and when the way was asked for."
  @type permit :: {Breaker.probe() | nil, asked_ms :: integer()} | nil

  @doc "Whether the call may use a way: then what to hand to `record/4`, nil for a way that has no breaker."
  @spec allow(Request.t(), Transfer.way()) :: permit() | :open
  def allow(_call, :inline), do: nil

  def allow(call, way) do
    case Breaker.allow(call.handle.breaker, way) do
      :ok -> {nil, System.monotonic_time(:millisecond)}
      {:ok, probe} -> {probe, System.monotonic_time(:millisecond)}
      :open -> :open
    end
  end

  @doc "The probe of a permit, for whoever records in its place."
  @spec probe(permit()) :: Breaker.probe() | nil
  def probe(nil), do: nil
  def probe({probe, _asked}), do: probe

  @doc "Records whether the way worked."
  @spec record(Request.t(), Transfer.way(), permit(), Breaker.result()) :: :ok
  def record(_call, _way, nil, _result), do: :ok

  def record(call, way, {probe, _asked}, result),
    do: Breaker.record(call.handle.breaker, way, result, probe)

  @doc "The worker answered: whatever it says, the request's way works, if not too slowly."
  @spec arrived(Request.t(), exchange, tool_ns :: non_neg_integer() | nil) :: exchange when exchange: map()
  def arrived(_call, %{permit: nil} = ex, _tool_ns), do: ex

  def arrived(%{handle: %{breaker: breaker}} = call, %{permit: {_, asked}} = ex, tool_ns) do
    slow? =
      is_integer(tool_ns) and not call.stream? and
        System.monotonic_time(:millisecond) - asked - div(tool_ns, 1_000_000) > Breaker.slow_ms(breaker)

    record(call, ex.request_way, ex.permit, if(slow?, do: :slow, else: :ok))
    %{ex | permit: nil}
  end

  @doc "An exchange is over. If the worker did not answer, its error says whether that is the way's fault."
  @spec judged(answer, Request.t()) :: answer
        when answer: {result :: term(), lane_state :: term(), exchange :: map()}
  def judged({_, _, %{permit: nil}} = answer, _call), do: answer

  def judged({result, _, ex} = answer, call) do
    record(call, ex.request_way, ex.permit, with({:error, error} <- result, do: fault(call, error)))
    answer
  end

  @doc "`:failure` if an error is the way's own, `:void` if it is the caller's, the tool's or the worker's."
  @spec fault(Request.t(), Error.t()) :: :failure | :void
  def fault(_call, %{category: :grpc_error}), do: :failure

  def fault(call, %{category: :transfer, reason: :quota}),
    do: if(call.payload.bytes <= div(call.handle.quota, 2), do: :failure, else: :void)

  def fault(_call, %{category: :transfer, reason: reason}) when reason in [:unavailable, :no_memory],
    do: :failure

  def fault(_call, _error), do: :void

  @doc "The error of a call whose last way is not used at present."
  @spec open(Pool.Handle.t(), Transfer.way()) :: Error.t()
  def open(handle, way) do
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
end
