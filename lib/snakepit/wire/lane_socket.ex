defmodule Snakepit.Wire.LaneSocket do
  @moduledoc false
  # The BEAM's end of a lane: a descriptor that the worker passed. Frames go and come in the process that calls; the
  # process that opened the lane owns it, and its end, whatever it is, closes the lane.
  #
  # `attempt/3` makes a reference and receives by it in one body: then the compiler has the VM look only at messages that
  # came after the reference was made, however long the mailbox is.

  alias Snakepit.Native

  @enforce_keys [:socket, :fd]
  defstruct @enforce_keys

  @type t :: %__MODULE__{socket: Native.lane(), fd: non_neg_integer()}
  @type deadline :: integer() | :infinity
  @type failure :: {:error, :timeout | :closed | :cancelled | String.t()}
  @typedoc "What ends a wait before its deadline; nil where nobody can."
  @type cancellation :: Native.cancellation() | nil

  # A message that could not be called back is under way and comes within moments.
  @under_way_ms 1_000

  @spec open(non_neg_integer()) :: t()
  def open(fd), do: %__MODULE__{socket: Native.lane_open(fd), fd: fd}

  @doc "A process that waits on the lane learns that it is closed."
  @spec close(t()) :: :ok
  def close(%__MODULE__{socket: socket}), do: Native.lane_close(socket)

  @doc "Sends a frame by `deadline` (monotonic ms). The rest stays with the lane, for `flush/2`."
  @spec send(Native.lane(), Native.frame(), deadline(), cancellation()) :: :ok | failure()
  def send(socket, frame, deadline, cancellation \\ nil) do
    with more when more in [:wait, :again] <- Native.lane_send(socket, frame),
         do: flush(socket, deadline, cancellation)
  end

  @doc "Sends what is left of a frame, whoever began it; `:ok` at once if nothing is."
  @spec flush(Native.lane(), deadline(), cancellation()) :: :ok | failure()
  def flush(socket, deadline, cancellation \\ nil)
  def flush(socket, deadline, nil), do: attempt(socket, deadline, &Native.lane_flush/2)
  def flush(socket, deadline, cancellation), do: attempt(socket, deadline, cancellation, &Native.lane_flush/2)

  @doc """
  The next frame. After `{:error, :timeout}` or `{:error, :cancelled}` nothing is lost: the next to call gets it, whoever
  that is.
  """
  @spec recv(Native.lane(), deadline(), cancellation()) :: {:ok, binary()} | failure()
  def recv(socket, deadline, cancellation \\ nil)
  def recv(socket, deadline, nil), do: attempt(socket, deadline, &Native.lane_receive/2)

  def recv(socket, deadline, cancellation),
    do: attempt(socket, deadline, cancellation, &Native.lane_receive/2)

  defp attempt(socket, deadline, move) do
    ref = make_ref()

    case move.(socket, ref) do
      :wait ->
        receive do
          {:select, _, ^ref, _} -> attempt(socket, deadline, move)
        after
          left(deadline) ->
            Native.lane_cancel(socket) ||
              receive do
                {:select, _, ^ref, _} -> :ok
              after
                @under_way_ms -> :ok
              end

            {:error, :timeout}
        end

      :again ->
        attempt(socket, deadline, move)

      answer ->
        answer
    end
  end

  # The same for a call that another process can cancel.
  defp attempt(socket, deadline, cancellation, move) do
    ref = make_ref()

    case move.(socket, ref) do
      :wait ->
        waits? = Native.cancel_wait(cancellation, ref)

        woken =
          receive do
            {:select, _, ^ref, _} -> :lane
            {:snakepit_cancelled, ^ref} -> :cancelled
          after
            if(waits?, do: left(deadline), else: 0) -> :timeout
          end

        # Another message of this reference is read here: it would lie in the mailbox for ever.
        unless woken == :lane or Native.lane_cancel(socket) do
          receive do
            {:select, _, ^ref, _} -> :ok
          after
            @under_way_ms -> :ok
          end
        end

        cancelled? = woken == :cancelled or not waits? or not Native.cancel_waited(cancellation)

        if cancelled? and waits? and woken != :cancelled do
          receive do
            {:snakepit_cancelled, ^ref} -> :ok
          after
            @under_way_ms -> :ok
          end
        end

        cond do
          cancelled? -> {:error, :cancelled}
          woken == :lane -> attempt(socket, deadline, cancellation, move)
          true -> {:error, :timeout}
        end

      :again ->
        attempt(socket, deadline, cancellation, move)

      answer ->
        answer
    end
  end

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
