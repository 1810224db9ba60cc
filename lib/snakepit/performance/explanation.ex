defmodule Snakepit.Performance.Explanation do
  @moduledoc """
  Which way calls of a pool would go, for every size, and why: what `Snakepit.explain/3` returns.

  | field | meaning |
  |---|---|
  | `pool`, `goal`, `data_type` | what was asked |
  | `request`, `reply` | ranges of sizes, `%{from:, to:, way:, reason:, latency_us:, runner_up:}`: `to` is exclusive, `latency_us` what the smallest and the largest size of the range take, `runner_up` the next best way and its times |
  | `crossover` | for each direction, where shared memory begins to be cheaper than any other way, with its 95 % interval: `{bytes, low, high}`; nil where not all sizes are measured, and so no interval is known |
  | `bound_cost` | what bounds and thresholds that somebody set cost against the measured best: `[%{direction:, from:, to:, way:, best:, factor:}]` |
  | `call` | for a call: its bytes, its ways in order, and why |

  `to_string/1` gives a table.
  """

  alias Snakepit.Performance
  alias Snakepit.Performance.{Model, Settings}
  alias Snakepit.Pool.Handle
  alias Snakepit.Terminal.{Table, Units}
  alias Snakepit.Transfer.{Payload, Plan}

  defstruct [:pool, :goal, :data_type, :call, request: [], reply: [], crossover: %{}, bound_cost: []]

  @type t :: %__MODULE__{
          pool: atom(),
          goal: atom(),
          data_type: Performance.data_type(),
          call: map() | nil,
          request: [map()],
          reply: [map()],
          crossover: %{
            optional(Performance.direction()) => {bytes :: number(), low :: number(), high :: number()} | nil
          },
          bound_cost: [map()]
        }

  # The sizes that are looked at: four to a doubling, as the table has them.
  @first 1024
  @last 1024 * 1024 * 1024
  @mib 1024 * 1024

  @doc false
  @spec new(Handle.t(), Performance.data_type(), map() | nil) :: t()
  def new(%Handle{} = handle, type, call) do
    %__MODULE__{
      pool: handle.name,
      goal: handle.performance.policy.goal,
      data_type: type,
      call: call,
      request: ranges(handle, :request, type),
      reply: ranges(handle, :reply, type),
      crossover: Map.new([:request, :reply], &{&1, Model.crossover(handle.performance, &1, type)}),
      bound_cost: Enum.flat_map([:request, :reply], &bound_cost(handle, &1, type))
    }
  end

  # ---- ranges -----------------------------------------------------------------------------------------------------

  defp ranges(handle, direction, type) do
    for [first | _] = chunk <- handle |> cells(direction, type) |> Enum.chunk_by(&{&1.way, &1.reason}) do
      last = List.last(chunk)

      %{
        from: first.size,
        to: last.next,
        way: first.way,
        reason: first.reason,
        latency_us: {first.us[first.way], last.us[first.way]},
        runner_up: first.second && {first.second, first.us[first.second], last.us[first.second]}
      }
    end
  end

  defp cells(handle, direction, type) do
    borders = borders(handle, direction, type)

    for {size, next} <- Model.bins(@first, @last),
        [from, to] <-
          Enum.chunk_every([size] ++ for(b <- borders, b > size, b < next, do: b) ++ [next], 2, 1, :discard),
        do: handle |> cell(direction, type, from) |> Map.put(:next, to)
  end

  # The sizes inside of bins at which the table changes its mind.
  defp borders(%{performance: model}, direction, type) do
    {threshold, _reason} = Model.threshold(model, direction, type)
    bounds = [model.settings.minimum_threshold_mb, model.settings.maximum_threshold_mb]
    [threshold | Enum.map(bounds, &Settings.bytes/1)] |> Enum.reject(&is_nil/1) |> Enum.uniq() |> Enum.sort()
  end

  defp cell(handle, direction, type, size) do
    cell = Model.cell(handle.performance, direction, type, size)
    ways = Enum.filter(cell.order, &(&1 in handle.options.transfers))

    %{
      size: size,
      way: hd(ways),
      second: Enum.at(ways, 1),
      reason: cell.reason,
      confidence: cell.confidence,
      us: Map.new(cell.ns, fn {way, ns} -> {way, ns / 1000} end)
    }
  end

  # ---- bounds -----------------------------------------------------------------------------------------------------

  # Where a bound decides, and another way would be faster: by which factor, at worst.
  defp bound_cost(handle, direction, type) do
    measured =
      for way <- handle.options.transfers,
          line = %{direction: direction, way: way, type: type, size: @mib},
          Model.line(handle.performance, line).samples > 0,
          do: way

    handle
    |> cells(direction, type)
    |> Enum.map(&dearer(&1, measured))
    |> Enum.chunk_by(&(&1 && {&1.way, &1.best}))
    |> Enum.reject(&(hd(&1) == nil))
    |> Enum.map(fn chunk ->
      %{hd(chunk) | to: List.last(chunk).to, factor: chunk |> Enum.map(& &1.factor) |> Enum.max()}
      |> Map.put(:direction, direction)
    end)
  end

  # Against what was measured: an assumption is no loss.
  defp dearer(%{reason: reason, way: way} = cell, measured)
       when reason in [:below_minimum, :above_maximum, :override] do
    best = Enum.min_by(measured, &cell.us[&1], fn -> way end)
    factor = cell.us[way] / cell.us[best]

    if way in measured and factor > 1.05,
      do: %{from: cell.size, to: cell.next, way: way, best: best, factor: factor}
  end

  defp dearer(_cell, _measured), do: nil

  # ---- words ------------------------------------------------------------------------------------------------------

  @doc false
  @spec format(t()) :: iodata()
  def format(%__MODULE__{} = e) do
    [
      "Pool #{inspect(e.pool)}, goal #{e.goal}, data of type #{e.data_type}\n",
      call(e.call),
      "\n",
      table("Arguments", e.request),
      crossover(e.request, e.crossover[:request]),
      "\n",
      table("Results", e.reply),
      crossover(e.reply, e.crossover[:reply]),
      Enum.map(e.bound_cost, &bound/1)
    ]
  end

  defp call(nil), do: []

  defp call(call) do
    [
      "\n#{call.command}: #{Units.bytes(call.bytes)} beside an envelope of #{Units.bytes(call.envelope)}",
      if(call.fresh < call.bytes,
        do: ", of which #{Units.bytes(call.bytes - call.fresh)} lie in shared memory already",
        else: ""
      ),
      "\nIt would go by #{hd(call.ways)}: #{call.reason}",
      case tl(call.ways) do
        [] -> "\n"
        others -> "\nShould that fail: #{Enum.join(others, ", then ")}\n"
      end
    ]
  end

  defp table(title, ranges) do
    columns = [
      {title, :left},
      {"way", :left},
      {"takes", :right},
      {"next best", :left},
      {"", :right},
      {"why", :left}
    ]

    rows =
      for r <- ranges do
        {low, high} = r.latency_us
        {second, s_low, s_high} = r.runner_up || {"", nil, nil}
        size = "#{Units.bytes(r.from)} – #{if r.to >= @last, do: "…", else: Units.bytes(r.to)}"

        [
          size,
          to_string(r.way),
          span(low, high),
          to_string(second),
          span(s_low, s_high),
          Plan.words(r.reason)
        ]
      end

    Table.format(columns, rows)
  end

  defp span(nil, nil), do: ""
  defp span(low, high), do: "#{Units.time(low * 1000)} – #{Units.time(high * 1000)}"

  # The crossover that the table above this line shows, and how certain it is.
  defp crossover(ranges, known) do
    first = ranges |> Enum.reverse() |> Enum.take_while(&(&1.way == :zero_copy)) |> List.last()

    [
      taken(first, Enum.any?(ranges, &(&1.way == :zero_copy))),
      "; ",
      evidence(known, first && first.reason),
      ".\n"
    ]
  end

  defp taken(nil, false), do: "Shared memory is taken at no size"
  defp taken(nil, true), do: "Shared memory is not taken for the largest"
  defp taken(%{from: @first}, _any?), do: "Shared memory is taken at every size"
  defp taken(%{from: from}, _any?), do: "Shared memory is taken from #{Units.bytes(from)} on"

  defp evidence({size, low, high}, _reason),
    do: "it is cheapest from #{Units.bytes(size)} on (95 %: #{Units.bytes(low)} to #{Units.bytes(high)})"

  # An interval needs measurements of every size.
  defp evidence(nil, reason) when reason in [:cheapest, :tie],
    do: "this was measured, and has no interval until all sizes are"

  defp evidence(nil, reason) when reason in [:below_minimum, :above_maximum, :override],
    do: "this was set; from where on it is cheapest is not known"

  defp evidence(nil, _reason), do: "from where on it is cheapest is not known"

  defp bound(b) do
    "Bounds that were set cost: #{b.direction} of #{Units.bytes(b.from)} to #{Units.bytes(b.to)} by #{b.way} take up to " <>
      "#{Units.digits(b.factor)} times as long as by #{b.best}.\n"
  end

  @doc false
  # A call's plan, for `new/3`.
  @spec call(Handle.t(), String.t(), Payload.t(), Plan.t()) :: map()
  def call(handle, command, payload, plan) do
    %{
      command: command,
      data_type: payload.type,
      bytes: payload.bytes,
      fresh: payload.fresh,
      count: payload.count,
      envelope: payload.envelope,
      ways: plan.request,
      reason: reason(handle, payload, plan)
    }
  end

  defp reason(_handle, _payload, %Plan{predicted: nil} = plan), do: Plan.words(plan.reason) <> "."

  defp reason(handle, payload, plan) do
    times = Enum.map_join(handle.options.transfers, ", ", &"#{&1} #{Units.time(Plan.predicted(plan, &1))}")

    each = if payload.count == 1, do: "", else: " for each of #{payload.count} of this size"
    "#{Plan.words(plan.reason)}. Expected#{each}: #{times}."
  end

  defimpl String.Chars do
    def to_string(explanation),
      do: explanation |> Snakepit.Performance.Explanation.format() |> IO.iodata_to_binary()
  end
end
