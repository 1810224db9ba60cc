defmodule Snakepit.Error.Text do
  @moduledoc false
  # Shortens text from outside, so that it can be read. Pure. Sizes are bytes, and no function reads all of a huge text.

  @doc "The text, or its two ends with a note between them where it is longer than `limit` bytes."
  @spec cut(String.t(), pos_integer()) :: String.t()
  def cut(text, limit) when byte_size(text) <= limit, do: text

  def cut(text, limit) do
    half = div(limit, 2)
    head = text |> binary_part(0, half) |> without_broken_end()
    tail = text |> binary_part(byte_size(text) - half, half) |> without_broken_start()
    head <> "\n… #{byte_size(text) - byte_size(head) - byte_size(tail)} bytes left out …\n" <> tail
  end

  @doc "The lines, or the first and last of them with a note between."
  @spec cut_lines([String.t()], first :: non_neg_integer(), last :: non_neg_integer()) :: [String.t()]
  def cut_lines(lines, first, last) do
    count = length(lines)

    if count <= first + last + 1,
      do: lines,
      else:
        Enum.take(lines, first) ++ ["… #{count - first - last} lines left out …" | Enum.take(lines, -last)]
  end

  @doc "The line, or its beginning, `limit` characters at most."
  @spec shorten(String.t(), pos_integer()) :: String.t()
  def shorten(line, limit) when byte_size(line) <= limit, do: line

  def shorten(line, limit) do
    # No more than four bytes a character.
    line =
      if byte_size(line) > 4 * limit,
        do: line |> binary_part(0, 4 * limit) |> without_broken_end(),
        else: line

    if String.length(line) <= limit, do: line, else: String.slice(line, 0, limit - 1) <> "…"
  end

  @doc """
  The line in pieces of `width` characters at most, broken between words where there are any.

      iex> Snakepit.Error.Text.wrap("one two three", 8)
      ["one two", "three"]
  """
  @spec wrap(String.t(), pos_integer()) :: [String.t(), ...]
  def wrap(line, width) when byte_size(line) <= width, do: [line]

  def wrap(line, width) do
    {lines, last} =
      line
      |> String.split(" ")
      |> Enum.flat_map(&pieces(&1, width))
      |> Enum.reduce({[], nil}, fn
        word, {lines, nil} ->
          {lines, word}

        word, {lines, current} ->
          longer = current <> " " <> word
          if String.length(longer) <= width, do: {lines, longer}, else: {[current | lines], word}
      end)

    Enum.reverse([last | lines])
  end

  defp pieces(word, width) do
    if String.length(word) <= width do
      [word]
    else
      {piece, rest} = String.split_at(word, width)
      [piece | pieces(rest, width)]
    end
  end

  # A character has at most four bytes. Text that is not UTF-8 is left as it is.
  defp without_broken_end(text), do: broken(text, 0, fn n -> binary_part(text, 0, byte_size(text) - n) end)

  @doc "The text without the rest of a character at its start."
  @spec without_broken_start(String.t()) :: String.t()
  def without_broken_start(text), do: broken(text, 0, fn n -> binary_part(text, n, byte_size(text) - n) end)

  defp broken(text, n, _part) when n > 3, do: text
  defp broken(text, n, _part) when n >= byte_size(text), do: ""

  defp broken(text, n, part) do
    shorter = part.(n)
    if String.valid?(shorter), do: shorter, else: broken(text, n + 1, part)
  end
end
