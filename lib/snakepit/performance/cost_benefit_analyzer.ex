defmodule Snakepit.Performance.CostBenefitAnalyzer do
  @moduledoc """
  What each way would cost a transfer, and why one of them is recommended.

  Times are microseconds, sizes bytes. A way's `total_cost` is one weighted sum, by the pool's goal, of its latency, the CPU
  time both sides burn and the memory held meanwhile, each counted once; it is compared, and means nothing by itself.
  """

  alias Snakepit.{Error, Performance, Transfer}
  alias Snakepit.Performance.{Model, ResourceMonitor}
  alias Snakepit.Pool.Handle
  alias Snakepit.Terminal.Units
  alias Snakepit.Transfer.Plan

  @typedoc """
  `data_size` is required. `data_type` (`:binary`), `direction` (`:request`), `warm` (whether shared memory is at hand;
  `true`) and `pool` (the default one) are not.
  """
  @type data_characteristics :: %{required(:data_size) => non_neg_integer(), optional(atom()) => term()}

  @doc """
  Compares the ways that the pool allows.

      {:ok, %{
        recommendation: :zero_copy,
        confidence: 0.98,
        methods: %{
          zero_copy: %{estimated_latency_us: 31.0, latency_interval_us: {29.8, 32.3}, estimated_memory: 262_144,
                       estimated_cpu_us: 40.1, setup_overhead_us: 17.2, cleanup_overhead_us: 0.0, total_cost: 33.7,
                       samples: 120},
          inline: %{…, serialization_overhead_us: 52.9, …},
          grpc: %{…}
        },
        rationale: "…",
        factors: %{data_size: 262_144, system_load: nil, available_memory: nil, historical_performance: :good}
      }}

  `setup_overhead_us` is what a transfer by shared memory takes whatever its size, `serialization_overhead_us` what a message
  takes for its bytes. `cleanup_overhead_us` is 0: a slot that is done with is named in the next frame. `samples` is 0 for a
  way that was never measured, whose numbers are assumptions. Times are those of usual calls: what the machine's present drift factor
  makes of them is in `Snakepit.Performance.Controller.get_statistics/1`.

  `system_state` may have `cpu_pressure` and `memory_pressure` (booleans), by which the ways are weighed, and `system_load`
  (share of the CPUs) and `available_memory` (bytes), which the answer repeats; what it does not say is as
  `Snakepit.Performance.ResourceMonitor` has it.
  """
  @spec analyze(data_characteristics(), map()) :: {:ok, map()} | {:error, Error.t()}
  def analyze(data, system_state \\ %{}) do
    with {:ok, handle, facts} <- facts(data) do
      system_state = Map.merge(present(), system_state)

      load = load(system_state)
      prices = prices(handle, facts, load)
      options = [warm: facts.warm, load: load]
      cell = Model.cell(handle.performance, facts.direction, facts.type, facts.size, options)
      first = Enum.find(cell.order, &(&1 in handle.options.transfers))
      methods = Map.new(handle.options.transfers, &{&1, method(&1, prices, handle, facts)})

      {:ok,
       %{
         recommendation: first,
         confidence: cell.confidence,
         methods: methods,
         rationale: rationale(first, cell.reason, methods, facts, handle.performance.policy.goal),
         factors: %{
           data_size: facts.size,
           system_load: system_state[:system_load],
           available_memory: system_state[:available_memory],
           historical_performance: history(handle)
         }
       }}
    end
  end

  defp load(state), do: {state[:cpu_pressure] == true, state[:memory_pressure] == true}

  defp present do
    now = ResourceMonitor.now()

    %{
      system_load: now.cpu,
      available_memory: now.available_memory,
      cpu_pressure: now.cpu_pressure?,
      memory_pressure: now.memory_pressure?
    }
  end

  @doc "The cost of one way: the map of `analyze/2` for it."
  @spec estimate_performance(Transfer.way(), data_characteristics()) :: {:ok, map()} | {:error, Error.t()}
  def estimate_performance(way, data) do
    with {:ok, handle, facts} <- facts(data) do
      if way in Transfer.ways(),
        do: {:ok, method(way, prices(handle, facts, load(present())), handle, facts)},
        else: refuse("expected a way to be one of #{list(Transfer.ways())}, got: #{inspect(way)}")
    end
  end

  @doc false
  # A pool's handle and what is asked of it, checked.
  @spec facts(data_characteristics()) :: {:ok, Handle.t(), map()} | {:error, Error.t()}
  def facts(%{data_size: size} = data) when is_integer(size) and size >= 0 do
    type = Map.get(data, :data_type, :binary)
    direction = Map.get(data, :direction, :request)

    with {:ok, handle} <- Handle.fetch(data[:pool] || Handle.default()) do
      cond do
        type not in Performance.data_types() ->
          refuse("expected :data_type to be one of #{list(Performance.data_types())}, got: #{inspect(type)}")

        direction not in [:request, :reply] ->
          refuse("expected :direction to be :request or :reply, got: #{inspect(direction)}")

        true ->
          facts = %{size: size, type: type, direction: direction, warm: Map.get(data, :warm, true) == true}
          with :ok <- Performance.enabled(handle), do: {:ok, handle, facts}
      end
    end
  end

  def facts(other) do
    refuse("expected characteristics with :data_size, a number of bytes, got: #{inspect(other, limit: 5)}")
  end

  defp refuse(words), do: {:error, Error.new(:validation, :invalid_option, words)}
  defp list(names), do: Enum.map_join(names, ", ", &inspect/1)

  defp prices(handle, f, load),
    do: Model.prices(handle.performance, f.direction, f.type, f.size, f.warm, load)

  defp method(way, prices, handle, f) do
    %{^way => price} = prices
    line = Model.line(handle.performance, Map.put(f, :way, way))

    %{
      estimated_latency_us: us(price.ns),
      latency_interval_us: {us(price.low), us(price.high)},
      estimated_memory: round(price.bytes_held),
      estimated_cpu_us: us(price.cpu_ns),
      total_cost: us(price.cost),
      samples: price.samples
    }
    |> Map.merge(
      if way == :zero_copy,
        do: %{setup_overhead_us: us(line.fixed_ns), cleanup_overhead_us: 0.0},
        else: %{serialization_overhead_us: us(line.ns_per_byte * f.size)}
    )
  end

  defp us(ns), do: Float.round(ns / 1000, 2)

  defp rationale(first, reason, methods, f, goal) do
    mine = methods[first]
    size = Units.bytes(f.size)
    others = Map.delete(methods, first)

    case Enum.min_by(others, fn {_, m} -> m.estimated_latency_us end, fn -> nil end) do
      nil ->
        "#{first} is the only way this pool allows."

      {other, theirs} ->
        "#{first}: #{Plan.words(reason)}. For #{size} of #{f.type} it takes #{time(mine)}, #{other} #{time(theirs)}: " <>
          "#{ratio(theirs.estimated_latency_us / max(mine.estimated_latency_us, 0.01))}." <>
          weighed(goal, first, methods)
    end
  end

  defp time(%{samples: 0} = m), do: "#{Units.time(m.estimated_latency_us * 1000)} (assumed)"

  defp time(%{latency_interval_us: {low, high}} = m),
    do:
      "#{Units.time(m.estimated_latency_us * 1000)} (#{Units.time(low * 1000)} to #{Units.time(high * 1000)})"

  # Where more than the time counts.
  defp weighed(:minimize_latency, _first, _methods), do: ""

  defp weighed(goal, first, methods) do
    costs =
      methods
      |> Enum.sort_by(fn {_, m} -> m.total_cost end)
      |> Enum.map_join(", ", fn {way, m} ->
        "#{way} #{Units.digits(m.total_cost)} (CPU #{Units.time(m.estimated_cpu_us * 1000)}, memory #{Units.bytes(m.estimated_memory)})"
      end)

    " Weighed by #{goal}, for which #{first} was chosen: #{costs}."
  end

  defp ratio(r) when r >= 1, do: "#{Units.digits(r)} times as long"
  defp ratio(r), do: "#{Units.digits(1 / r)} times as fast, were it chosen"

  # By how far half of the predictions are off.
  defp history(handle) do
    case Model.percentiles(handle.performance, [0.5]) do
      {_, [nil]} -> :unknown
      {_, [error]} when error <= 150 -> :good
      {_, [error]} when error <= 400 -> :fair
      _ -> :poor
    end
  end
end
