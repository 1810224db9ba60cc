defmodule Snakepit.Call.Cancellation do
  @moduledoc false
  # What `Snakepit.cancel/1` finds of a call that has a correlation id. A call without one has nil here, and pays nothing.
  #
  # A call that was counted as cancelled answers so, even if its result came in the same moment. `group`: that of all
  # items of a map, so that those that are not begun yet are cancelled with the others.

  alias Snakepit.{Error, Native, Worker}
  alias Snakepit.Worker.Lane

  @type t :: Native.cancellation() | nil

  @doc "Registers a call, until `over/2` or the end of its process."
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

  @doc "The call is over; whether it was cancelled before."
  @spec over?(t()) :: boolean()
  def over?(nil), do: false
  def over?(call), do: Native.cancel_over(call)

  @doc "Whoever cancels this stream ends its tool at once: its caller may be busy with an item."
  @spec streams(t(), Lane.t(), call_id :: pos_integer()) :: :ok
  def streams(nil, _lane, _call_id), do: :ok

  def streams(call, %Lane{worker: worker, epoch: epoch, number: number}, call_id),
    do: Native.cancel_note(call, {worker, epoch, number, call_id})

  @doc "Cancels all calls of this id: how many."
  @spec cancel(String.t()) :: non_neg_integer()
  def cancel(id) do
    {count, streams} = Native.cancel_calls(id)
    for {worker, epoch, number, call_id} <- streams, do: Worker.cancel(worker, epoch, number, call_id)
    count
  end

  @doc "The error of a cancelled call. `items`: what a stream had yielded by then."
  @spec error(String.t(), non_neg_integer() | nil) :: Error.t()
  def error(command, items \\ nil)

  def error(command, nil),
    do: Error.new(:cancelled, :cancelled, "#{command} was cancelled (Snakepit.cancel/1)")

  def error(command, items) do
    words = "#{command} was cancelled (Snakepit.cancel/1), after #{counted(items)}"
    Error.new(:cancelled, :cancelled, words, details: %{items: items})
  end

  @doc false
  @spec counted(non_neg_integer()) :: String.t()
  def counted(items), do: Snakepit.Terminal.Units.counted(items, "item")
end
