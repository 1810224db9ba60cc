defmodule Snakepit.Bench.Page do
  @moduledoc false
  # A run as one HTML file that needs nothing else: what was measured where, the charts, every figure. Pure.

  alias Snakepit.Bench.{Chart, Compare, Pictures, Result}
  alias Snakepit.Terminal.Units
  import Chart, only: [text: 1]

  @style """
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { margin-top: 2.5rem; }
  .about { color: #777; margin-top: .2rem; }
  svg { width: 100%; height: auto; margin: 1rem 0; border-radius: 6px; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-size: .9rem; }
  th, td { padding: .25rem .6rem; border-bottom: 1px solid #8883; text-align: left; white-space: nowrap; }
  td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
  .met { color: #00875a; } .missed, .worse { color: #c8401a; font-weight: 600; } .better { color: #00875a; }
  """

  @doc "The page. `comparison` is with an earlier run, if there is one."
  @spec html(map(), [Compare.t()] | nil) :: iodata()
  def html(%{machine: machine, results: results} = run, comparison \\ nil) do
    [
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">",
      ~s(<meta name="viewport" content="width=device-width, initial-scale=1">),
      # A browser asks for an icon otherwise, and complains that there is none.
      ~s(<link rel="icon" href="data:,">),
      "<title>Snakepit bench</title><style>",
      @style,
      "</style></head><body>\n<h1>Snakepit bench</h1>\n",
      ~s(<p class="about">#{text(about(machine))}</p>\n),
      if(run.complete?,
        do: "",
        else: "<p><strong>The run was broken off: this is what was done.</strong></p>\n"
      ),
      for(chart <- Pictures.charts(results), do: ["<figure>", Chart.svg(chart), "</figure>\n"]),
      compared(comparison),
      for({suite, results} <- Result.by_suite(results), do: table(suite, results)),
      "<p class=\"about\">Every figure is a median with its 95 % bootstrap interval unless bench/README.md says otherwise.</p>\n",
      "</body></html>\n"
    ]
  end

  defp about(machine) do
    machine = Map.new(machine, fn {key, value} -> {to_string(key), value} end)

    [
      machine["date"],
      machine["cpu"],
      Units.counted(machine["cores"], "core"),
      is_integer(machine["memory_bytes"]) && Units.bytes(machine["memory_bytes"]),
      "kernel #{machine["kernel"]}",
      "OTP #{machine["otp"]}",
      "Elixir #{machine["elixir"]}",
      "Snakepit #{machine["snakepit"]}"
    ]
    |> Enum.filter(&is_binary/1)
    |> Enum.join(" · ")
  end

  defp table(suite, results) do
    [
      "<h2>#{text(suite)}</h2>\n<div class=\"wide\"><table><tr><th>figure</th><th class=\"n\">median</th><th></th>",
      "<th>95 %</th><th>target</th><th></th></tr>\n",
      Enum.map(results, &row/1),
      "</table></div>\n"
    ]
  end

  defp row(%Result{absent: why} = r) when why != nil,
    do: "<tr><td>#{text(r.name)}</td><td colspan=\"5\">absent: #{text(why)}</td></tr>\n"

  defp row(r) do
    interval = if r.low == r.high, do: "", else: "#{Units.digits(r.low)} … #{Units.digits(r.high)}"

    {word, class} =
      case Result.met?(r) do
        nil -> {"", ""}
        true -> {"met", "met"}
        false -> {"missed", "missed"}
      end

    "<tr><td>#{text(r.name)}</td><td class=\"n\">#{Units.digits(r.value)}</td><td>#{text(r.unit)}</td><td>#{interval}</td>" <>
      "<td>#{Result.target_words(r)}</td><td class=\"#{class}\">#{word}</td></tr>\n"
  end

  defp compared(nil), do: ""

  defp compared(comparison) do
    [
      "<h2>Against the earlier run</h2>\n<div class=\"wide\"><table><tr><th>figure</th><th class=\"n\">before</th>",
      "<th class=\"n\">now</th><th></th><th class=\"n\">ratio</th><th>interval</th><th></th></tr>\n",
      for c <- comparison do
        "<tr><td>#{text(c.name)}</td><td class=\"n\">#{Units.digits(c.before)}</td><td class=\"n\">#{Units.digits(c.now)}</td>" <>
          "<td>#{text(c.unit)}</td><td class=\"n\">#{Units.digits(c.ratio)}</td>" <>
          "<td>#{Units.digits(c.low)} … #{Units.digits(c.high)}</td><td class=\"#{c.verdict}\">#{c.verdict}</td></tr>\n"
      end,
      "</table></div>\n"
    ]
  end
end
