defmodule Snakepit.Pool.Queue do
  @moduledoc false
  # Callers that wait for a lane, oldest first. Pure. A caller may insist on one worker (a session's), so there is a
  # line for each of those and one for the rest; whoever waited longest gets a free lane.

  defstruct lines: %{}, waiting: %{}, next: 0

  @type key :: reference()
  @type t :: %__MODULE__{}

  @spec new() :: t()
  def new, do: %__MODULE__{}

  @spec size(t()) :: non_neg_integer()
  def size(%__MODULE__{waiting: waiting}), do: map_size(waiting)

  @doc "Adds a waiter; `worker` is the index it insists on, or nil."
  @spec push(t(), key(), non_neg_integer() | nil, term()) :: t()
  def push(%__MODULE__{} = queue, key, worker, value) do
    line = Map.get(queue.lines, worker, :queue.new())
    line = :queue.in({queue.next, key}, line)
    waiting = Map.put(queue.waiting, key, {worker, value})
    %{queue | lines: Map.put(queue.lines, worker, line), waiting: waiting, next: queue.next + 1}
  end

  @doc "The waiter who gets a lane of this worker."
  @spec pop(t(), non_neg_integer()) :: {key(), term(), t()} | :empty
  def pop(%__MODULE__{} = queue, worker) do
    {own, queue} = head(queue, worker)
    {any, queue} = head(queue, nil)

    case Enum.reject([own, any], &is_nil/1) do
      [] ->
        :empty

      heads ->
        {_, key, line} = Enum.min(heads)
        {value, queue} = take(queue, key)
        {key, value, drop_head(queue, line)}
    end
  end

  @doc "Removes a waiter who left; nil if it is not there any more."
  @spec take(t(), key()) :: {term() | nil, t()}
  def take(%__MODULE__{} = queue, key) do
    case Map.pop(queue.waiting, key) do
      {nil, _} -> {nil, queue}
      {{_, value}, waiting} -> {value, %{queue | waiting: waiting}}
    end
  end

  @doc "Everybody who waits, oldest first."
  @spec all(t()) :: [{key(), term()}]
  def all(%__MODULE__{waiting: waiting, lines: lines}) do
    lines
    |> Enum.flat_map(fn {_, line} -> :queue.to_list(line) end)
    |> Enum.sort()
    |> Enum.flat_map(fn {_, key} -> for {_, value} <- List.wrap(waiting[key]), do: {key, value} end)
  end

  # Those who left are still in their line; they are passed over here.
  defp head(queue, line) do
    case queue.lines do
      %{^line => waiters} ->
        case :queue.peek(waiters) do
          :empty ->
            {nil, %{queue | lines: Map.delete(queue.lines, line)}}

          {:value, {number, key}} when is_map_key(queue.waiting, key) ->
            {{number, key, line}, queue}

          {:value, _gone} ->
            queue |> drop_head(line) |> head(line)
        end

      _ ->
        {nil, queue}
    end
  end

  defp drop_head(queue, line), do: update_in(queue.lines[line], &:queue.drop/1)
end
