defmodule Snakepit.Call.Items do
  @moduledoc false
  # The items of a stream whose request was sent: each is waited for when it is asked for.

  alias Snakepit.{Error, Grpc}
  alias Snakepit.Call.{ByGrpc, Cancellation, Exchange, Limits, Outcome, Received, Request, WayBreaker}
  alias Snakepit.Wire.LaneSocket
  alias Snakepit.Worker.Lane

  @typedoc "A stream whose request was sent: its call's id, where its items come from, and how many came."
  @type streaming :: {pos_integer(), :lane | {:grpc, reference()}, Exchange.t(), non_neg_integer()}
  @type stream_end ::
          {{:ok, returned :: term()} | {:raised, nil} | {:error, Error.t()}, Exchange.lane_state(),
           Exchange.t()}

  @doc "Waits for a stream's next item, or its end. Between two items another process may take over."
  @spec next(Request.t(), Lane.t(), streaming()) :: {:item, term(), streaming()} | stream_end()
  def next(call, lane, {call_id, source, ex, items}) do
    case next_frame(call, lane, source) do
      {:ok, frame, beside} ->
        decoded = Received.read(call, lane, call_id, frame, beside)
        item(call, call_id, ex, items, source, decoded)

      :done ->
        Received.broken("the stream ended without its end", ex)

      {:error, :grpc, error} ->
        {{:error, error}, {:lost, "a stream by gRPC broke"}, ex}

      {:error, :timeout} ->
        {{:error, Limits.late_item(call, items)}, left(source, "its tool ran beyond the deadline"), ex}

      {:error, :cancelled} ->
        {{:error, Cancellation.error(call.command, items)}, left(source, Cancellation.why()), ex}

      {:error, reason} ->
        lost(reason, ex)
    end
    |> case do
      {:item, _term, _streaming} = item -> item
      ended -> WayBreaker.judged(ended, call)
    end
  end

  @doc "Leaves a stream before its end."
  @spec leave(Request.t(), streaming(), :ok | :raised) :: stream_end()
  def leave(call, {_call_id, source, ex, _items}, status),
    do: WayBreaker.judged({{status, nil}, left(source, "a stream was left before its end"), ex}, call)

  # The tool is in the middle of its loop.
  defp left(:lane, why), do: {:running, true, why}

  defp left({:grpc, handle}, why) do
    Grpc.cancel(handle)
    {:running, false, why}
  end

  defp item(call, call_id, ex, items, source, decoded) do
    case decoded do
      {:ok, :item, term, meta} ->
        {:item, term, {call_id, source, Received.costs(call, ex, meta), items + 1}}

      {:ok, :end, returned, meta} ->
        release(source)
        {{:ok, returned}, :at_rest, Received.costs(call, ex, meta)}

      {:ok, :error, error, meta} ->
        release(source)
        {{:error, Error.from_worker(error)}, :at_rest, Received.costs(call, ex, meta)}

      {:ok, _other, _, _} ->
        Received.broken("the worker answered a stream with a single result", ex)

      {:error, :value, path, reason, what} ->
        why = "a stream had an item that cannot be read"
        {{:error, Received.unreadable(path, reason, what)}, left(source, why), ex}

      {:error, :closed} ->
        lost(:closed, ex)

      {:error, :timeout} ->
        {{:error, Limits.late_item(call, items)}, left(source, Received.unannounced()), ex}

      {:error, what} ->
        Received.broken(what, ex)
    end
  end

  defp next_frame(call, lane, source) do
    cond do
      # An item that is there already outlives neither the deadline nor its call.
      Limits.remaining(call) == 0 -> {:error, :timeout}
      Cancellation.cancelled?(call.cancellation) -> {:error, :cancelled}
      true -> frame_from(source, call, lane)
    end
  end

  defp frame_from(:lane, call, lane) do
    with {:ok, frame} <- LaneSocket.recv(lane.socket, Limits.item_deadline(call), call.cancellation),
         do: {:ok, frame, []}
  end

  defp frame_from({:grpc, handle}, call, lane) do
    case Grpc.next(handle, Limits.left_until(Limits.item_deadline(call)), call.cancellation) do
      {:item, frame, beside} -> {:ok, frame, beside}
      :done -> :done
      :timeout -> {:error, :timeout}
      :cancelled -> {:error, :cancelled}
      {:error, :deadline_exceeded, _message} -> {:error, :timeout}
      {:error, code, message} -> broken_stream(call, lane, code, message)
    end
  end

  defp broken_stream(call, lane, code, message) do
    if ByGrpc.worker_gone?(call, lane, code),
      do: {:error, :closed},
      else: {:error, :grpc, ByGrpc.error(code, message)}
  end

  defp release(:lane), do: :ok
  defp release({:grpc, handle}), do: Grpc.cancel(handle)

  defp lost(:closed, ex), do: {{:error, Outcome.gone()}, {:lost, :closed}, ex}
  defp lost(what, ex), do: {{:error, Outcome.gone()}, {:lost, "its lane failed: #{what}"}, ex}
end
