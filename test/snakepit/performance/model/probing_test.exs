defmodule Snakepit.Performance.Model.ProbingTest do
  use ExUnit.Case, async: true
  alias Snakepit.Performance.Model.{Probing, Row}

  @ways [:inline, :zero_copy]

  # A call that carried so much in one direction.
  defp row(direction, way, type, size),
    do: %Row{direction: direction, way: way, data_type: type, size: size, ns: 50_000, predicted_ns: 48_000}

  defp plan(rows, budget \\ 1_000_000_000), do: Probing.plan(rows, @ways, 4_096, budget, & &1.size)

  test "the way a call did not take, in the direction that carried more" do
    assert plan([row(:request, :inline, :tensor, 100_000)]) ==
             [%{direction: :request, type: :tensor, way: :zero_copy, size: 100_000}]

    assert plan([row(:reply, :zero_copy, :mixed, 50_000)]) ==
             [%{direction: :reply, type: :binary, way: :inline, size: 50_000}]

    # By gRPC: either of the others.
    assert [row(:request, :grpc, :string, 9_000)] |> plan() |> Enum.map(& &1.way) |> Enum.sort() == @ways
  end

  test "none for calls that have no choice" do
    assert plan([
             row(:request, :inline, :binary, 4_095),
             row(:reply, :inline, :mixed, 20),
             row(:request, :inline, :binary, 2 ** 40)
           ]) == []

    assert plan([]) == []
    # One that failed, or a stream.
    assert plan([%{row(:request, :inline, :binary, 100_000) | ok: false}]) == []
    assert Probing.plan([row(:request, :inline, :binary, 100_000)], [:inline], 4_096, 1.0e9, & &1.size) == []
  end

  test "no more than the budget pays for, each shape once" do
    rows = for size <- 10_000..100_000//10_000, _ <- 1..5, do: row(:request, :inline, :binary, size)
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
end
