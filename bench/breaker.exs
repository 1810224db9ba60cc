# The cost of a breaker to a call: mix run --no-start bench/breaker.exs
#
# Nanoseconds per operation, the loop's own taken off; the median of eleven rounds.

defmodule Snakepit.BreakerBench do
  alias Snakepit.{Breaker, Stats}

  @n 1_000_000

  def run do
    closed = Breaker.new([:zero_copy, :grpc])
    open = Breaker.new([:zero_copy], minimum_calls: 1, open_ms: 1_000_000)
    Breaker.record(open, :zero_copy, :failure)
    # So that what is timed is what is said.
    :ok = Breaker.allow(closed, :grpc)
    :open = Breaker.allow(open, :zero_copy)
    loop = time(fn -> loop(@n) end)

    for {what, fun} <- [
          {"allow, closed", fn -> allow(@n, closed, :grpc) end},
          {"allow, open", fn -> allow(@n, open, :zero_copy) end},
          {"isolated", fn -> isolated(@n, closed) end},
          {"record :ok", fn -> record(@n, closed, :grpc) end}
        ],
        do: IO.puts("#{String.pad_trailing(what, 16)} #{Float.round(time(fun) - loop, 1)} ns")
  end

  defp time(fun) do
    fun.()

    Stats.median(
      for _ <- 1..11 do
        {us, _} = :timer.tc(fun)
        us * 1000 / @n
      end
    )
  end

  defp loop(0), do: :ok
  defp loop(n), do: loop(n - 1)
  defp allow(0, _, _), do: :ok

  defp allow(n, breaker, target) do
    Breaker.allow(breaker, target)
    allow(n - 1, breaker, target)
  end

  defp isolated(0, _), do: :ok

  defp isolated(n, breaker) do
    Breaker.isolated(breaker)
    isolated(n - 1, breaker)
  end

  defp record(0, _, _), do: :ok

  defp record(n, breaker, target) do
    Breaker.record(breaker, target, :ok)
    record(n - 1, breaker, target)
  end
end

Snakepit.BreakerBench.run()
