defmodule Snakepit.Pool.Retries do
  @moduledoc false
  # How often calls of a pool may be tried again: a budget that all its callers share, so that retries cannot bury
  # workers that are in trouble already. Every call adds a tenth of a retry, up to a cap; a retry takes a whole one.

  @per_retry 10
  @reserve 10
  @cap 100
  @most_of_one_call 3
  @base_ms 5
  @cap_ms 100

  @opaque t :: :atomics.atomics_ref()

  @spec new() :: t()
  def new do
    ref = :atomics.new(1, signed: true)
    :atomics.put(ref, 1, @reserve * @per_retry)
    ref
  end

  @doc "A call was made."
  @spec earn(t()) :: :ok
  def earn(ref) do
    # Beyond the cap by as many as look at once, which does no harm.
    if :atomics.get(ref, 1) < @cap * @per_retry, do: :atomics.add(ref, 1, 1), else: :ok
  end

  @doc """
  Whether a call that was tried `tried` times again may be tried once more: milliseconds to wait first (full jitter).

  `random` is in 0..1.
  """
  @spec spend(t(), tried :: non_neg_integer(), random :: float()) :: {:ok, non_neg_integer()} | :exhausted
  def spend(_ref, tried, _random) when tried >= @most_of_one_call, do: :exhausted

  def spend(ref, tried, random) do
    if :atomics.sub_get(ref, 1, @per_retry) >= 0 do
      {:ok, trunc(random * min(@cap_ms, @base_ms * Integer.pow(2, tried)))}
    else
      :atomics.add(ref, 1, @per_retry)
      :exhausted
    end
  end

  @doc "Whole retries left."
  @spec left(t()) :: non_neg_integer()
  def left(ref), do: ref |> :atomics.get(1) |> max(0) |> div(@per_retry)
end
