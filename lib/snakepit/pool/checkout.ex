defmodule Snakepit.Pool.Checkout do
  @moduledoc false
  # How a caller gets a lane, waits for one, and gives it back. All of it runs in the caller's own process, at the checkout
  # queue in the library.

  alias Snakepit.{Error, Native, Telemetry, Worker}
  alias Snakepit.Pool.{Failure, Handle, Session}
  alias Snakepit.Worker.Lane

  @type t :: {:ok, Lane.t(), Native.checkout()} | {:error, Error.t()}

  # A caller's wish: a lane at the latest at `deadline` (monotonic ms), of the worker of this session, or of any
  # (nil); `prefer?`: any other will do when that one is busy. `cancellation`: what ends the wait early, nil where nobody
  # can; a lane that was handed over in that moment is answered all the same.
  @typep want :: {
           deadline :: integer() | :infinity,
           session :: String.t() | nil,
           prefer? :: boolean(),
           Native.cancellation() | nil
         }

  @doc "A lane, at the latest at `deadline` (monotonic ms)."
  @spec checkout(
          Handle.t(),
          integer() | :infinity,
          String.t() | nil,
          boolean(),
          Native.cancellation() | nil
        ) :: t()
  def checkout(%Handle{} = handle, deadline, session, prefer?, cancellation \\ nil),
    do: take(handle, {deadline, session, prefer?, cancellation}, nil)

  # `place`: of a caller that was in line already, for a worker that left.
  @spec take(Handle.t(), want(), term()) :: t()
  defp take(%Handle{queue: queue} = handle, {deadline, session, prefer?, cancellation} = want, place) do
    # Made and received in one body, so that a long mailbox costs nothing (see Wire.LaneSocket).
    ref = make_ref()

    case ask(queue, worker(session, handle), prefer?, ref, place) do
      {:wait, key} when cancellation != nil ->
        collect_forgotten()
        since = System.monotonic_time()

        got =
          if Native.cancel_wait(cancellation, ref) do
            got =
              receive do
                {:snakepit_lane, ^ref, answer} -> {:answer, answer}
                {:snakepit_cancelled, ^ref} -> :cancelled
              after
                wait_ms(deadline) -> :timeout
              end

            # If it is cancelled in this very moment, the message comes.
            if got != :cancelled and not Native.cancel_waited(cancellation) do
              receive do
                {:snakepit_cancelled, ^ref} -> if(got == :timeout, do: :cancelled, else: got)
              end
            else
              got
            end
          else
            :cancelled
          end

        got =
          if is_atom(got) and not Native.queue_cancel(queue, key) do
            receive do
              {:snakepit_lane, ^ref, answer} -> {:answer, answer}
            end
          else
            got
          end

        case got do
          {:answer, answer} ->
            waited(handle, answer, since)
            handed(handle, answer, want)

          :timeout ->
            ms = System.convert_time_unit(System.monotonic_time() - since, :native, :millisecond)
            waited(handle, :timeout, since)
            {:error, Failure.waited_in_vain(handle, ms)}

          :cancelled ->
            waited(handle, :cancelled, since)
            {:error, Failure.cancelled(handle)}
        end

      {:wait, key} ->
        collect_forgotten()
        since = System.monotonic_time()

        receive do
          {:snakepit_lane, ^ref, answer} ->
            waited(handle, answer, since)
            handed(handle, answer, want)
        after
          wait_ms(deadline) ->
            if Native.queue_cancel(queue, key) do
              ms = System.convert_time_unit(System.monotonic_time() - since, :native, :millisecond)
              waited(handle, :timeout, since)
              {:error, Failure.waited_in_vain(handle, ms)}
            else
              # A lane was handed over in this moment: its message is there.
              receive do
                {:snakepit_lane, ^ref, answer} ->
                  waited(handle, answer, since)
                  handed(handle, answer, want)
              end
            end
        end

      answer ->
        answered(handle, answer, want)
    end
  end

  @doc "The key in the dictionary of a process that has suspended a stream."
  @spec suspended() :: atom()
  def suspended, do: :snakepit_suspended_stream

  # A caller that sleeps does not collect its garbage. If that holds the lane of a stream, it would wait for itself.
  defp collect_forgotten do
    if Process.get(suspended()), do: :erlang.garbage_collect()
    :ok
  end

  @compile {:inline, ask: 5, worker: 2}
  defp ask(queue, worker, prefer?, ref, nil), do: Native.queue_checkout(queue, worker, prefer?, ref)

  defp ask(queue, worker, prefer?, ref, place),
    do: Native.queue_checkout_again(queue, worker, prefer?, ref, place)

  defp worker(nil, _handle), do: -1
  defp worker(session, handle), do: Session.worker(session, handle.options.size)

  @queued [:snakepit, :pool, :queue]

  # It waits on, for another worker.
  defp waited(_handle, {:moved, _place}, _since), do: :ok

  defp waited(handle, answer, since) do
    if Telemetry.listened_to?(@queued) do
      ns = System.convert_time_unit(System.monotonic_time() - since, :native, :nanosecond)

      result =
        case answer do
          {:ok, _, _, _} -> :served
          {:closed, _} -> :closed
          ended -> ended
        end

      Telemetry.execute(@queued, %{wait_ns: ns}, %{pool: handle.name, result: result})
    end
  end

  defp handed(handle, {:ok, _, _, checkout} = answer, want) do
    Native.queue_take(checkout)
    answered(handle, answer, want)
  end

  defp handed(handle, {:moved, place}, want), do: moved(handle, want, place)
  defp handed(handle, answer, want), do: answered(handle, answer, want)

  defp answered(handle, {:ok, id, run, checkout}, want) do
    case lane(handle, id, run) do
      %Lane{} = lane ->
        {:ok, lane, checkout}

      nil ->
        # Its worker went down in this moment.
        Native.queue_forget(checkout)
        take(handle, want, nil)
    end
  end

  defp answered(handle, :full, _want) do
    {_idle, busy, queued} = Native.queue_counts(handle.queue)
    Telemetry.execute([:snakepit, :pool, :saturated], %{busy: busy, queued: queued}, %{pool: handle.name})
    {:error, Failure.saturated(handle)}
  end

  defp answered(handle, :moved, want), do: moved(handle, want, nil)
  defp answered(handle, {:closed, code}, _want), do: {:error, Failure.closed(handle, code)}

  # Its worker left when the pool shrank: the session has another one.
  defp moved(%{queue: queue} = handle, want, place) do
    case Handle.fetch(handle.name) do
      {:ok, %{queue: ^queue} = handle} -> take(handle, want, place)
      _another_pool -> {:error, Failure.stopping(handle)}
    end
  end

  @doc "The lane that the queue knows by these numbers; nil if its worker is down."
  @spec lane(Handle.t(), id :: non_neg_integer(), run :: pos_integer()) :: Lane.t() | nil
  def lane(%Handle{lanes: lanes}, id, run) do
    case :ets.lookup(lanes, {id, run}) do
      [{_, lane}] -> lane
      [] -> nil
    end
  rescue
    # The pool's process, and its table with it, is gone.
    ArgumentError -> nil
  end

  defp wait_ms(:infinity), do: :infinity
  defp wait_ms(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  @doc "Gives the lane back, to whoever waited longest."
  @spec checkin(Native.checkout()) :: :ok
  def checkin(checkout), do: Native.queue_checkin(checkout)

  @doc "The lane may be in the middle of a call: it is not used again."
  @spec discard(Handle.t(), Native.checkout(), Lane.t(), String.t() | :closed) :: :ok
  def discard(%Handle{queue: queue}, checkout, lane, why) do
    # At once, so that the caller's next call does not meet the same worker.
    Native.queue_down(queue, lane.index, lane.run)
    Native.queue_forget(checkout)
    Worker.discard(lane, why)
  end
end
