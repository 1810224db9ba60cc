defmodule Snakepit.Call.ByGrpc do
  @moduledoc false
  # A call's request and reply by gRPC, as the exchange over a lane has them.

  alias Snakepit.{Error, Grpc, Transfer, Worker}
  alias Snakepit.Call.{Cancellation, Limits, Outcome, Request}
  alias Snakepit.Wire.LaneSocket
  alias Snakepit.Worker.Lane

  # How long after its gRPC connection a dead worker's lane may still look open.
  @gone_ms 100

  @type failure :: {:error, Error.t(), lane_state :: term()}

  @doc "Why a call cannot go by gRPC on this lane."
  @spec missing(Lane.t()) :: String.t()
  def missing(lane), do: "worker #{lane.name} has no gRPC#{Snakepit.Python.advice("grpc")}"

  @doc "The connection to the lane's worker, which serves gRPC from now on."
  @spec channel(Request.t(), Lane.t()) :: {:ok, reference()} | {:error, :gone | :timeout | String.t()}
  def channel(_call, %Lane{grpc: false} = lane), do: {:error, missing(lane)}
  def channel(call, lane), do: Worker.grpc(lane, Limits.remaining(call))

  @doc "Sends a request and waits for its reply."
  @spec call(Request.t(), Lane.t(), pos_integer(), reference(), binary(), [binary()]) ::
          {:replied, pos_integer(), binary(), [binary()]} | failure()
  def call(call, lane, call_id, channel, frame, buffers) do
    case Grpc.call(channel, frame, buffers, Limits.remaining(call), call.cancellation) do
      {:ok, frame, beside} -> {:replied, call_id, frame, beside}
      other -> failed(call, lane, other)
    end
  end

  @doc "Sends the request of a stream, whose items are asked for one by one."
  @spec stream(Request.t(), Lane.t(), pos_integer(), reference(), binary()) ::
          {:streaming, pos_integer(), {:grpc, reference()}} | failure()
  def stream(call, lane, call_id, channel, frame) do
    case Grpc.stream(channel, frame, call.buffers, Limits.remaining(call)) do
      {:ok, handle} -> {:streaming, call_id, {:grpc, handle}}
      other -> failed(call, lane, other)
    end
  end

  defp failed(_call, _lane, {:error, :too_large}) do
    words = "a gRPC message has at most #{Transfer.largest_message()} bytes"
    {:error, Error.new(:transfer, :too_large, words), :at_rest}
  end

  defp failed(call, _lane, :timeout),
    do: {:error, Limits.timeout(call), {:running, false, "its tool ran beyond the deadline"}}

  defp failed(call, _lane, :cancelled),
    do: {:error, Cancellation.error(call.command), {:running, false, Cancellation.why()}}

  defp failed(call, lane, {:error, :deadline_exceeded, _}), do: failed(call, lane, :timeout)

  # Its connection is over, or could not be made. If the worker is gone, it is the worker that failed, not the way.
  defp failed(call, lane, {:error, code, message}) do
    if worker_gone?(call, lane, code),
      do: {:error, Outcome.gone(), {:lost, :closed}},
      else: {:error, error(code, message), {:lost, "a call by gRPC failed: #{code}"}}
  end

  @doc "Whether a call failed since its worker is gone. The sockets of a process that ends are closed one after the other."
  @spec worker_gone?(Request.t(), Lane.t(), code :: atom()) :: boolean()
  def worker_gone?(_call, _lane, code) when code != :unavailable, do: false

  def worker_gone?(call, lane, _unavailable) do
    soon = System.monotonic_time(:millisecond) + @gone_ms
    LaneSocket.recv(lane.socket, min(soon, call.deadline)) == {:error, :closed}
  end

  @spec error(code :: atom(), String.t()) :: Error.t()
  def error(code, message), do: Error.new(:grpc_error, code, "gRPC #{code}: #{message}")
end
