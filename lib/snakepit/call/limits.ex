defmodule Snakepit.Call.Limits do
  @moduledoc false
  # The time a call has, that of a stream's next item, and the errors of those that take longer.

  alias Snakepit.Call.Request
  alias Snakepit.Error
  alias Snakepit.Terminal.Units

  @doc "The error of a call whose time is over."
  @spec timeout(Request.t()) :: Error.t()
  def timeout(call) do
    timeout = call.options.timeout || call.handle.options.timeout
    Error.new(:timeout, :timeout, "#{call.command} did not finish within #{timeout} ms")
  end

  @doc "The same of a stream that had so many items: which of its two times is over."
  @spec late_item(Request.t(), non_neg_integer()) :: Error.t()
  def late_item(%{stream?: false} = call, _items), do: timeout(call)

  def late_item(call, items) do
    after_items = "after #{Units.counted(items, "item")}"

    {reason, words} =
      if remaining(call) == 0,
        do: {:timeout, "did not finish within #{call.options.timeout} ms (:timeout), #{after_items}"},
        else: {:item_timeout, "yielded nothing for #{call.item_timeout} ms (:item_timeout), #{after_items}"}

    Error.new(:timeout, reason, "#{call.command} #{words}", details: %{items: items})
  end

  @doc "Until when a stream's next item must be there (monotonic ms)."
  @spec item_deadline(Request.t()) :: integer() | :infinity
  def item_deadline(%{item_timeout: :infinity, deadline: deadline}), do: deadline
  # As an atom, :infinity is greater than any number.
  def item_deadline(%{item_timeout: ms, deadline: deadline}),
    do: min(System.monotonic_time(:millisecond) + ms, deadline)

  @doc "Milliseconds that are left of a call's time."
  @spec remaining(Request.t()) :: timeout()
  def remaining(%{deadline: deadline}), do: left_until(deadline)

  @doc "Milliseconds until a deadline (monotonic ms)."
  @spec left_until(integer() | :infinity) :: timeout()
  def left_until(:infinity), do: :infinity
  def left_until(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)
end
