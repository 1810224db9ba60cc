defmodule Snakepit.Pool.Counters do
  @moduledoc false
  # A pool's counts, in one array of counters that callers add to directly.

  @names [
    :calls,
    :errors,
    :request_inline,
    :request_zero_copy,
    :request_grpc,
    :reply_inline,
    :reply_zero_copy,
    :reply_grpc,
    :request_bytes,
    :reply_bytes,
    :copied_bytes,
    :fallbacks,
    :retries,
    :failed_decisions
  ]
  @index @names |> Enum.with_index(1) |> Map.new()

  @type name ::
          :calls
          | :errors
          | :request_inline
          | :request_zero_copy
          | :request_grpc
          | :reply_inline
          | :reply_zero_copy
          | :reply_grpc
          | :request_bytes
          | :reply_bytes
          | :copied_bytes
          | :fallbacks
          | :retries
          | :failed_decisions

  @spec new() :: :counters.counters_ref()
  def new, do: :counters.new(length(@names), [:write_concurrency])

  @spec add(:counters.counters_ref(), name(), integer()) :: :ok
  for {name, index} <- @index do
    def add(counters, unquote(name), n), do: :counters.add(counters, unquote(index), n)
  end

  @spec all(:counters.counters_ref()) :: %{name() => integer()}
  def all(counters), do: Map.new(@index, fn {name, index} -> {name, :counters.get(counters, index)} end)
end
