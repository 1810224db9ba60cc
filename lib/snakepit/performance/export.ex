defmodule Snakepit.Performance.Export do
  @moduledoc false
  # Transfers as NDJSON: an object a line, in the fields of `Snakepit.Performance.TransferMetrics`.

  alias Snakepit.Performance.TransferMetrics

  @doc "Writes them; what the file held before is replaced once all are there."
  @spec write(Path.t(), [TransferMetrics.t()]) :: :ok | {:error, File.posix()}
  def write(path, metrics) do
    part = "#{path}.#{System.pid()}.#{System.unique_integer([:positive])}"

    with :ok <- File.write(part, Enum.map(metrics, &[line(&1), ?\n])) do
      with {:error, reason} <- File.rename(part, path) do
        File.rm(part)
        {:error, reason}
      end
    end
  end

  @doc "One of them, without a line break."
  @spec line(TransferMetrics.t()) :: iodata()
  def line(%TransferMetrics{} = metrics) do
    fields =
      for {key, value} <- metrics |> Map.from_struct() |> Enum.sort(), do: [string(key), ?:, value(value)]

    [?{, Enum.intersperse(fields, ?,), ?}]
  end

  defp value(nil), do: "null"
  defp value(bool) when is_boolean(bool), do: Atom.to_string(bool)
  defp value(%DateTime{} = time), do: string(DateTime.to_iso8601(time))
  defp value(number) when is_integer(number), do: Integer.to_string(number)
  defp value(number) when is_float(number), do: :erlang.float_to_binary(number, [:short])
  defp value(word) when is_atom(word) or is_binary(word), do: string(word)

  # RFC 8259, section 7.
  defp string(word) do
    escaped = for <<char::utf8 <- to_string(word)>>, into: "", do: escape(char)
    [?", escaped, ?"]
  end

  defp escape(?"), do: "\\\""
  defp escape(?\\), do: "\\\\"
  defp escape(char) when char < 0x20, do: "\\u" <> String.pad_leading(Integer.to_string(char, 16), 4, "0")
  defp escape(char), do: <<char::utf8>>
end
