defmodule Snakepit.Bench.FloorTest do
  use ExUnit.Case, async: true
  alias Snakepit.Bench.Floor
  alias Snakepit.Bench.Floor.Native

  setup_all do: Native.load!()

  test "a second load does nothing" do
    assert Native.loaded?()
    assert :ok = Native.load!()
  end

  test "each native floor returns one time for each round" do
    for times <- [
          Native.memcpy_warm(4096, 3),
          Native.memcpy_cold(0, 3),
          Native.memcpy_cold(5_000_000, 3),
          Native.futex(3),
          Floor.memcpy(4096, 3),
          Floor.futex(3)
        ] do
      assert length(times) == 3 and Enum.all?(times, &(is_integer(&1) and &1 >= 0))
    end
  end

  test "the production library has no floors" do
    library = :snakepit |> :code.priv_dir() |> Path.join("native/libsnakepit_nif.so") |> File.read!()
    refute library =~ "memcpy_cold"
  end
end
