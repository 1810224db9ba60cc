defmodule Snakepit.Worker.LaneSocket do
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
  @type failure :: {:error, :timeout | :closed | String.t()}

  # A message that could not be called back is under way and comes within moments.
  @under_way_ms 1_000

  @spec open(non_neg_integer()) :: t()
  def open(fd), do: %__MODULE__{socket: Native.lane_open(fd), fd: fd}

  @doc "Whoever waits on the lane learns that it is closed."
  @spec close(t()) :: :ok
  def close(%__MODULE__{socket: socket}), do: Native.lane_close(socket)

  @doc "Sends a frame by `deadline` (monotonic ms). What was not sent by then stays with the lane, for `flush/2`."
  @spec send(Native.lane(), Native.frame(), deadline()) :: :ok | failure()
  def send(socket, frame, deadline) do
    with more when more in [:wait, :again] <- Native.lane_send(socket, frame), do: flush(socket, deadline)
  end

  @doc "Sends what is left of a frame, whoever began it; `:ok` at once if nothing is."
  @spec flush(Native.lane(), deadline()) :: :ok | failure()
  def flush(socket, deadline), do: attempt(socket, deadline, &Native.lane_flush/2)

  @doc "The next frame. After `{:error, :timeout}` nothing is lost: the next to call gets it, whoever that is."
  @spec recv(Native.lane(), deadline()) :: {:ok, binary()} | failure()
  def recv(socket, deadline), do: attempt(socket, deadline, &Native.lane_receive/2)

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

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
