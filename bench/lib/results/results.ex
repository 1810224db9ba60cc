defmodule Snakepit.Bench.Results do
  @moduledoc false
  # The figures of a run in a file, and read from one.

  alias Snakepit.Bench.{Json, Result}

  @type t :: %{machine: map(), results: [Result.t()], complete?: boolean()}

  @largest 16 * 1024 * 1024

  @doc "Whole or not at all: a run that is broken off leaves what it had written before."
  @spec write!(Path.t(), t()) :: :ok
  def write!(path, run) do
    part = path <> ".part"
    File.write!(part, [Json.encode(%{run | results: Enum.map(run.results, &fields/1)}), "\n"])
    File.rename!(part, path)
  end

  defp fields(%Result{absent: why} = r) when why != nil, do: %{name: r.name, absent: why}

  defp fields(r) do
    fields = %{name: r.name, value: r.value, unit: r.unit, low: r.low, high: r.high}
    if r.target, do: Map.put(fields, :target, %{elem(r.target, 0) => elem(r.target, 1)}), else: fields
  end

  @doc "The run that `write!/2` wrote, in this version or an earlier one."
  @spec read(Path.t()) :: {:ok, t()} | {:error, String.t()}
  def read(path) do
    with {:ok, %{size: size}} when size <= @largest <- File.stat(path),
         {:ok, text} <- File.read(path),
         {:ok, %{"machine" => %{} = machine, "results" => results} = run} when is_list(results) <-
           Json.decode(text),
         results = Enum.map(results, &result/1),
         false <- nil in results do
      {:ok, %{machine: machine, results: results, complete?: Map.get(run, "complete?", true)}}
    else
      {:error, reason} when is_atom(reason) -> {:error, "#{path}: #{:file.format_error(reason)}"}
      {:error, why} -> {:error, "#{path} is no file of mix snakepit.bench --json: #{why}"}
      _ -> {:error, "#{path} is no file of mix snakepit.bench --json"}
    end
  end

  defp result(%{"name" => name, "absent" => why}) when is_binary(name) and is_binary(why),
    do: Result.absent(name, why)

  defp result(%{"name" => name, "value" => value, "unit" => unit, "low" => low, "high" => high} = fields)
       when is_binary(name) and is_number(value) and is_binary(unit) and is_number(low) and is_number(high),
       do: %Result{
         name: name,
         value: value,
         unit: unit,
         low: low,
         high: high,
         target: target(fields["target"])
       }

  defp result(_other), do: nil

  defp target(%{"at_most" => n}) when is_number(n), do: {:at_most, n}
  defp target(%{"at_least" => n}) when is_number(n), do: {:at_least, n}
  defp target(%{"interval_holds" => n}) when is_number(n), do: {:interval_holds, n}
  defp target(_none), do: nil
end
