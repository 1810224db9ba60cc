defmodule Snakepit.Performance.Model.PressureTest do
  use ExUnit.Case, async: true
  import :proper_types, only: [list: 1, float: 2]
  import Snakepit.Properties
  alias Snakepit.Performance.Model.Pressure

  defp after_all(samples, p \\ Pressure.new(0.8, 0.8)),
    do: Enum.reduce(samples, p, fn {memory, cpu}, p -> Pressure.update(p, memory, cpu) end)

  test "begins at its threshold and ends somewhat below it" do
    p = after_all([{0.79, 0.1}])
    refute p.memory?
    refute after_all([{0.80, 0.1}], p).memory?
    p = after_all([{0.81, 0.1}], p)
    assert p.memory? and Pressure.bits(p) == 2
    assert after_all([{0.76, 0.1}], p).memory?
    refute after_all([{0.74, 0.1}], p).memory?
  end

  test "one busy tick is no pressure, a busy second is; and the other way round" do
    p = after_all(List.duplicate({0.1, 0.1}, 20))
    refute after_all([{0.1, 1.0}], p).cpu?
    p = after_all(List.duplicate({0.1, 1.0}, 10), p)
    assert p.cpu? and Pressure.bits(p) == 1
    assert after_all([{0.1, 0.0}], p).cpu? == false or after_all([{0.1, 0.5}], p).cpu?
    refute after_all(List.duplicate({0.1, 0.0}, 10), p).cpu?
  end

  test "a threshold of 1 switches it off" do
    p = Enum.reduce(1..20, Pressure.new(1, 1), fn _, p -> Pressure.update(p, 1.0, 1.0) end)
    assert Pressure.bits(p) == 0
  end

  test "what cannot be read changes nothing" do
    p = after_all([{0.9, 0.9}])
    assert after_all([{nil, nil}], p) == p
    assert Pressure.bits(after_all([{nil, nil}])) == 0
  end

  test "below its end there is none, at its threshold there is, whatever was before" do
    holds(list(float(0.0, 1.0)), 300, fn shares ->
      p = after_all(Enum.map(shares, &{&1, nil}))
      last = List.last(shares) || 0.0
      (last <= 0.75 and not p.memory?) or (last > 0.8 and p.memory?) or (last > 0.75 and last <= 0.8)
    end)
  end
end
