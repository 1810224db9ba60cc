defmodule Snakepit.Grpc do
  @moduledoc false
  # Calls by gRPC, made to look like the exchange over a lane. The library (native/snakepit_grpc) does its I/O on its
  # own threads and answers by message; it is loaded when this module first calls it.

  alias Snakepit.Grpc.Native

  @late_ms 500
  # An answer that could not be called back is under way and comes within moments.
  @under_way_ms 1_000

  @type failure :: {:error, code :: atom(), message :: String.t()}

  @spec connect(String.t()) :: {:ok, reference()} | {:error, String.t()}
  def connect(target), do: Native.connect(target)

  @typedoc "A reference whose message ends a wait early; nil if none can."
  @type cancellation :: Snakepit.Native.cancellation() | nil

  @doc "One `Call`; the caller waits for its answer."
  @spec call(reference(), binary(), [binary()], timeout(), cancellation()) ::
          {:ok, binary(), [binary()]} | {:error, :too_large} | :timeout | :cancelled | failure()
  def call(channel, frame, buffers, timeout, cancellation \\ nil) do
    ref = make_ref()

    with {:ok, call} <- Native.call(channel, ref, frame, buffers, ms(timeout)),
         do: await(ref, late(timeout), cancellation, fn -> Native.withdraw(call) end)
  end

  @doc "Starts a `Stream`, whose items are asked for with `next/2`."
  @spec stream(reference(), binary(), [binary()], timeout()) :: {:ok, reference()} | {:error, :too_large}
  def stream(channel, frame, buffers, timeout),
    do: Native.stream(channel, frame, buffers, ms(timeout))

  @doc "Asks for the next item of a stream, and waits for it. After `:timeout` or `:cancelled` the stream is dropped."
  @spec next(reference(), timeout(), cancellation()) ::
          {:item, binary(), [binary()]} | :done | :timeout | :cancelled | failure()
  def next(handle, timeout, cancellation \\ nil) do
    ref = make_ref()

    with :ok <- Native.next(handle, ref),
         do: await(ref, timeout, cancellation, fn -> Native.withdraw_stream(handle) end)
  end

  @spec cancel(reference()) :: :ok
  def cancel(handle), do: Native.cancel(handle)

  # `ref` was made in this module, for this one answer: then the mailbox is not searched (see Wire.LaneSocket).
  defp await(ref, timeout, cancellation, withdraw) do
    waits? = cancellation == nil or Snakepit.Native.cancel_wait(cancellation, ref)

    answer =
      if waits? do
        receive do
          {:snakepit_grpc, ^ref, answer} -> answer
          {:snakepit_cancelled, ^ref} -> :cancelled
        after
          timeout -> :timeout
        end
      else
        :cancelled
      end

    # In this very moment.
    delivered? = answer == :cancelled or cancellation == nil or Snakepit.Native.cancel_waited(cancellation)

    unless delivered? do
      receive do
        {:snakepit_cancelled, ^ref} -> :ok
      after
        @under_way_ms -> :ok
      end
    end

    if answer in [:timeout, :cancelled] and not withdraw.() do
      # An answer that is given up would lie in the mailbox for ever.
      receive do
        {:snakepit_grpc, ^ref, _} -> :ok
      after
        @under_way_ms -> :ok
      end
    end

    answer
  end

  # The library's own timer fires first, because its error says more.
  defp late(:infinity), do: :infinity
  defp late(timeout), do: timeout + @late_ms

  # The library's 0 is for ever.
  defp ms(:infinity), do: 0
  defp ms(timeout), do: max(timeout, 1)
end
