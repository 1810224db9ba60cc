defmodule Snakepit.TensorTest do
  use ExUnit.Case, async: true
  import Snakepit.Properties
  alias Snakepit.Tensor

  doctest Tensor

  # Items that each type holds exactly, its edges among them.
  @items [
    bool: [true, false],
    u8: [0, 255],
    u16: [0, 65_535],
    u32: [0, 2 ** 32 - 1],
    u64: [0, 2 ** 64 - 1],
    s8: [-128, 127],
    s16: [-32_768, 32_767],
    s32: [-(2 ** 31), 2 ** 31 - 1],
    s64: [-(2 ** 63), 2 ** 63 - 1],
    f16: [0.0, -1.5, 65_504.0, :nan, :infinity, :neg_infinity],
    bf16: [0.0, -1.5, 128.0, :nan, :infinity, :neg_infinity],
    f32: [0.0, -1.5, 16_777_216.0, :nan, :infinity, :neg_infinity],
    f64: [0.1, -1.7976931348623157e308, :nan, :infinity, :neg_infinity],
    c64: [{1.5, -2.0}, {:nan, :infinity}],
    c128: [{0.1, 0.2}, {:neg_infinity, 0.0}]
  ]

  test "items of every type come back, also the smallest and largest" do
    assert Keyword.keys(@items) == Keyword.keys(Tensor.types())

    for {name, items} <- @items do
      tensor = Tensor.new(items, name)
      assert Tensor.to_flat_list(tensor) === items
      assert tensor == Tensor.new(items, Tensor.types()[name], {length(items)})
      assert byte_size(tensor.data) == length(items) * Tensor.item_size(tensor.type)
      assert Tensor.new(tensor.data, name) == tensor
    end
  end

  test "integers are taken where floats are meant" do
    assert Tensor.new([1, {2, 3} |> elem(0)], :f32) == Tensor.new([1.0, 2.0], :f32)
    assert Tensor.new([{1, 2}], :c64) == Tensor.new([{1.0, 2.0}], :c64)
  end

  test "a number that the type cannot hold is refused, never cut" do
    for {type, item} <- [
          u8: 256,
          u8: -1,
          u64: 2 ** 64,
          s8: 128,
          s8: -129,
          s64: 2 ** 63,
          u8: 1.0,
          f16: 65_520.0,
          f16: -1.0e6,
          bf16: 3.4e38,
          f32: 1.0e39,
          f64: 10 ** 400,
          c64: {1.0e39, 0},
          c64: 1.0,
          f32: "1",
          f32: :inf,
          bf16: :inf,
          bool: 1,
          u8: true
        ] do
      assert_raise ArgumentError, fn -> Tensor.new([item], type) end
    end
  end

  test "a bfloat16 is rounded to the nearest, as numpy does" do
    for {given, held} <- [{1.00390625, 1.0}, {1.01171875, 1.015625}, {1.005, 1.0078125}, {-1.005, -1.0078125}] do
      assert Tensor.to_flat_list(Tensor.new([given], :bf16)) == [held]
    end
  end

  test "integers that fit come back, larger ones are refused" do
    sizes =
      for {kind, bits} = type when kind in [:u, :s] <- Keyword.values(Tensor.types()), do: {type, kind, bits}

    holds(
      {:proper_types.oneof(sizes), :proper_types.integer(0, 70), :proper_types.integer(-2, 2)},
      2_000,
      fn {{type, kind, bits}, power, near} ->
        Enum.all?([1, -1], fn sign ->
          n = sign * 2 ** power + near
          {low, high} = if kind == :u, do: {0, 2 ** bits - 1}, else: {-(2 ** (bits - 1)), 2 ** (bits - 1) - 1}

          case answer_of(fn -> Tensor.to_flat_list(Tensor.new([n], type)) end) do
            [^n] -> n in low..high
            {:raised, %ArgumentError{}} -> n not in low..high
            _ -> false
          end
        end)
      end
    )
  end

  test "lists in lists have their own shape" do
    assert Tensor.new([[1, 2, 3], [4, 5, 6]], :f32) == Tensor.new([1, 2, 3, 4, 5, 6], :f32, {2, 3})
    assert Tensor.new([[[true]], [[false]]], :bool, {2, 1, 1}).data == <<1, 0>>
    assert Tensor.new([[{1, 2}], [{3, 4}]], :c64).shape == {2, 1}
    assert Tensor.new([[], []], :u8).shape == {2, 0}

    for {lists, words} <- [
          {[[1, 2], [3]], "data[1] is of shape {1}, those before it are of shape {2}"},
          {[[[1], [2]], [[3], [4, 5]]], "data[1][1] is of shape {2}, those before it are of shape {1}"},
          {[[1], 2], "data[1] is no list"},
          {[[1, [2]]], "data[0][1] is a list"}
        ] do
      assert_raise ArgumentError, ~r/#{Regex.escape(words)}/, fn -> Tensor.new(lists, :f32) end
    end

    assert_raise ArgumentError, ~r/shape {2, 1}, got: {1, 2}/, fn -> Tensor.new([[1], [2]], :u8, {1, 2}) end
  end

  test "inspected, it shows type, shape and the first numbers" do
    assert inspect(Tensor.new([1.5, 2.0], :f32)) == "#Snakepit.Tensor<f32 {2} [1.5, 2.0]>"
    assert inspect(Tensor.new([], :u8)) == "#Snakepit.Tensor<u8 {0} []>"
    large = Tensor.new(:binary.copy(<<7>>, 10_000_000), :u8, {10, 1_000_000})
    assert inspect(large) == "#Snakepit.Tensor<u8 {10, 1000000} [7, 7, 7, 7, 7, 7, 7, 7, ...]>"

    for wrong <- [
          %Tensor{type: nil, shape: nil, data: nil},
          %Tensor{type: {:u, 9}, shape: {1}, data: "x"},
          %Tensor{type: {:f, 64}, shape: 1, data: "abc"}
        ],
        do: assert(inspect(wrong) =~ "Snakepit.Tensor")
  end

  test "the data are exactly as long as the shape says" do
    assert Tensor.new([], :f32, {2, 0, 3}).data == ""
    assert Tensor.new([1.0], :f32, {}).names == []
    assert Tensor.new([1, 2, 3, 4, 5, 6], :u8, {2, 3}).names == [nil, nil]

    for {data, type, shape} <- [
          {<<1, 2, 3>>, :u16, nil},
          {<<1, 2>>, :u8, {3}},
          {<<1, 2>>, :u8, {1}},
          {[1, 2], :u8, {}},
          {"", :u8, {-1, 0}},
          {"ab", :u8, {2.0}},
          {"ab", :u8, [2]},
          {"ab", :u8, {:a}},
          {"ab", {:u, 9}, {2}},
          {"ab", :u9, {2}},
          {"ab", nil, {2}}
        ] do
      assert_raise ArgumentError, fn -> Tensor.new(data, type, shape) end
    end
  end
end
