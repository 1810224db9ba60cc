defmodule Snakepit.Terminal.UnitsTest do
  use ExUnit.Case, async: true
  alias Snakepit.Terminal.Units
  doctest Units

  test "bytes have the largest unit that leaves at least one" do
    assert Enum.map([0, 1, 1023, 1024, 1_048_576, 3 * 1024 ** 3], &Units.bytes/1) ==
             ["0 B", "1 B", "1023 B", "1.0 KiB", "1.0 MiB", "3.0 GiB"]
  end

  test "times keep three digits, also where rounding reaches the next unit" do
    assert Enum.map(
             [0, 999, 45_670, 999_499, 999_500, 12_345_678, 999_499_999, 999_500_000, 65_000_000_000],
             &Units.time/1
           ) ==
             ["0.00 µs", "1.00 µs", "45.7 µs", "999 µs", "1.00 ms", "12.3 ms", "999 ms", "1.00 s", "65.0 s"]
  end

  test "counts are grouped in threes" do
    assert Enum.map([0, 999, 1000, 123_456, -1_234_567], &Units.count/1) ==
             ["0", "999", "1,000", "123,456", "-1,234,567"]
  end
end
