defmodule Snakepit.Grpc do
  @moduledoc false
  # Calls by gRPC, made to look like the exchange over a lane. The library (native/snakepit_grpc) does its I/O on its
  # own threads and answers by message; it is loaded when this module first calls it.

  alias Snakepit.Grpc.Native

  @late_ms 500

  @type failure :: {:error, code :: atom(), message :: String.t()}

  @spec connect(String.t()) :: {:ok, reference()} | {:error, String.t()}
  def connect(target), do: Native.connect(target)

  @doc "One `Call`; the caller waits for its answer."
  @spec call(reference(), binary(), [binary()], timeout()) ::
          {:ok, binary(), [binary()]} | {:error, :too_large} | :timeout | failure()
  def call(channel, frame, buffers, timeout) do
    ref = make_ref()

    with :ok <- Native.call(channel, ref, frame, buffers, ms(timeout)) do
      case await(ref, timeout) do
        {:ok, frame, buffers} -> {:ok, frame, buffers}
        other -> other
      end
    end
  end

  @doc "Starts a `Stream`, whose items are asked for with `next/2`."
  @spec stream(reference(), binary(), [binary()], timeout()) :: {:ok, reference()} | {:error, :too_large}
  def stream(channel, frame, buffers, timeout),
    do: Native.stream(channel, frame, buffers, ms(timeout))

  @doc "Asks for the next item of a stream, and waits for it."
  @spec next(reference(), timeout()) :: {:item, binary(), [binary()]} | :done | :timeout | failure()
  def next(handle, timeout) do
    ref = make_ref()
    with :ok <- Native.next(handle, ref), do: await(ref, timeout)
  end

  @spec cancel(reference()) :: :ok
  def cancel(handle), do: Native.cancel(handle)

  # `ref` was made in this module, for this one answer: then the mailbox is not searched (see Worker.LaneSocket).
  defp await(ref, timeout) do
    receive do
      {:snakepit_grpc, ^ref, {:ok, frame, buffers}} -> {:ok, frame, buffers}
      {:snakepit_grpc, ^ref, {:item, frame, buffers}} -> {:item, frame, buffers}
      {:snakepit_grpc, ^ref, :done} -> :done
      {:snakepit_grpc, ^ref, {:error, code, message}} -> {:error, code, message}
    after
      late(timeout) -> :timeout
    end
  end

  # The library's own timer goes first: an answer that comes after it was given up would lie in the mailbox for ever.
  defp late(:infinity), do: :infinity
  defp late(timeout), do: timeout + @late_ms

  # The library's 0 is for ever.
  defp ms(:infinity), do: 0
  defp ms(timeout), do: max(timeout, 1)
end
