defmodule Snakepit.Pool.LaneRecovery do
  @moduledoc false
  # Recovers a lane whose caller went away in the middle of a call: its tool is cancelled, and the worker asked
  # to *synchronize*: its answer comes once nothing runs on the lane any more, which then may be used again. If none
  # comes within the pool's `cancel_grace`, the worker is replaced.

  alias Snakepit.{Native, Transfer, Worker}
  alias Snakepit.Pool.{Checkout, Handle}
  alias Snakepit.Wire.{Frame, LaneSocket, Reply}
  alias Snakepit.Worker.Lane

  @enforce_keys [:handle, :lane, :checkout, :whole?, :why, :until]
  defstruct @enforce_keys ++ [:sync, :frame, :last, taken_back?: false]

  # Sent again, for the tool may not have begun when the first cancellation came.
  @again_ms 100

  @doc """
  Takes over the lane. `whole?`: every reply that was sent so far was read, and those to come will be read here; else one
  may be lost, with what it grants of the worker's memory. `why`: in case that the worker must be replaced.
  """
  @spec start(Handle.t(), Lane.t(), Native.checkout(), whole? :: boolean(), String.t()) :: :ok
  def start(%Handle{} = handle, %Lane{} = lane, checkout, whole?, why) do
    until = now() + handle.options.cancel_grace
    s = %__MODULE__{handle: handle, lane: lane, checkout: checkout, whole?: whole?, why: why, until: until}

    case Task.Supervisor.start_child(__MODULE__, fn -> s |> prepared() |> begin() end) do
      {:ok, _pid} -> :ok
      _ -> Checkout.discard(handle, checkout, lane, why)
    end
  catch
    # The application is stopping.
    :exit, _ -> Checkout.discard(handle, checkout, lane, why)
  end

  # `last` is as the caller left it: what is read here changes it.
  defp prepared(%{lane: lane} = s),
    do: %{requested(s, nil) | last: Native.worker_last_call(lane.memory, lane.number)}

  # `unread`: a call whose only reply was lost, and with it tokens that the worker is to take back.
  defp requested(%{lane: lane} = s, unread) do
    head = Frame.head(:synchronize, :inline, Transfer.mask([:inline]), 0, :infinity, lane.number)
    {:ok, envelope} = Native.pack(unread)
    {:ok, sync, frame, [], 0} = Native.request(lane.memory, s.handle.arena, head, envelope, [])
    %{s | sync: sync, frame: frame}
  end

  # A caller that died may have left a frame half sent; and what the worker said by now need not wait for its answer.
  defp begin(s) do
    case LaneSocket.flush(s.lane.socket, s.until) do
      :ok -> begun(s, LaneSocket.recv(s.lane.socket, now()))
      {:error, :timeout} -> discard(s, s.why <> ", and the worker does not read its lane")
      {:error, why} -> failed(s, why)
    end
  end

  defp begun(s, {:ok, frame}), do: read(s, frame, &synchronize/1)
  defp begun(s, {:error, :timeout}), do: synchronize(s)
  defp begun(s, {:error, why}), do: failed(s, why)

  defp synchronize(%{lane: lane} = s) do
    case LaneSocket.send(lane.socket, s.frame, s.until) do
      :ok -> await(s)
      {:error, :timeout} -> discard(s, s.why <> ", and the worker does not read its lane")
      {:error, why} -> failed(s, why)
    end
  end

  defp failed(s, :closed), do: discard(s, :closed)
  defp failed(s, what), do: discard(s, "its lane failed: #{what}")

  defp await(s) do
    cancel(s)
    now = now()

    case LaneSocket.recv(s.lane.socket, min(s.until, now + @again_ms)) do
      {:ok, frame} -> read(s, frame, &await/1)
      {:error, :timeout} when now < s.until -> await(s)
      {:error, :timeout} -> discard(s, s.why <> ", and did not end when it was cancelled")
      {:error, why} -> failed(s, why)
    end
  end

  # Decoded so that the memory it refers to is given back.
  defp read(s, frame, go_on) do
    case Frame.id(frame) do
      {:ok, id} -> read(s, id, frame, go_on)
      :error -> discard(s, "it broke the protocol: a frame is shorter than its header")
    end
  end

  defp read(%{lane: lane, sync: sync} = s, id, frame, go_on) do
    case Reply.read(lane, id, frame, [], false, &Worker.await_chunk/3, max(s.until - now(), 0)) do
      {:ok, :result, [seen, lost?], _} when id == sync ->
        answered(s, seen, lost?)

      {:error, :closed} ->
        discard(s, :closed)

      {:error, :timeout} ->
        discard(s, s.why <> ", and did not announce the memory of its reply")

      {:error, words} ->
        discard(s, "it broke the protocol: #{words}")

      # The one reply of a call is here, and not lost.
      {:ok, kind, _, _} when kind in [:result, :error] ->
        go_on.(%{s | whole?: s.whole? or not stream?(s)})

      _other ->
        go_on.(s)
    end
  end

  # `seen`: the last call the worker had. `lost?`: whether its replies had tokens, which are lost if one was not read.
  defp answered(%{whole?: true} = s, _seen, _lost?), do: checkin(s)

  defp answered(%{last: last} = s, seen, lost?) do
    case last do
      nil ->
        checkin(s)

      {_id, _stream?, _holds?, true} ->
        checkin(s)

      {^seen, _stream?, _holds?, false} when not lost? ->
        checkin(s)

      # Its one reply went to a caller that was dead. The next answer will say that nothing is lost.
      {^seen, false, _holds?, false} when not s.taken_back? ->
        synchronize(%{requested(s, seen) | taken_back?: true})

      # A request that was made and never sent, and took nothing with it.
      {id, _stream?, false, false} when id != seen ->
        checkin(s)

      # An item of a stream that may be lost, or a request that was made and never sent: what it holds would be held for
      # ever.
      _ ->
        discard(s, s.why)
    end
  end

  defp stream?(%{last: {_id, stream?, _holds?, _read?}}), do: stream?
  defp stream?(_s), do: false

  # Every call before the synchronization; those that follow on the lane have greater ids.
  defp cancel(s), do: Worker.cancel(s.lane, s.sync)
  defp checkin(s), do: Checkout.checkin(s.checkout)
  defp discard(s, why), do: Checkout.discard(s.handle, s.checkout, s.lane, why)

  defp now, do: System.monotonic_time(:millisecond)
end
