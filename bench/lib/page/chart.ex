defmodule Snakepit.Bench.Chart do
  @moduledoc false
  # A line chart on logarithmic axes, as SVG. Pure. Colours are Okabe and Ito's, which the colour-blind can tell apart;
  # series also have names at their ends and points that say their values.

  @enforce_keys [:id, :title, :x, :y, :series]
  defstruct [:id, :title, :x, :y, :series, note: nil, bands: [], lead?: true, rule: nil, floors: []]

  @typedoc """
  `x` and `y` are a label and how to write a value. A series is `{name, [{x, y, low, high}]}`; the first one
  stands out, if there is one to `lead?`. `floors` names the series whose lines are grey and broken. A band is
  `{from, to, words}` on the x axis, a `rule` a line across at one y.
  """
  @type t :: %__MODULE__{
          id: String.t(),
          title: String.t(),
          x: {String.t(), (number() -> String.t())},
          y: {String.t(), (number() -> String.t())},
          series: [{String.t(), [{number(), number(), number(), number()}]}],
          note: String.t() | nil,
          lead?: boolean(),
          rule: number() | nil,
          floors: [String.t()],
          bands: [{number(), number(), String.t()}]
        }

  @width 900
  @height 460
  @left 76
  @right 250
  @top 46
  @bottom 62
  @colours ~w(#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #A6761D #8C564B #5B3FA0 #2A2A2A)
  @grey "#999999"
  @label_gap 15

  @doc "An SVG document of its own, on white."
  @spec svg(t()) :: iodata()
  def svg(%__MODULE__{} = chart) do
    scale = scale(chart)

    [
      ~s(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{@width} #{@height}" role="img" aria-labelledby="#{chart.id}-t" ),
      ~s(font-family="system-ui, sans-serif" font-size="12">\n),
      ~s(<title id="#{chart.id}-t">#{text(chart.title)}</title>\n),
      ~s(<rect width="#{@width}" height="#{@height}" fill="#fff"/>\n),
      ~s(<text x="#{@left}" y="22" font-size="15" font-weight="600" fill="#222">#{text(chart.title)}</text>\n),
      if(chart.note, do: ~s(<text x="#{@left}" y="38" fill="#666">#{text(chart.note)}</text>\n), else: ""),
      bands(chart, scale),
      axis_x(chart, scale),
      axis_y(chart, scale),
      rule(chart, scale),
      chart.series |> Enum.with_index() |> Enum.reverse() |> Enum.map(&series(&1, chart, scale)),
      labels(chart, scale),
      "</svg>\n"
    ]
  end

  # ---- scales -----------------------------------------------------------------------------------------------------

  defp scale(chart) do
    points = Enum.flat_map(chart.series, &elem(&1, 1))
    {x0, x1} = points |> Enum.map(&elem(&1, 0)) |> Enum.map(&positive/1) |> Enum.min_max()

    {y0, y1} =
      points
      |> Enum.flat_map(fn {_, y, low, high} -> [y, low, high] end)
      |> Enum.map(&positive/1)
      |> Enum.min_max()

    {y0, y1} = {:math.pow(10, Float.floor(:math.log10(y0))), :math.pow(10, Float.ceil(:math.log10(y1)))}
    {x1, y1} = {max(x1, 2 * x0), max(y1, 10 * y0)}

    %{
      x: fn x -> @left + (@width - @left - @right) * share(positive(x), x0, x1) end,
      y: fn y -> @height - @bottom - (@height - @top - @bottom) * share(positive(y), y0, y1) end,
      x0: x0,
      x1: x1,
      y0: y0,
      y1: y1
    }
  end

  # A logarithmic axis has no place for zero, which is drawn at 8.
  defp positive(n) when n > 0, do: n
  defp positive(_zero), do: 8

  defp share(n, from, to), do: (:math.log(n) - :math.log(from)) / (:math.log(to) - :math.log(from))

  # ---- axes -------------------------------------------------------------------------------------------------------

  defp axis_x(chart, scale) do
    {label, write} = chart.x

    ticks =
      chart.series
      |> Enum.flat_map(fn {_, points} -> Enum.map(points, &elem(&1, 0)) end)
      |> Enum.uniq()
      |> Enum.sort()
      |> thin(scale)

    [
      for x <- ticks do
        at = px(scale.x.(x))

        ~s(<line x1="#{at}" x2="#{at}" y1="#{@top}" y2="#{@height - @bottom}" stroke="#eee"/>) <>
          ~s(<text x="#{at}" y="#{@height - @bottom + 18}" text-anchor="middle" fill="#444">#{text(write.(x))}</text>\n)
      end,
      ~s(<text x="#{div(@left + @width - @right, 2)}" y="#{@height - 16}" text-anchor="middle" fill="#444">#{text(label)}</text>\n)
    ]
  end

  # No two closer than their words are wide.
  defp thin(ticks, scale) do
    {kept, _} =
      Enum.reduce(ticks, {[], -1.0e9}, fn x, {kept, last} ->
        at = scale.x.(x)
        if at - last >= 58, do: {[x | kept], at}, else: {kept, last}
      end)

    Enum.reverse(kept)
  end

  defp axis_y(chart, scale) do
    {label, write} = chart.y
    powers = round(:math.log10(scale.y0))..round(:math.log10(scale.y1))

    [
      for power <- powers do
        y = :math.pow(10, power)
        at = px(scale.y.(y))

        ~s(<line x1="#{@left}" x2="#{@width - @right}" y1="#{at}" y2="#{at}" stroke="#ddd"/>) <>
          ~s(<text x="#{@left - 8}" y="#{px(scale.y.(y) + 4)}" text-anchor="end" fill="#444">#{text(write.(y))}</text>\n)
      end,
      ~s|<text transform="translate(16 #{div(@top + @height - @bottom, 2)}) rotate(-90\)" text-anchor="middle" fill="#444">#{text(label)}</text>\n|
    ]
  end

  defp bands(chart, scale) do
    for {from, to, words} <- chart.bands do
      {a, b} = {scale.x.(max(from, scale.x0)), scale.x.(min(to, scale.x1))}

      ~s(<rect x="#{px(a)}" y="#{@top}" width="#{px(max(b - a, 1))}" height="#{@height - @top - @bottom}" fill="#0072B2" opacity="0.08"/>) <>
        ~s(<text x="#{px((a + b) / 2)}" y="#{@top + 14}" text-anchor="middle" fill="#0072B2">#{text(words)}</text>\n)
    end
  end

  defp rule(%{rule: nil}, _scale), do: ""

  defp rule(%{rule: y}, scale) do
    at = px(scale.y.(y))

    ~s(<line x1="#{@left}" x2="#{@width - @right}" y1="#{at}" y2="#{at}" stroke="#222" stroke-dasharray="5 4"/>\n)
  end

  # ---- series -----------------------------------------------------------------------------------------------------

  defp series({{name, points}, i}, chart, scale) do
    points = Enum.sort(points)
    colour = colour(name, i, chart)
    width = if i == 0 and chart.lead?, do: 3, else: 1.6
    dashes = if name in chart.floors, do: ~s( stroke-dasharray="3 4"), else: ""
    {_, write_x} = chart.x
    {_, write_y} = chart.y

    [
      ~s(<g stroke="#{colour}" fill="none">),
      for {x, _y, low, high} <- points, low < high do
        ~s(<line x1="#{px(scale.x.(x))}" x2="#{px(scale.x.(x))}" y1="#{px(scale.y.(low))}" y2="#{px(scale.y.(high))}" opacity="0.5"/>)
      end,
      ~s(<polyline stroke-width="#{width}"#{dashes} stroke-linejoin="round" points="),
      Enum.map_join(points, " ", fn {x, y, _, _} -> "#{px(scale.x.(x))},#{px(scale.y.(y))}" end),
      ~s("/></g>),
      for {x, y, low, high} <- points do
        words = "#{name}, #{write_x.(x)}: #{write_y.(y)} (#{write_y.(low)} to #{write_y.(high)})"

        ~s(<circle cx="#{px(scale.x.(x))}" cy="#{px(scale.y.(y))}" r="3" fill="#{colour}"><title>#{text(words)}</title></circle>)
      end,
      "\n"
    ]
  end

  # The first colour is the leader's, in every chart.
  defp colour(name, i, %{lead?: lead?, floors: floors}) do
    if name in floors,
      do: @grey,
      else: Enum.at(@colours, rem(if(lead?, do: i, else: i + 1), length(@colours)))
  end

  # Each name beside its line's last point, moved so that none lies on another.
  defp labels(chart, scale) do
    ends =
      for {{name, points}, i} <- Enum.with_index(chart.series) do
        {x, y, _, _} = Enum.max_by(points, &elem(&1, 0))
        {scale.y.(y) + 4, scale.x.(x), name, i}
      end
      |> Enum.sort()

    {placed, _} =
      Enum.map_reduce(ends, -1.0e9, fn {y, x, name, i}, last ->
        with at = max(y, last + @label_gap), do: {{at, y, x, name, i}, at}
      end)

    over = max(0, (placed |> List.last() |> elem(0)) - (@height - @bottom))

    for {at, y, x, name, i} <- placed do
      at = at - over
      right = @width - @right + 14

      ~s(<line x1="#{px(x + 5)}" y1="#{px(y - 4)}" x2="#{right - 2}" y2="#{px(at - 4)}" stroke="#{colour(name, i, chart)}" opacity="0.4"/>) <>
        ~s(<text x="#{right}" y="#{px(at)}" fill="#{colour(name, i, chart)}"#{if i == 0 and chart.lead?, do: ~s( font-weight="700"), else: ""}>#{text(name)}</text>\n)
    end
  end

  defp px(n), do: :erlang.float_to_binary(n / 1, decimals: 1)

  @doc "Text as XML and HTML have it."
  @spec text(String.t()) :: String.t()
  def text(text) do
    text
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
    |> String.replace("\"", "&quot;")
  end
end
