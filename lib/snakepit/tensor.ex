defmodule Snakepit.Tensor do
  @moduledoc """
  An array of numbers: a `numpy.ndarray` in Python.

  `data` is a binary in C order (the last dimension varies fastest) and the machine's byte order; `type` is a kind and a
  number of bits, as in Nx, and `{:bool, 8}`; `names` are Elixir's alone and do not travel.

      iex> tensor = Snakepit.Tensor.new([1, 2, 3, 4, 5, 6], :s32, {2, 3})
      iex> tensor.type
      {:s, 32}
      iex> Snakepit.Tensor.to_flat_list(tensor)
      [1, 2, 3, 4, 5, 6]

  A tensor that a tool returned may lie in shared memory: its `data` is an ordinary binary, and passing it to the next
  call moves no payload.
  """

  import Bitwise

  @enforce_keys [:type, :shape, :data]
  defstruct [:type, :shape, :names, :data]

  @type kind :: :bool | :u | :s | :f | :bf | :c
  @type type :: {kind(), 8 | 16 | 32 | 64 | 128}
  @type t :: %__MODULE__{type: type(), shape: tuple(), names: [atom()] | nil, data: binary()}

  @types [
    bool: {:bool, 8},
    u8: {:u, 8},
    u16: {:u, 16},
    u32: {:u, 32},
    u64: {:u, 64},
    s8: {:s, 8},
    s16: {:s, 16},
    s32: {:s, 32},
    s64: {:s, 64},
    f16: {:f, 16},
    bf16: {:bf, 16},
    f32: {:f, 32},
    f64: {:f, 64},
    c64: {:c, 64},
    c128: {:c, 128}
  ]

  @doc "Every type, by its short name."
  @spec types() :: keyword(type())
  def types, do: @types

  @doc """
  A tensor of a binary, of a flat list of numbers, or of lists in lists, which have a shape of their own.

  `type` is a tuple or a short name such as `:f32`; `shape` defaults to one dimension. Raises `ArgumentError` if the
  data are not exactly as long as the shape says.

      iex> Snakepit.Tensor.new(<<1, 2, 3>>, :u8)
      Snakepit.Tensor.new([1, 2, 3], :u8)
      iex> Snakepit.Tensor.new([[1, 2, 3], [4, 5, 6]], :f32).shape
      {2, 3}
  """
  @spec new(binary() | list(), type() | atom(), tuple() | nil) :: t()
  def new(data, type, shape \\ nil)

  def new([first | _] = nested, type, shape) when is_list(first) do
    {sizes, flat} = flatten(nested, "data")
    own = List.to_tuple(sizes)

    if shape not in [nil, own] do
      raise ArgumentError, "the lists have the shape #{inspect(own)}, got: #{inspect(shape)}"
    end

    new(flat, type, own)
  end

  def new(data, type, shape) do
    type = type!(type)
    data = if is_list(data), do: pack(data, type), else: data
    shape = shape || {div(byte_size(data), item_size(type))}

    unless is_tuple(shape) and Enum.all?(Tuple.to_list(shape), &(is_integer(&1) and &1 >= 0)) do
      raise ArgumentError, "a tensor's shape is a tuple of non-negative integers, got: #{inspect(shape)}"
    end

    bytes = shape |> Tuple.to_list() |> Enum.product() |> Kernel.*(item_size(type))

    if bytes != byte_size(data) do
      raise ArgumentError,
            "a #{inspect(type)} tensor of shape #{inspect(shape)} takes #{bytes} B, the data have #{byte_size(data)}"
    end

    %__MODULE__{type: type, shape: shape, names: List.duplicate(nil, tuple_size(shape)), data: data}
  end

  # {sizes of each dimension, items}
  defp flatten([first | _] = lists, place) when is_list(first) do
    [{sizes, _} | _] =
      parts =
      for {item, index} <- Enum.with_index(lists) do
        unless is_list(item), do: ragged("#{place}[#{index}]", "no list", "lists")
        flatten(item, "#{place}[#{index}]")
      end

    for {{other, _}, index} <- Enum.with_index(parts), other != sizes do
      ragged("#{place}[#{index}]", "of shape #{shown(other)}", "of shape #{shown(sizes)}")
    end

    {[length(lists) | sizes], Enum.flat_map(parts, &elem(&1, 1))}
  end

  defp flatten(items, place) do
    case Enum.find_index(items, &is_list/1) do
      nil -> {[length(items)], items}
      index -> ragged("#{place}[#{index}]", "a list", "items")
    end
  end

  @spec ragged(String.t(), String.t(), String.t()) :: no_return()
  defp ragged(place, is, others) do
    raise ArgumentError, "the lists are ragged: #{place} is #{is}, those before it are #{others}"
  end

  defp shown(sizes), do: sizes |> List.to_tuple() |> inspect()

  @doc "Bytes of one item."
  @spec item_size(type()) :: pos_integer()
  def item_size({_kind, bits}), do: div(bits, 8)

  @doc "The items in C order; infinities and NaN are `:infinity`, `:neg_infinity` and `:nan`, complex ones `{re, im}`."
  @spec to_flat_list(t()) :: [number() | boolean() | atom() | {number() | atom(), number() | atom()}]
  def to_flat_list(%__MODULE__{type: {kind, bits}, data: data}), do: unpack(data, kind, bits)

  @doc "An `Nx.Tensor` of the same bytes, where Nx is loaded."
  @spec to_nx(t()) :: struct()
  def to_nx(%__MODULE__{type: {:bool, 8}} = tensor), do: to_nx(%{tensor | type: {:u, 8}})

  def to_nx(%__MODULE__{} = tensor) do
    nx = Nx
    nx.reshape(nx.from_binary(tensor.data, tensor.type), tensor.shape)
  end

  @doc "A tensor of an `Nx.Tensor`'s bytes."
  @spec from_nx(struct()) :: t()
  def from_nx(%{type: type, shape: shape, names: names} = nx_tensor) do
    nx = Nx
    %__MODULE__{type: type, shape: shape, names: names, data: nx.to_binary(nx_tensor)}
  end

  defp type!({kind, bits}) do
    if {kind, bits} in Keyword.values(@types), do: {kind, bits}, else: bad_type({kind, bits})
  end

  defp type!(name), do: Keyword.get(@types, name) || bad_type(name)

  defp bad_type(type) do
    raise ArgumentError,
          "unknown tensor type #{inspect(type)}; known are #{Enum.map_join(Keyword.keys(@types), ", ", &inspect/1)}"
  end

  defp pack(list, {kind, bits}), do: for(item <- list, into: <<>>, do: item(item, kind, bits))

  defp item(true, :bool, 8), do: <<1>>
  defp item(false, :bool, 8), do: <<0>>
  # A number that does not fit is refused: a bit syntax would cut it.
  defp item(n, :u, bits) when is_integer(n) and bsr(n, bits) == 0, do: <<n::unsigned-native-size(bits)>>

  defp item(n, :s, bits) when is_integer(n) and bsr(n, bits - 1) in [0, -1],
    do: <<n::signed-native-size(bits)>>

  defp item({re, im}, :c, bits), do: item(re, :f, div(bits, 2)) <> item(im, :f, div(bits, 2))
  defp item(x, :f, bits) when is_number(x), do: finite(<<x::float-native-size(bits)>>, x, :f, bits)
  defp item(x, :f, bits) when x in [:nan, :infinity, :neg_infinity], do: special(x, bits)

  # A bfloat16 is the upper half of a float32, rounded to the nearest, ties to even.
  defp item(x, :bf, 16) when is_number(x) do
    <<n::32>> = <<x::float-32>>
    finite(<<bsr(n + 0x7FFF + (bsr(n, 16) &&& 1), 16)::16-native>>, x, :bf, 16)
  end

  defp item(x, :bf, 16) when x in [:nan, :infinity, :neg_infinity] do
    <<n::32-native>> = special(x, 32)
    <<bsr(n, 16)::16-native>>
  end

  defp item(x, kind, bits), do: no_item(x, kind, bits)

  # A finite number beyond the type's range became an infinity.
  defp finite(bytes, x, kind, bits) do
    if kind |> infinities(bits) |> Enum.member?(bytes), do: no_item(x, kind, bits), else: bytes
  end

  defp infinities(:bf, 16), do: [<<0x7F80::16-native>>, <<0xFF80::16-native>>]
  defp infinities(:f, bits), do: [special(:infinity, bits), special(:neg_infinity, bits)]

  defp no_item(x, kind, bits) do
    raise ArgumentError, "#{inspect(x)} is no item of a tensor of type #{inspect({kind, bits})}"
  end

  defp special(:nan, 16), do: <<0x7E00::16-native>>
  defp special(:nan, 32), do: <<0x7FC00000::32-native>>
  defp special(:nan, 64), do: <<0x7FF8000000000000::64-native>>
  defp special(:infinity, 16), do: <<0x7C00::16-native>>
  defp special(:infinity, 32), do: <<0x7F800000::32-native>>
  defp special(:infinity, 64), do: <<0x7FF0000000000000::64-native>>
  defp special(:neg_infinity, 16), do: <<0xFC00::16-native>>
  defp special(:neg_infinity, 32), do: <<0xFF800000::32-native>>
  defp special(:neg_infinity, 64), do: <<0xFFF0000000000000::64-native>>

  defp unpack(data, :bool, 8), do: for(<<b <- data>>, do: b != 0)
  defp unpack(data, :u, bits), do: for(<<n::unsigned-native-size(bits) <- data>>, do: n)
  defp unpack(data, :s, bits), do: for(<<n::signed-native-size(bits) <- data>>, do: n)

  defp unpack(data, :bf, 16) do
    for <<half::16-native <- data>>, do: float(<<bsl(half, 16)::32-native>>, 32)
  end

  defp unpack(data, :c, bits) do
    half = div(bits, 16)

    for <<re::binary-size(half), im::binary-size(half) <- data>>,
      do: {float(re, half * 8), float(im, half * 8)}
  end

  defp unpack(data, :f, bits) do
    size = div(bits, 8)
    for <<x::binary-size(size) <- data>>, do: float(x, bits)
  end

  defp float(bytes, bits) do
    case bytes do
      <<x::float-native-size(bits)>> ->
        x

      _not_finite ->
        cond do
          bytes == special(:infinity, bits) -> :infinity
          bytes == special(:neg_infinity, bits) -> :neg_infinity
          true -> :nan
        end
    end
  end

  defimpl Inspect do
    # Never the whole binary, which may be of any size. A struct that was made by hand may be wrong in every field.
    import Inspect.Algebra
    alias Snakepit.Tensor

    @shown 8

    def inspect(%Tensor{type: type, shape: shape, data: data} = tensor, opts) do
      case List.keyfind(Tensor.types(), type, 1) do
        {name, _} when is_binary(data) ->
          size = Tensor.item_size(type)
          count = div(byte_size(data), size)
          first = binary_part(data, 0, min(count, @shown) * size)
          items = Tensor.to_flat_list(%{tensor | data: first}) ++ if(count > @shown, do: [:more], else: [])
          numbers = container_doc("[", items, "]", opts, &item/2)
          concat(["#Snakepit.Tensor<#{name} ", to_doc(shape, opts), " ", numbers, ">"])

        _wrong ->
          Inspect.Any.inspect(tensor, opts)
      end
    end

    defp item(:more, _opts), do: "..."
    defp item(item, opts), do: to_doc(item, opts)
  end
end
