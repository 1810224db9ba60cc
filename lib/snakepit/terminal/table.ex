defmodule Snakepit.Terminal.Table do
  @moduledoc false
  # Rows of text under a header, in columns as wide as their widest cell.

  alias Snakepit.Terminal.Name

  @type column :: {title :: String.t(), :left | :right}

  @doc "The table, with a line break after each row."
  @spec format([column()], [[String.t()]]) :: iodata()
  def format(columns, rows) do
    titles = Enum.map(columns, &elem(&1, 0))
    widths = widths([titles | rows])
    rule = Enum.map(widths, &String.duplicate("─", &1))
    for line <- [titles, rule | rows], do: [row(line, columns, widths), "\n"]
  end

  @doc "The rows with their first cells shortened, so that the table is no wider than `width`."
  @spec fit([column()], [[String.t()]], pos_integer()) :: [[String.t()]]
  def fit(columns, rows, width) do
    [_first | others] = widths([Enum.map(columns, &elem(&1, 0)) | rows])
    room = max(width - Enum.sum(others) - 2 * length(others), 10)
    for [first | rest] <- rows, do: [Name.shorten(first, room) | rest]
  end

  defp widths(lines),
    do: Enum.zip_with(lines, fn cells -> cells |> Enum.map(&String.length/1) |> Enum.max() end)

  defp row(cells, columns, widths) do
    [cells, columns, widths]
    |> Enum.zip_with(fn
      [cell, {_, :left}, width] -> String.pad_trailing(cell, width)
      [cell, {_, :right}, width] -> String.pad_leading(cell, width)
    end)
    |> Enum.join("  ")
    |> String.trim_trailing()
  end
end
