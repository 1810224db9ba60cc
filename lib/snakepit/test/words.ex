defmodule Snakepit.Test.Words do
  @moduledoc false
  # The error messages of Snakepit's Python side (priv/python/snakepit/support/errors.py), in the same words. Pure.

  @most_near 3
  @nearness 0.5
  @most_names 10

  @doc "`; did you mean …?`, or an empty text if no known word is near."
  @spec did_you_mean(String.t(), [String.t()]) :: String.t()
  def did_you_mean(word, known) do
    case nearest(word, known) do
      [] -> ""
      near -> "; did you mean #{Enum.join(near, " or ")}?"
    end
  end

  @doc "Up to three of the known words that the given one may have meant, as Python's difflib finds them."
  @spec nearest(String.t(), [String.t()]) :: [String.t()]
  def nearest(word, known) do
    known
    |> Enum.map(&{likeness(&1, word), &1})
    |> Enum.filter(fn {likeness, _} -> likeness >= @nearness end)
    |> Enum.sort(:desc)
    |> Enum.take(@most_near)
    |> Enum.map(&elem(&1, 1))
  end

  # Twice the letters that both have in the same order, over all letters.
  defp likeness("", ""), do: 1.0

  defp likeness(a, b) do
    {a, b} = {String.to_charlist(a), String.to_charlist(b)}
    2.0 * common(a, b) / (length(a) + length(b))
  end

  # Those of the longest run that both have, and of what is before it and behind it.
  defp common([], _b), do: 0
  defp common(_a, []), do: 0

  defp common(a, b) do
    case longest(a, b) do
      {0, _, _} ->
        0

      {size, i, j} ->
        size + common(Enum.take(a, i), Enum.take(b, j)) +
          common(Enum.drop(a, i + size), Enum.drop(b, j + size))
    end
  end

  # The first of the longest runs, as difflib takes it.
  defp longest(a, b) do
    runs =
      for i <- 0..(length(a) - 1), j <- 0..(length(b) - 1) do
        {run(Enum.drop(a, i), Enum.drop(b, j)), i, j}
      end

    Enum.max_by(runs, fn {size, i, j} -> {size, -i, -j} end)
  end

  defp run([x | a], [x | b]), do: 1 + run(a, b)
  defp run(_a, _b), do: 0

  @doc "The first ten, and how many more there are."
  @spec some_of([String.t()]) :: String.t()
  def some_of(names) do
    {first, more} = Enum.split(names, @most_names)
    Enum.join(first, ", ") <> if(more == [], do: "", else: " and #{length(more)} more")
  end

  @doc "A value as Python's `repr` writes it; `...` for a value that is not plain."
  @spec repr(term()) :: String.t()
  def repr(nil), do: "None"
  def repr(true), do: "True"
  def repr(false), do: "False"
  def repr(number) when is_number(number), do: to_string(number)

  def repr(text) when is_binary(text) do
    quote_ = if String.contains?(text, "'") and not String.contains?(text, "\""), do: "\"", else: "'"
    escaped = text |> String.replace("\\", "\\\\") |> String.replace("\n", "\\n")
    quote_ <> if(quote_ == "'", do: String.replace(escaped, "'", "\\'"), else: escaped) <> quote_
  end

  def repr(_other), do: "..."

  @doc "A step of a path into arguments."
  @spec step(String.t() | integer()) :: String.t()
  def step(key), do: "[#{inspect(key)}]"
end
