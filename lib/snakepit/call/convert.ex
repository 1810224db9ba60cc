defmodule Snakepit.Call.Convert do
  @moduledoc false
  # Structs of libraries that only Elixir can read, turned into Snakepit's own. A walk over the whole term, taken only
  # when the encoder met one.

  @spec term(term()) :: term()
  def term(%{__struct__: Nx.Tensor} = tensor), do: Snakepit.Tensor.from_nx(tensor)
  def term(%MapSet{} = set), do: MapSet.new(set, &term/1)
  def term(%_struct{} = other), do: other
  def term(%{} = map), do: Map.new(map, fn {key, value} -> {key, term(value)} end)
  def term([head | tail]), do: [term(head) | term(tail)]
  def term(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> term() |> List.to_tuple()
  def term(other), do: other
end
