defmodule Snakepit.Transfer.Convert do
  @moduledoc false
  # Turns structs of libraries that only Elixir can read into Snakepit's own: a walk over the whole term, made only
  # when the encoder has met such a struct.

  @spec term(term()) :: term()
  def term(%{__struct__: Nx.Tensor} = tensor), do: Snakepit.Tensor.from_nx(tensor)
  def term(%MapSet{} = set), do: MapSet.new(set, &term/1)
  def term(%_struct{} = other), do: other
  def term(%{} = map), do: Map.new(map, fn {key, value} -> {key, term(value)} end)
  def term([head | tail]), do: [term(head) | term(tail)]
  def term(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> term() |> List.to_tuple()
  def term(other), do: other
end
