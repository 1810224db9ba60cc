defmodule Snakepit.Performance.Model.Thresholds do
  @moduledoc false
  # From which size on arguments go by shared memory, as the cost model's table has it, and that in the parts of spec/003: base ×
  # adjustment × resource factor.
  #
  # The base is configured; the adjustment is how far measurements, or somebody, have moved it; the resource factor is what
  # scarce resources do to it now. None of them decides: they describe what the table does.

  alias Snakepit.Performance
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Settings
  alias Snakepit.Pool.Handle
  alias Snakepit.Transfer.Plan

  # Nearer than this, in either direction, is the same.
  @hysteresis 1.25
  @calm {false, false}
  # The table's word for it: no value is as large.
  @never 1_152_921_504_606_846_976

  @type parts :: %{
          bytes: pos_integer(),
          base: pos_integer(),
          adjustment: float(),
          resource_factor: float(),
          reason: Plan.reason()
        }

  @doc "The threshold where shared memory is never the way."
  @spec never() :: pos_integer()
  def never, do: @never

  @doc "The threshold in force, in bytes: in a pool that does not measure, its `:inline_limit`."
  @spec bytes(Handle.t(), Performance.data_type()) :: pos_integer()
  def bytes(%Handle{performance: %{ref: nil}, options: options}, _type), do: max(options.inline_limit, 1)
  def bytes(%Handle{performance: model}, type), do: model |> in_table(type, nil) |> elem(0)

  @doc "Those of all types, as they are while nothing is scarce."
  @spec at_rest(Model.t()) :: %{Performance.data_type() => pos_integer()}
  def at_rest(model), do: Map.new(Performance.data_types(), &{&1, model |> in_table(&1, @calm) |> elem(0)})

  @doc "The threshold in force, in parts."
  @spec parts(Model.t(), Performance.data_type()) :: parts()
  def parts(%Model{settings: settings} = model, type) do
    base = Settings.base_threshold(settings)
    {at_rest, _} = in_table(model, type, @calm)
    {bytes, reason} = in_table(model, type, nil)
    %{bytes: bytes, base: base, adjustment: at_rest / base, resource_factor: bytes / at_rest, reason: reason}
  end

  @doc "Those that are measured, and differ by more than noise from what was `seen` at the last look, or from the base."
  @spec moved(Model.t(), seen :: map()) :: [
          {Performance.data_type(), old :: pos_integer(), new :: pos_integer()}
        ]
  def moved(%Model{settings: settings} = model, seen) do
    for type <- Performance.data_types(),
        {bytes, reason} when reason in [:cheapest, :tie] and bytes < @never <- [in_table(model, type, @calm)],
        old = Map.get(seen, type, Settings.base_threshold(settings)),
        moved?(old, bytes),
        do: {type, old, bytes}
  end

  @doc "Whether a threshold has moved by more than noise."
  @spec moved?(pos_integer(), pos_integer()) :: boolean()
  def moved?(old, new), do: new > old * @hysteresis or old > new * @hysteresis

  # Under this load, or the present one.
  defp in_table(%Model{ways: [:zero_copy]}, _type, _load), do: {1, :only_way}

  defp in_table(model, type, load) do
    {bytes, reason} = Model.threshold(model, :request, type, load)
    {max(bytes, 1), reason}
  end
end
