defmodule Snakepit.TransferTest do
  use ExUnit.Case, async: true
  import :proper_types, only: [integer: 2, oneof: 1]
  import Snakepit.Properties
  alias Snakepit.Transfer

  @ways Transfer.ways()
  @largest Transfer.largest_message()

  defp subsets([]), do: [[]]
  defp subsets([way | rest]), do: Enum.flat_map(subsets(rest), &[&1, [way | &1]])

  test "what has no large part goes inline, the rest by shared memory" do
    assert Transfer.usual_order(0, 100, @ways) == [:inline, :zero_copy, :grpc]
    assert Transfer.usual_order(4096, 100, @ways) == [:zero_copy, :inline, :grpc]
    assert Transfer.usual_order(0, 100, [:zero_copy, :grpc]) == [:zero_copy, :grpc]
    assert Transfer.usual_order(10_000, 100, [:inline, :grpc]) == [:inline, :grpc]
    assert Transfer.usual_order(1, 1, []) == []
  end

  test "beyond the largest message only shared memory is left, and a larger envelope goes nowhere" do
    assert Transfer.usual_order(@largest, 100, @ways) == [:zero_copy]
    assert Transfer.usual_order(@largest, 100, [:inline, :grpc]) == []
    assert Transfer.usual_order(0, @largest, @ways) == []
  end

  test "only what is allowed, each once, and nothing that a message cannot carry" do
    type = {integer(0, 2 * @largest), integer(0, 2 * @largest), oneof(subsets(@ways))}

    holds(type, 2_000, fn {bytes, envelope, allowed} ->
      plan = Transfer.usual_order(bytes, envelope, allowed)

      plan == Enum.uniq(plan) and plan -- allowed == [] and
        (bytes + envelope < @largest or plan -- [:zero_copy] == []) and
        (bytes + envelope > div(@largest, 2) or Enum.sort(plan) == Enum.sort(allowed))
    end)
  end

  test "numbers and masks are those of the protocol" do
    assert Enum.map([:inline, :zero_copy, :grpc], &Transfer.number/1) == [0, 1, 2]
    for way <- @ways, do: assert(way |> Transfer.number() |> Transfer.from_number() == way)

    for ways <- subsets(@ways),
        do: assert(Transfer.mask(ways) == ways |> Enum.map(&(2 ** Transfer.number(&1))) |> Enum.sum())
  end
end
