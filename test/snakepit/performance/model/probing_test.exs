defmodule Snakepit.Performance.Model.ProbingTest do
  use ExUnit.Case, async: true
  import Bitwise
  alias Snakepit.Performance.Model.Probing

  @ways [:inline, :zero_copy]

  # A call by these ways that carried so much of a kind.
  defp row(request_way, reply_way, kind, request, reply),
    do:
      {request_way ||| reply_way <<< 2 ||| kind <<< 4 ||| 4 <<< 7 ||| 1 <<< 12, 50_000, request, reply,
       48_000}

  defp plan(rows, budget \\ 1_000_000_000), do: Probing.plan(rows, @ways, 4_096, budget, & &1.size)

  test "the way a call did not take, in the direction that carried more" do
    assert plan([row(0, 0, 2, 100_000, 20)]) ==
             [%{direction: :request, type: :tensor, way: :zero_copy, size: 100_000}]

    assert plan([row(0, 1, 0, 20, 50_000)]) ==
             [%{direction: :reply, type: :binary, way: :inline, size: 50_000}]

    # By gRPC: either of the others.
    assert [row(2, 0, 1, 9_000, 20)] |> plan() |> Enum.map(& &1.way) |> Enum.sort() == @ways
  end

  test "none for calls that have no choice" do
    assert plan([row(0, 0, 0, 4_095, 20), row(0, 0, 4, 0, 20), row(0, 0, 0, 2 ** 40, 20)]) == []
    assert plan([]) == []
    # One that failed, or a stream.
    {legs, ns, request, reply, predicted} = row(0, 0, 0, 100_000, 20)
    assert plan([{bxor(legs, 1 <<< 12), ns, request, reply, predicted}]) == []
    assert Probing.plan([row(0, 0, 0, 100_000, 20)], [:inline], 4_096, 1.0e9, & &1.size) == []
  end

  test "no more than the budget pays for, each shape once" do
    rows = for size <- 10_000..100_000//10_000, _ <- 1..5, do: row(0, 0, 0, size, 20)
    for budget <- [0, 9_999, 50_000, 200_000], do: assert(cost(plan(rows, budget)) <= budget)
    assert plan(rows, 9_999) == []
    assert length(plan(rows)) == 8 and plan(rows) |> Enum.uniq() |> length() == 8
  end

  defp cost(probes), do: probes |> Enum.map(& &1.size) |> Enum.sum()

  test "half a percent of the workers' time is saved, up to a quarter of a second" do
    assert Probing.earned(0, 1_000_000_000, 2) == 10_000_000
    assert Probing.earned(-20_000_000, 1_000_000_000, 2) == -10_000_000
    assert Probing.earned(0, 3_600_000_000_000, 50) == 250_000_000
  end

  test "as the library records it" do
    request = %{direction: :request, type: :string, way: :zero_copy, size: 70_000}
    assert Probing.record(request) == {1 ||| 1 <<< 4 ||| 4 <<< 7 ||| 3 <<< 10, 70_000, 20}
    reply = %{direction: :reply, type: :binary, way: :zero_copy, size: 70_000}
    assert Probing.record(reply) == {1 <<< 2 ||| 4 <<< 4 ||| 4 <<< 7 ||| 3 <<< 10, 0, 70_000}
  end
end
