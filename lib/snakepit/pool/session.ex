defmodule Snakepit.Pool.Session do
  @moduledoc false
  # Which worker a session belongs to: the same for all who ask, without a table of sessions. Pure.
  #
  # A jump consistent hash (Lamping and Veach, 2014): of a pool that grows from n workers to m, m - n in m sessions move,
  # all of them to new workers; of one that shrinks, those of the workers that leave. Its random numbers have 32 bits, so
  # that no product is a bignum.

  import Bitwise

  @bits 24

  @doc "The index of the session's worker in a pool of so many."
  @spec worker(String.t(), pos_integer()) :: non_neg_integer()
  def worker(_session, 1), do: 0
  def worker(session, size), do: jump(:erlang.phash2(session, 1 <<< 32), size, 0)

  defp jump(seed, size, at) do
    seed = seed * 1_664_525 + 1_013_904_223 &&& 0xFFFF_FFFF

    case div((at + 1) <<< @bits, (seed >>> (32 - @bits)) + 1) do
      next when next < size -> jump(seed, size, next)
      _beyond -> at
    end
  end
end
