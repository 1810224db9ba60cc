defmodule Snakepit.Bench.Result do
  @moduledoc """
  One figure of a bench: a median with its interval, and the target it is held against, if it has one. A figure that
  could not be measured here has no value, but a reason.
  """

  alias Snakepit.Terminal.Units

  @enforce_keys [:name, :value, :unit]
  defstruct [:name, :value, :unit, :low, :high, :target, :absent]

  @type target :: {:at_most | :at_least | :interval_holds, number()}
  @type t :: %__MODULE__{
          name: String.t(),
          value: number() | nil,
          unit: String.t(),
          low: number() | nil,
          high: number() | nil,
          target: target() | nil,
          absent: String.t() | nil
        }

  @doc "The median of samples, with a 95 % bootstrap interval."
  @spec new(String.t(), String.t(), [number()], target() | nil) :: t()
  def new(name, unit, samples, target \\ nil) do
    {low, high} = Snakepit.Stats.interval(samples)
    value = Snakepit.Stats.median(samples)
    %__MODULE__{name: name, value: value, unit: unit, low: low, high: high, target: target}
  end

  @doc "Why something has no figures here."
  @spec absent(String.t(), String.t()) :: t()
  def absent(name, why), do: %__MODULE__{name: name, value: nil, unit: "", absent: why}

  @doc "By the first word of their names, in the order in which those first come."
  @spec by_suite([t()]) :: [{String.t(), [t()]}]
  def by_suite(results) do
    suite = &(&1.name |> String.split(".") |> hd())
    groups = Enum.group_by(results, suite)
    for name <- results |> Enum.map(suite) |> Enum.uniq(), do: {name, groups[name]}
  end

  @doc "The target in words; nothing without one."
  @spec target_words(t()) :: String.t()
  def target_words(%__MODULE__{target: nil}), do: ""
  def target_words(%__MODULE__{target: {:at_most, limit}}), do: "≤ #{Units.digits(limit)}"
  def target_words(%__MODULE__{target: {:at_least, limit}}), do: "≥ #{Units.digits(limit)}"
  def target_words(%__MODULE__{target: {:interval_holds, n}}), do: "#{n} in interval"

  @doc "Whether the target is met; nil without one."
  @spec met?(t()) :: boolean() | nil
  def met?(%__MODULE__{target: nil}), do: nil
  def met?(%__MODULE__{target: {:at_most, limit}, value: value}), do: value <= limit
  def met?(%__MODULE__{target: {:at_least, limit}, value: value}), do: value >= limit
  def met?(%__MODULE__{target: {:interval_holds, n}, low: low, high: high}), do: low <= n and n <= high
end
