defmodule Snakepit.Bench.Json do
  @moduledoc false
  # Writes what a bench reports: maps, lists, strings, numbers. OTP 25 has no JSON of its own.

  @spec encode(term()) :: iodata()
  def encode(nil), do: "null"
  def encode(b) when is_boolean(b), do: Atom.to_string(b)
  def encode(n) when is_integer(n), do: Integer.to_string(n)
  def encode(x) when is_float(x), do: :erlang.float_to_binary(x, [:short])
  def encode(atom) when is_atom(atom), do: atom |> Atom.to_string() |> encode()
  def encode(text) when is_binary(text), do: [?", escape(text), ?"]
  def encode(list) when is_list(list), do: [?[, list |> Enum.map(&encode/1) |> Enum.intersperse(","), ?]]

  def encode(%{} = map) do
    pairs = for {key, value} <- Enum.sort(map), do: [encode(to_string(key)), ":", encode(value)]
    [?{, Enum.intersperse(pairs, ","), ?}]
  end

  defp escape(text) do
    for <<c::utf8 <- text>>, into: "" do
      case c do
        ?" -> ~S(\")
        ?\\ -> ~S(\\)
        c when c < 0x20 -> "\\u" <> String.pad_leading(Integer.to_string(c, 16), 4, "0")
        c -> <<c::utf8>>
      end
    end
  end
end
