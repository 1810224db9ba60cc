defmodule Snakepit.Demo.SizeClass do
  @moduledoc false
  # Files by size, each class sixteen times the one before.

  # {name, first size that is too large}
  @classes [
    {"empty", 1},
    {"< 4 KiB", 4 * 1024},
    {"< 64 KiB", 64 * 1024},
    {"< 1 MiB", 1024 * 1024},
    {"< 16 MiB", 16 * 1024 * 1024},
    {"≥ 16 MiB", :infinity}
  ]

  @type t :: String.t()

  @doc "Every class, smallest first."
  @spec all() :: [t()]
  def all, do: Enum.map(@classes, &elem(&1, 0))

  @doc "The class of a file of `size` bytes."
  @spec of(non_neg_integer()) :: t()
  # An atom is greater than any integer.
  def of(size), do: Enum.find_value(@classes, fn {name, limit} -> size < limit && name end)
end
