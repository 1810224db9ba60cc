defmodule Snakepit.Backoff do
  @moduledoc false
  # How long to wait before a process is started again: doubling with full jitter, forgotten after a healthy run. Pure.

  @base_ms 50
  @cap_ms 10_000
  @healthy_ms 30_000

  @type t :: non_neg_integer()

  @doc "One that has not failed."
  @spec new() :: t()
  def new, do: 0

  @doc "After a run of `ran_ms`: milliseconds to wait, and the next state. `random` is in 0..1."
  @spec next(t(), ran_ms :: non_neg_integer(), random :: float()) :: {non_neg_integer(), t()}
  def next(_failures, ran_ms, _random) when ran_ms >= @healthy_ms, do: {0, 1}
  # The first restart is immediate: most workers die once, of one bad call.
  def next(0, _ran_ms, _random), do: {0, 1}

  def next(failures, _ran_ms, random) do
    ceiling = min(@cap_ms, @base_ms * Integer.pow(2, min(failures, 16)))
    {trunc(ceiling * (0.5 + random / 2)), failures + 1}
  end
end
