defmodule Snakepit.Breaker.Window do
  @moduledoc false
  # The calls and failures of the last while: eight buckets of an atomics array, each for an eighth of the window. A bucket
  # has the number of its eighth (23 bits), failures (18) and calls (18), and is used again when its number comes round.

  @buckets 8

  # 59 bits, the most that is no bignum. A full bucket is halved, which keeps its ratio.
  @count_bits 18
  @count_mask Bitwise.bsl(1, @count_bits) - 1
  @number_mask Bitwise.bsl(1, 23) - 1
  @full Bitwise.bsl(1, @count_bits - 1)
  @one_failure Bitwise.bsl(1, @count_bits) + 1

  @typedoc "The index of the first bucket."
  @type first :: pos_integer()

  @spec buckets() :: pos_integer()
  def buckets, do: @buckets

  @doc "Counts a call."
  @spec count(:atomics.atomics_ref(), first(), pos_integer(), integer(), failed? :: boolean()) :: :ok
  def count(ref, first, bucket_ms, now, failed?) do
    number = div(now, bucket_ms)
    at = first + rem(number, @buckets)
    add(ref, at, Bitwise.band(number, @number_mask), if(failed?, do: @one_failure, else: 1))
  end

  defp add(ref, at, number, one) do
    bucket = :atomics.get(ref, at)
    calls = Bitwise.band(bucket, @count_mask)

    cond do
      Bitwise.bsr(bucket, 2 * @count_bits) != number ->
        exchange(ref, at, bucket, pack(number, 0, 0) + one, number, one)

      calls >= @full ->
        failures = bucket |> Bitwise.bsr(@count_bits) |> Bitwise.band(@count_mask)
        exchange(ref, at, bucket, pack(number, div(failures, 2), div(calls, 2)) + one, number, one)

      true ->
        # If the eighth ends at this moment, the call counts for the next one.
        :atomics.add(ref, at, one)
    end
  end

  defp exchange(ref, at, old, new, number, one) do
    case :atomics.compare_exchange(ref, at, old, new) do
      :ok -> :ok
      _changed -> add(ref, at, number, one)
    end
  end

  defp pack(number, failures, calls),
    do:
      number |> Bitwise.bsl(@count_bits) |> Kernel.+(failures) |> Bitwise.bsl(@count_bits) |> Kernel.+(calls)

  @doc "The calls of the current eighth and of the seven before it, and how many of them failed."
  @spec counts(:atomics.atomics_ref(), first(), pos_integer(), integer()) ::
          {calls :: non_neg_integer(), failures :: non_neg_integer()}
  def counts(ref, first, bucket_ms, now) do
    last = div(now, bucket_ms)

    Enum.reduce(max(last - @buckets + 1, 0)..last//1, {0, 0}, fn number, {calls, failures} ->
      bucket = :atomics.get(ref, first + rem(number, @buckets))

      if Bitwise.bsr(bucket, 2 * @count_bits) == Bitwise.band(number, @number_mask) do
        {calls + Bitwise.band(bucket, @count_mask),
         failures + (bucket |> Bitwise.bsr(@count_bits) |> Bitwise.band(@count_mask))}
      else
        {calls, failures}
      end
    end)
  end

  @spec clear(:atomics.atomics_ref(), first()) :: :ok
  def clear(ref, first) do
    for n <- 0..(@buckets - 1), do: :atomics.put(ref, first + n, 0)
    :ok
  end
end
