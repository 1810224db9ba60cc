defmodule Snakepit.Bench.Json do
  @moduledoc false
  # A bench's reports, written and read: maps, lists, strings, numbers (RFC 8259). OTP 25 has no JSON of its own.

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

  # ---- reading ----------------------------------------------------------------------------------------------------

  @deepest 32

  @doc "The term of a text; keys are strings. An error says at which byte the text is none."
  @spec decode(binary()) :: {:ok, term()} | {:error, String.t()}
  def decode(text) do
    with {value, rest} <- value(skip(text), @deepest),
         "" <- skip(rest) do
      {:ok, value}
    else
      rest -> {:error, "no JSON at byte #{byte_size(text) - byte_size(rest)}"}
    end
  catch
    {:at, rest, why} -> {:error, "#{why} at byte #{byte_size(text) - byte_size(rest)}"}
  end

  defp skip(<<c, rest::binary>>) when c in ' \t\r\n', do: skip(rest)
  defp skip(rest), do: rest

  defp value(rest, 0), do: throw({:at, rest, "more than #{@deepest} lists and maps in one another"})
  defp value("null" <> rest, _), do: {nil, rest}
  defp value("true" <> rest, _), do: {true, rest}
  defp value("false" <> rest, _), do: {false, rest}
  defp value(<<?", rest::binary>>, _), do: string(rest, [])
  defp value(<<?[, rest::binary>>, left), do: items(skip(rest), left - 1, [])
  defp value(<<?{, rest::binary>>, left), do: pairs(skip(rest), left - 1, %{})
  defp value(rest, _), do: number(rest)

  defp items("]" <> rest, _left, []), do: {[], rest}

  defp items(rest, left, done) do
    {item, rest} = value(rest, left)

    case skip(rest) do
      "," <> rest -> items(skip(rest), left, [item | done])
      "]" <> rest -> {Enum.reverse([item | done]), rest}
      rest -> throw({:at, rest, "expected , or ]"})
    end
  end

  defp pairs("}" <> rest, _left, done) when done == %{}, do: {done, rest}

  defp pairs(<<?", rest::binary>>, left, done) do
    with {key, rest} <- string(rest, []),
         ":" <> rest <- skip(rest),
         {value, rest} = value(skip(rest), left) do
      done = Map.put(done, key, value)

      case skip(rest) do
        "," <> rest -> pairs(skip(rest), left, done)
        "}" <> rest -> {done, rest}
        rest -> throw({:at, rest, "expected , or }"})
      end
    else
      rest -> throw({:at, rest, "expected :"})
    end
  end

  defp pairs(rest, _left, _done), do: throw({:at, rest, "expected a key"})

  defp string(<<?", rest::binary>>, done), do: {IO.iodata_to_binary(Enum.reverse(done)), rest}

  defp string(<<?\\, ?u, hex::binary-size(4), rest::binary>> = all, done) do
    case Integer.parse(hex, 16) do
      {c, ""} when c not in 0xD800..0xDFFF -> string(rest, [<<c::utf8>> | done])
      _ -> throw({:at, all, "an escape that is not supported"})
    end
  end

  for {letter, c} <- [{?", ?"}, {?\\, ?\\}, {?/, ?/}, {?b, ?\b}, {?f, ?\f}, {?n, ?\n}, {?r, ?\r}, {?t, ?\t}] do
    defp string(<<?\\, unquote(letter), rest::binary>>, done), do: string(rest, [unquote(<<c>>) | done])
  end

  defp string(<<c::utf8, rest::binary>>, done) when c >= 0x20 and c != ?\\,
    do: string(rest, [<<c::utf8>> | done])

  defp string(rest, _done), do: throw({:at, rest, "a string that does not end, or is no UTF-8"})

  defp number(rest) do
    case Regex.run(~r/\A-?(?:0|[1-9]\d{0,400})(\.\d{1,400})?([eE][+-]?\d{1,4})?/, rest) do
      nil ->
        throw({:at, rest, "expected a value"})

      [text] ->
        {String.to_integer(text), binary_part(rest, byte_size(text), byte_size(rest) - byte_size(text))}

      [text | _] ->
        {float(text, rest), binary_part(rest, byte_size(text), byte_size(rest) - byte_size(text))}
    end
  end

  defp float(text, rest) do
    case Float.parse(text) do
      {x, ""} -> x
      _ -> throw({:at, rest, "a number out of range"})
    end
  rescue
    ArgumentError -> throw({:at, rest, "a number out of range"})
  end
end
