defmodule Snakepit.Demo.SizeClassTest do
  use ExUnit.Case, async: true
  alias Snakepit.Demo.SizeClass

  test "a limit belongs to the class above it" do
    edges = [{0, "empty"}, {1, "< 4 KiB"}, {4095, "< 4 KiB"}, {4096, "< 64 KiB"}, {65_535, "< 64 KiB"}]
    edges = edges ++ [{65_536, "< 1 MiB"}, {1_048_576, "< 16 MiB"}, {16_777_215, "< 16 MiB"}]
    edges = edges ++ [{16_777_216, "≥ 16 MiB"}, {2 ** 70, "≥ 16 MiB"}]
    for {size, class} <- edges, do: assert(SizeClass.of(size) == class)
    assert Enum.map(edges, &elem(&1, 1)) |> Enum.uniq() == SizeClass.all()
  end
end
