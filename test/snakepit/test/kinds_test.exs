defmodule Snakepit.Test.KindsTest do
  use ExUnit.Case, async: true
  alias Snakepit.{Bytes, Native, Tensor}
  alias Snakepit.Test.Kinds

  defp kinds(args, limit) do
    {:ok, envelope, _buffers, _size} =
      Native.encode("command", args, [["s", %Bytes{data: <<0>>}], nil], limit)

    Map.new(Kinds.of(envelope))
  end

  defp kind(nil), do: :none
  defp kind(bool) when is_boolean(bool), do: :bool
  defp kind(atom) when atom in [:nan, :infinity, :neg_infinity], do: :float
  defp kind(text) when is_atom(text) or is_binary(text), do: :str
  defp kind(int) when is_integer(int), do: :int
  defp kind(float) when is_float(float), do: :float
  defp kind(list) when is_list(list), do: :list
  defp kind(tuple) when is_tuple(tuple), do: :tuple
  defp kind(%Bytes{}), do: :bytes
  defp kind(%Tensor{}), do: :tensor
  defp kind(%MapSet{}), do: :set
  defp kind(%Date{}), do: :date
  defp kind(%Time{}), do: :time
  defp kind(%module{}) when module in [NaiveDateTime, DateTime], do: :datetime
  defp kind(%{}), do: :dict

  for {name, limit} <- [{"in the envelope", 1_000_000}, {"beside it", 64}] do
    test "of arguments #{name} are those of their values" do
      property =
        :proper.forall(Snakepit.Terms.term([32, 256, 65_536]), fn value ->
          kinds = kinds(%{"a" => value, "b" => 1.5, "c" => [value, value], "d" => "x"}, unquote(limit))
          kinds == %{"a" => kind(value), "b" => :float, "c" => :list, "d" => :str}
        end)

      assert :proper.quickcheck(property, [:quiet, numtests: 100]) == true
    end
  end

  test "of many arguments, of long lists and dicts, and of names that are numbers" do
    for n <- [0, 15, 16, 70_000] do
      list = Enum.to_list(1..n//1)
      dict = Map.new(list, &{&1, &1})

      assert kinds(%{"after" => 1.5, 1 => list, 300 => dict}, 1_000_000) == %{
               "after" => :float,
               1 => :list,
               300 => :dict
             }

      assert map_size(kinds(dict, 1_000_000)) == n
    end
  end
end
