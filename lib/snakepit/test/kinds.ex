defmodule Snakepit.Test.Kinds do
  @moduledoc false
  # The Python kinds of a request's arguments, read from its envelope (native/PROTOCOL.md): decoded, a `str` and `bytes`
  # are both binaries. Pure.

  @type kind ::
          :none
          | :bool
          | :int
          | :float
          | :str
          | :bytes
          | :list
          | :tuple
          | :dict
          | :set
          | :tensor
          | :date
          | :time
          | :datetime
          | :decimal

  @extensions {:int, :tuple, :set, :bytes, :str, :tensor, :date, :time, :datetime, :datetime, :decimal}

  @doc "The arguments of `[command, args, caller]` in their order."
  @spec of(binary()) :: [{String.t() | integer(), kind()}]
  def of(<<0x93, envelope::binary>>) do
    {:str, rest} = value(envelope)
    {size, rest} = map(rest)

    {arguments, _caller} =
      Enum.map_reduce(List.duplicate(nil, size), rest, fn nil, rest -> argument(rest) end)

    arguments
  end

  defp argument(bytes) do
    {_kind, after_key} = value(bytes)
    key = binary_part(bytes, 0, byte_size(bytes) - byte_size(after_key))
    {:ok, name} = Snakepit.Native.unpack(key, MapSet.new())
    {kind, rest} = value(after_key)
    {{name, kind}, rest}
  end

  defp map(<<0x8::4, n::4, rest::binary>>), do: {n, rest}
  defp map(<<0xDE, n::16, rest::binary>>), do: {n, rest}
  defp map(<<0xDF, n::32, rest::binary>>), do: {n, rest}

  # The kind of the first value, and the bytes behind it.
  defp value(<<0::1, _::7, rest::binary>>), do: {:int, rest}
  defp value(<<0x8::4, n::4, rest::binary>>), do: {:dict, skip(rest, 2 * n)}
  defp value(<<0x9::4, n::4, rest::binary>>), do: {:list, skip(rest, n)}
  defp value(<<0b101::3, n::5, _::binary-size(n), rest::binary>>), do: {:str, rest}
  defp value(<<0xC0, rest::binary>>), do: {:none, rest}
  defp value(<<bool, rest::binary>>) when bool in [0xC2, 0xC3], do: {:bool, rest}
  defp value(<<0xC4, n, _::binary-size(n), rest::binary>>), do: {:bytes, rest}
  defp value(<<0xC5, n::16, _::binary-size(n), rest::binary>>), do: {:bytes, rest}
  defp value(<<0xC6, n::32, _::binary-size(n), rest::binary>>), do: {:bytes, rest}
  defp value(<<0xC7, n, code, _::binary-size(n), rest::binary>>), do: {extension(code), rest}
  defp value(<<0xC8, n::16, code, _::binary-size(n), rest::binary>>), do: {extension(code), rest}
  defp value(<<0xC9, n::32, code, _::binary-size(n), rest::binary>>), do: {extension(code), rest}
  defp value(<<0xCA, _::32, rest::binary>>), do: {:float, rest}
  defp value(<<0xCB, _::64, rest::binary>>), do: {:float, rest}
  defp value(<<int, _::8, rest::binary>>) when int in [0xCC, 0xD0], do: {:int, rest}
  defp value(<<int, _::16, rest::binary>>) when int in [0xCD, 0xD1], do: {:int, rest}
  defp value(<<int, _::32, rest::binary>>) when int in [0xCE, 0xD2], do: {:int, rest}
  defp value(<<int, _::64, rest::binary>>) when int in [0xCF, 0xD3], do: {:int, rest}
  defp value(<<0xD4, code, _::8, rest::binary>>), do: {extension(code), rest}
  defp value(<<0xD5, code, _::16, rest::binary>>), do: {extension(code), rest}
  defp value(<<0xD6, code, _::32, rest::binary>>), do: {extension(code), rest}
  defp value(<<0xD7, code, _::64, rest::binary>>), do: {extension(code), rest}
  defp value(<<0xD8, code, _::128, rest::binary>>), do: {extension(code), rest}
  defp value(<<0xD9, n, _::binary-size(n), rest::binary>>), do: {:str, rest}
  defp value(<<0xDA, n::16, _::binary-size(n), rest::binary>>), do: {:str, rest}
  defp value(<<0xDB, n::32, _::binary-size(n), rest::binary>>), do: {:str, rest}
  defp value(<<0xDC, n::16, rest::binary>>), do: {:list, skip(rest, n)}
  defp value(<<0xDD, n::32, rest::binary>>), do: {:list, skip(rest, n)}
  defp value(<<0xDE, n::16, rest::binary>>), do: {:dict, skip(rest, 2 * n)}
  defp value(<<0xDF, n::32, rest::binary>>), do: {:dict, skip(rest, 2 * n)}
  defp value(<<0b111::3, _::5, rest::binary>>), do: {:int, rest}

  defp extension(code), do: elem(@extensions, code - 1)

  defp skip(bytes, 0), do: bytes

  defp skip(bytes, n) do
    {_kind, rest} = value(bytes)
    skip(rest, n - 1)
  end
end
