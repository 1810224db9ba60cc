defmodule Snakepit.Properties do
  @moduledoc false

  import :proper, only: [forall: 2, quickcheck: 2]
  # PropEr in ExUnit: a property that does not hold fails the test and shows its counterexample.

  @doc """
  Fails unless `fun` is true for `runs` values of `type`.

  `fun` must answer and not raise: PropEr of Debian 12 catches with a function that OTP 25 lacks.
  """
  def holds(type, runs, fun) do
    property =
      forall(type, fn value ->
        Process.put(__MODULE__, value)
        fun.(value) == true
      end)

    answer = quickcheck(property, [:quiet, :noshrink, {:numtests, runs}, {:max_size, 30}])

    unless answer == true do
      value = inspect(Process.get(__MODULE__), limit: 20, printable_limit: 200)
      ExUnit.Assertions.flunk("it does not hold for #{value} (#{inspect(answer)})")
    end
  end

  @doc "As `holds/3`; again and again, with other values, where `SNAKEPIT_FUZZ_SECONDS` says for how long."
  def keeps_holding(target, type, runs, fun) do
    until = System.monotonic_time(:millisecond) + trunc(1000 * Snakepit.Fuzzing.seconds())
    rounds = rounds(type, runs, fun, until, 1)
    if System.get_env("SNAKEPIT_FUZZ_SECONDS"), do: IO.puts("#{target}: #{rounds * runs} inputs")
  end

  defp rounds(type, runs, fun, until, n) do
    holds(type, runs, fun)

    if System.get_env("SNAKEPIT_FUZZ_SECONDS") && System.monotonic_time(:millisecond) < until,
      do: rounds(type, runs, fun, until, n + 1),
      else: n
  end

  @doc "The answer of `fun`, or what it raised: for properties that say nothing is raised."
  def answer_of(fun) do
    fun.()
  rescue
    error -> {:raised, error}
  catch
    kind, reason -> {kind, reason}
  end
end
