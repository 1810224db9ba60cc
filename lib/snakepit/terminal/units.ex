defmodule Snakepit.Terminal.Units do
  @moduledoc false
  # Numbers as people read them: three digits that matter, and a unit.

  @sizes [{1024 ** 4, "TiB"}, {1024 ** 3, "GiB"}, {1024 ** 2, "MiB"}, {1024, "KiB"}]

  @doc """
      iex> Snakepit.Terminal.Units.bytes(1536)
      "1.5 KiB"
  """
  @spec bytes(non_neg_integer()) :: String.t()
  def bytes(count) do
    case Enum.find(@sizes, fn {size, _} -> count >= size end) do
      nil -> "#{count} B"
      {size, unit} -> decimal(count / size, 1) <> " " <> unit
    end
  end

  @doc """
      iex> Snakepit.Terminal.Units.time(1_234_567)
      "1.23 ms"
  """
  @spec time(nanoseconds :: number()) :: String.t()
  def time(ns) when ns >= 999_500_000, do: digits(ns / 1.0e9) <> " s"
  def time(ns) when ns >= 999_500, do: digits(ns / 1.0e6) <> " ms"
  def time(ns), do: digits(ns / 1.0e3) <> " µs"

  @doc """
      iex> Snakepit.Terminal.Units.count(1234567)
      "1,234,567"
  """
  @spec count(integer()) :: String.t()
  def count(number), do: number |> Integer.to_string() |> String.replace(~r/(?<=\d)(?=(\d{3})+$)/, ",")

  @doc """
  A count and what is counted; `many` where that does not end in s.

      iex> Snakepit.Terminal.Units.counted(1, "file")
      "1 file"
      iex> Snakepit.Terminal.Units.counted(1200, "call runs", "calls run")
      "1,200 calls run"
  """
  @spec counted(non_neg_integer(), String.t(), String.t() | nil) :: String.t()
  def counted(number, one, many \\ nil)
  def counted(1, one, _many), do: "1 " <> one
  def counted(number, one, many), do: count(number) <> " " <> (many || one <> "s")

  @doc "A number with three digits, or all that stand before the point."
  @spec digits(number()) :: String.t()
  def digits(number) when number >= 99.95, do: count(round(number))
  def digits(number) when number >= 9.995, do: decimal(number, 1)
  def digits(number), do: decimal(number, 2)

  @spec decimal(number(), non_neg_integer()) :: String.t()
  def decimal(number, places), do: :erlang.float_to_binary(number / 1, decimals: places)
end
