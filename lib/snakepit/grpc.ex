defmodule Snakepit.Grpc do
  @moduledoc false
  # Calls by gRPC, made to look like the exchange over a lane. The library (native/snakepit_grpc) does its I/O on its
  # own threads and answers by message; it is loaded when this module first calls it.

  alias Snakepit.Grpc.Native

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

  @doc "Starts a `Stream`; each item is asked for with `next/1` and awaited with `await/2`."
  @spec stream(reference(), binary(), [binary()], timeout()) ::
          {:ok, reference(), reference()} | {:error, :too_large}
  def stream(channel, frame, buffers, timeout) do
    ref = make_ref()
    with {:ok, handle} <- Native.stream(channel, ref, frame, buffers, ms(timeout)), do: {:ok, ref, handle}
  end

  @spec next(reference()) :: :ok
  def next(handle), do: Native.next(handle)

  @spec cancel(reference()) :: :ok
  def cancel(handle), do: Native.cancel(handle)

  @doc "The next message about `ref`."
  @spec await(reference(), timeout()) ::
          {:ok, binary(), [binary()]} | {:item, binary(), [binary()]} | :done | :timeout | failure()
  def await(ref, timeout) do
    receive do
      {:snakepit_grpc, ^ref, {:ok, frame, buffers}} -> {:ok, frame, buffers}
      {:snakepit_grpc, ^ref, {:item, frame, buffers}} -> {:item, frame, buffers}
      {:snakepit_grpc, ^ref, :done} -> :done
      {:snakepit_grpc, ^ref, {:error, code, message}} -> {:error, code, message}
    after
      timeout -> :timeout
    end
  end

  # The library's 0 is for ever.
  defp ms(:infinity), do: 0
  defp ms(timeout), do: max(timeout, 1)
end
