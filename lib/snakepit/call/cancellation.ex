defmodule Snakepit.Call.Cancellation do
  @moduledoc false
  # What `Snakepit.cancel/1` finds of a call that has a correlation id. A call without one has nil here, and pays nothing.
  #
  # A call that was counted as cancelled answers so, even if its result came in the same moment. `group`: that of all
  # items of a map, so that those that are not begun yet are cancelled with the others.

  alias Snakepit.{Error, Native, Worker}
  alias Snakepit.Terminal.Units
  alias Snakepit.Worker.Lane

  @type t :: Native.cancellation() | nil

  @longest_id 1024

  @doc "An id is hashed for each call, so it has at most so many bytes."
  @spec longest_id() :: pos_integer()
  def longest_id, do: @longest_id

  @doc "Registers a call, until `finish/1` or the end of its process."
  @spec register(String.t() | nil, group :: t()) :: t()
  def register(id, group \\ nil)
  def register(nil, _group), do: nil

  def register(id, group) do
    call = Native.cancel_register(id, true)

    # If the group was cancelled before this call could be found, the call is cancelled as the group is.
    if cancelled?(group) do
      Native.cancel_over(call)
      group
    else
      call
    end
  end

  @doc "Runs `fun` with a group for the calls of this id."
  @spec grouped(String.t() | nil, (t() -> answer)) :: answer when answer: term()
  def grouped(nil, fun), do: fun.(nil)

  def grouped(id, fun) do
    group = Native.cancel_register(id, false)

    try do
      fun.(group)
    after
      Native.cancel_over(group)
    end
  end

  @spec cancelled?(t()) :: boolean()
  def cancelled?(nil), do: false
  def cancelled?(call), do: Native.cancel_flagged(call)

  @doc "The call is over, and can no longer be found: whether it was cancelled before."
  @spec finish(t()) :: cancelled? :: boolean()
  def finish(nil), do: false
  def finish(call), do: Native.cancel_over(call)

  @doc "A cancellation of this stream ends its tool at once: its caller may be busy with an item."
  @spec streams(t(), Lane.t(), call_id :: pos_integer()) :: :ok
  def streams(nil, _lane, _call_id), do: :ok

  def streams(call, %Lane{worker: worker, run: run, number: number}, call_id),
    do: Native.cancel_note(call, {worker, run, number, call_id})

  @doc "Cancels all calls of this id: how many."
  @spec cancel(String.t()) :: non_neg_integer()
  # No call has such an id.
  def cancel(id) when byte_size(id) > @longest_id, do: 0

  # In a process of its own: if the one that cancels is killed in the middle of it, what was counted as cancelled is woken
  # all the same.
  def cancel(id) do
    {_pid, monitor} = spawn_monitor(fn -> exit({:cancelled, cancel_all(id)}) end)

    receive do
      {:DOWN, ^monitor, :process, _pid, {:cancelled, count}} -> count
    end
  end

  defp cancel_all(id) do
    {count, streams} = Native.cancel_calls(id)
    for {worker, _run, number, call_id} <- streams, do: Worker.cancel(worker, number, call_id)
    count
  end

  @doc "Why the lane of a cancelled call is brought to rest."
  @spec why() :: String.t()
  def why, do: "its call was cancelled"

  @doc "The error of a cancelled call. `items`: what a stream had yielded by then."
  @spec error(String.t(), non_neg_integer() | nil) :: Error.t()
  def error(command, items \\ nil)

  def error(command, nil),
    do: Error.new(:cancelled, :cancelled, "#{command} was cancelled (Snakepit.cancel/1)")

  def error(command, items) do
    words = "#{command} was cancelled (Snakepit.cancel/1), after #{Units.counted(items, "item")}"
    Error.new(:cancelled, :cancelled, words, details: %{items: items})
  end
end
