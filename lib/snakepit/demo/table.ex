defmodule Snakepit.Demo.Table do
  @moduledoc false
  # Rows of text under a header, in columns as wide as their widest cell.

  @type column :: {title :: String.t(), :left | :right}

  @doc "The table, with a line break after each row."
  @spec format([column()], [[String.t()]]) :: iodata()
  def format(columns, rows) do
    titles = Enum.map(columns, &elem(&1, 0))
    lines = [titles | rows]
    widths = lines |> Enum.zip_with(fn cells -> cells |> Enum.map(&String.length/1) |> Enum.max() end)
    rule = Enum.map(widths, &String.duplicate("─", &1))
    for line <- [titles, rule | rows], do: [row(line, columns, widths), "\n"]
  end

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
