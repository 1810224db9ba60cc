defmodule Snakepit.BackoffTest do
  use ExUnit.Case, async: true
  import :proper_types, only: [list: 1, float: 2, integer: 2]
  import Snakepit.Properties
  alias Snakepit.Backoff

  @healthy 30_000

  # The waits after short runs, one for each random number.
  defp waits(randoms, state \\ Backoff.new()) do
    randoms
    |> Enum.map_reduce(state, fn random, state -> Backoff.next(state, 0, random) end)
    |> elem(0)
  end

  test "the first restart is immediate, and so is one after a healthy run" do
    assert {0, state} = Backoff.next(Backoff.new(), 0, 1.0)
    assert {wait, state} = Backoff.next(state, 0, 1.0)
    assert wait > 0
    assert {0, state} = Backoff.next(state, @healthy, 1.0)
    assert {^wait, _} = Backoff.next(state, 0, 1.0)
  end

  test "each wait is at least the one before, up to a bound that holds" do
    bound = 1.0 |> List.duplicate(40) |> waits() |> List.last()

    holds(list(float(0.0, 1.0)), 500, fn randoms ->
      Enum.all?(waits(randoms), &(&1 in 0..bound))
    end)

    for random <- [0.0, 0.5, 1.0] do
      same = random |> List.duplicate(40) |> waits()
      assert same == Enum.sort(same)
    end
  end

  test "workers that die together do not come back together" do
    holds({integer(1, 30), float(0.0, 1.0)}, 200, fn {failures, random} ->
      {low, _} = Backoff.next(failures, 0, 0.0)
      {high, _} = Backoff.next(failures, 0, 1.0)
      {wait, next} = Backoff.next(failures, 0, random)
      low < high and wait in low..high and next > failures
    end)
  end
end
