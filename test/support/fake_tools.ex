defmodule Snakepit.FakeTools do
  @moduledoc false
  # A module of fake tools, as a user of Snakepit.Test has one.

  def add(%{"a" => a, "b" => b}), do: a + b
  def answer, do: 42
  def countdown(%{"n" => n}), do: n |> Stream.iterate(&(&1 - 1)) |> Stream.take(n)

  # Not tools.
  def add(a, b), do: a + b
  def _helper(x), do: x
  def from_config, do: %{"later" => &add/1}
end
