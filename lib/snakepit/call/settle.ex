defmodule Snakepit.Call.Settle do
  @moduledoc false
  # What becomes of a lane whose caller went away in the middle of a call: its tool is cancelled, and the reply is
  # waited for, so that the lane is at rest and may be used again. If none comes within the pool's `cancel_grace`, the
  # worker is replaced.

  alias Snakepit.{Native, Pool, Worker}
  alias Snakepit.Pool.Handle
  alias Snakepit.Worker.Lane

  # Told again, for the tool may not have begun when it was told first.
  @again_ms 100
  @look_ms 10
  # Kinds of replies after which the lane is at rest (native/PROTOCOL.md): all but the items of a stream.
  @last [1, 2, 4, 5]

  @doc "Takes over the lane. `call_id` 0: whichever call it serves. `why`: in case that the worker must be replaced."
  @spec start(Handle.t(), Lane.t(), Native.ticket(), non_neg_integer(), String.t()) :: :ok
  def start(%Handle{} = handle, %Lane{} = lane, ticket, call_id, why) do
    until = now() + handle.options.cancel_grace
    settle = fn -> settle(handle, lane, ticket, call_id, why, until) end

    case Task.Supervisor.start_child(__MODULE__, settle) do
      {:ok, _pid} -> :ok
      _ -> Pool.discard(handle, ticket, lane, why)
    end
  catch
    # The application is stopping.
    :exit, _ -> Pool.discard(handle, ticket, lane, why)
  end

  # A caller that died left the socket reading for it, for a moment (Exchange). Until that is over, no reply should come.
  defp settle(handle, lane, ticket, call_id, why, until) do
    case :gen_tcp.recv(lane.socket, 0, 0) do
      {:error, :ealready} ->
        receive do
        after
          @look_ms -> settle(handle, lane, ticket, call_id, why, until)
        end

      {:error, :timeout} ->
        cancelling(handle, lane, ticket, call_id, why, until)

      {:ok, frame} ->
        frame(frame, handle, lane, ticket, call_id, why, until)

      {:error, _closed} ->
        Pool.discard(handle, ticket, lane, :closed)
    end
  end

  defp cancelling(handle, lane, ticket, call_id, why, until) do
    Worker.cancel(lane, call_id)
    left = until - now()

    case :gen_tcp.recv(lane.socket, 0, left |> min(@again_ms) |> max(0)) do
      {:ok, frame} ->
        frame(frame, handle, lane, ticket, call_id, why, until)

      {:error, :timeout} when left > 0 ->
        cancelling(handle, lane, ticket, call_id, why, until)

      {:error, :timeout} ->
        Pool.discard(handle, ticket, lane, why <> ", and did not end when it was cancelled")

      {:error, _closed} ->
        Pool.discard(handle, ticket, lane, :closed)
    end
  end

  defp frame(frame, handle, lane, ticket, call_id, why, until) do
    with <<kind, _::binary-size(7), id::64-little, _::binary>> when call_id in [0, id] <- frame,
         # Decoded so that the memory it refers to is given back.
         false <- match?({:error, :protocol, _}, decode(lane, id, frame)) do
      if kind in @last,
        do: Pool.checkin(ticket),
        else: cancelling(handle, lane, ticket, call_id, why, until)
    else
      _ -> Pool.discard(handle, ticket, lane, "it broke the protocol")
    end
  end

  defp decode(lane, id, frame) do
    options = {false, false, MapSet.new()}

    with {:error, :unknown_chunk, chunk} <- Native.reply(lane.memory, id, frame, [], options),
         :ok <- Worker.await_chunk(lane, chunk) do
      Native.reply(lane.memory, id, frame, [], options)
    else
      :error -> {:error, :protocol, "the reply refers to a chunk that was never announced"}
      answer -> answer
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
