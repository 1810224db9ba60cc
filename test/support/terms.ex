defmodule Snakepit.Terms do
  @moduledoc false
  # PropEr generators of terms Python can hold, and the model: what comes back of them.

  alias Snakepit.{Bytes, Tensor}
  import :proper_types, except: [map: 2, list: 1]

  @strings ["", "a", "ключ", "🐍", "a\0b"]

  @doc "A supported term, nested. `edges` are sizes at which something changes."
  def term(edges), do: sized(fn size -> term(edges, min(size, 30)) end)

  defp term(edges, size) when size <= 1, do: leaf(edges)

  defp term(edges, size) do
    inner = lazy(fn -> term(edges, div(size, 3)) end)

    frequency([
      {4, leaf(edges)},
      {2, :proper_types.list(inner)},
      {1, bind(:proper_types.list(inner), &List.to_tuple/1)},
      {2, bind(:proper_types.list({key(), inner}), &Map.new/1)},
      {1, bind(:proper_types.list(member()), &MapSet.new/1)}
    ])
  end

  defp leaf(edges) do
    frequency([
      {1, oneof([nil, true, false, :nan, :infinity, :neg_infinity])},
      {1, name()},
      {2, integer()},
      {1, big_integer()},
      {2, float()},
      {2, oneof(@strings)},
      {2, bind(size(edges), &String.duplicate("é", div(&1, 2)))},
      {2, bind(size(edges), &%Bytes{data: noise(&1)})},
      {2, tensor(edges)},
      {1, any_datetime()}
    ])
  end

  # Never a string and an atom of the same letters, which are one key in Python.
  defp key,
    do: frequency([{3, oneof(@strings)}, {2, oneof([:x, :y, :some_key, :имя, :naïve])}, {1, integer()}])

  # Of any script; few enough, as atoms are for ever.
  defp name do
    bind(:proper_types.list(oneof([?a, ?Z, ?_, ?\s, ?é, 0xFF, 0x100, ?я, ?日, 0x1F40D])), fn letters ->
      letters |> Enum.take(3) |> List.to_string() |> then(&:"a#{&1}")
    end)
  end

  # Nothing that Python takes for equal: no floats, no booleans.
  defp member, do: oneof([integer(), oneof(@strings), {integer(), oneof(@strings)}])

  defp big_integer do
    bind({integer(60, 300), integer(-3, 3), oneof([1, -1])}, fn {bits, near, sign} ->
      sign * (Integer.pow(2, bits) + near)
    end)
  end

  # At an edge, beside it, or anywhere small.
  defp size(edges) do
    at_edge = bind({oneof(edges), integer(-2, 2)}, fn {edge, near} -> max(edge + near, 0) end)
    frequency([{2, at_edge}, {2, integer(0, 300)}])
  end

  defp tensor(edges) do
    bind({oneof(Keyword.values(Tensor.types()) -- [{:bf, 16}]), size(edges), integer(0, 4)}, fn {type, bytes,
                                                                                                 kind} ->
      items = div(bytes, Tensor.item_size(type))
      data = tensor_data(type, items)

      shape =
        case kind do
          0 -> {items}
          1 -> {1, items, 1}
          2 when rem(items, 2) == 0 -> {div(items, 2), 2}
          3 when items == 1 -> {}
          4 when items == 0 -> {3, 0, 2}
          _ -> {items}
        end

      Tensor.new(data, type, shape)
    end)
  end

  defp tensor_data({:bool, 8}, items), do: for(<<b <- noise(items)>>, into: <<>>, do: <<rem(b, 2)>>)
  defp tensor_data(type, items), do: noise(items * Tensor.item_size(type))

  # Bytes that repeat late enough to show a shift.
  defp noise(size) do
    pattern = for i <- 0..250, into: <<>>, do: <<i>>
    pattern |> :binary.copy(div(size, 251) + 1) |> binary_part(0, size)
  end

  defp any_datetime do
    date = bind({integer(1, 9999), integer(1, 12), integer(1, 28)}, fn {y, m, d} -> Date.new!(y, m, d) end)

    time =
      bind({integer(0, 86_399), integer(0, 999_999)}, fn {s, us} ->
        Time.new!(div(s, 3600), rem(div(s, 60), 60), rem(s, 60), {us, 6})
      end)

    naive = bind({date, time}, fn {d, t} -> NaiveDateTime.new!(d, t) end)
    oneof([date, time, naive, bind(naive, &DateTime.from_naive!(&1, "Etc/UTC"))])
  end

  defp bind(type, fun), do: :proper_types.bind(type, fun, false)

  @doc "What a term is when it comes back: atoms as strings, bytes as binaries, keys as strings."
  def back(atom) when is_atom(atom) and atom in [nil, true, false, :nan, :infinity, :neg_infinity], do: atom
  def back(atom) when is_atom(atom), do: Atom.to_string(atom)
  def back(%Bytes{data: data}), do: data
  def back(%Tensor{} = tensor), do: tensor
  def back(%MapSet{} = set), do: MapSet.new(set, &back/1)
  def back(%_{} = struct), do: struct
  def back(list) when is_list(list), do: Enum.map(list, &back/1)
  def back(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> back() |> List.to_tuple()
  def back(%{} = map), do: Map.new(map, fn {k, v} -> {back(k), back(v)} end)
  def back(other), do: other
end
