defmodule Snakepit.Performance.Model.Thresholds do
  @moduledoc false
  # How a threshold comes about: base × adjustment × resource factor (spec/003), between bounds. Pure.
  #
  # The adjustment follows the crossover that was measured, at most by a factor of two at a time, and not at all for
  # differences that are noise.

  @type t :: %{base: pos_integer(), adjustment: float(), resource: float()}

  @step 2.0
  # Nearer than this, in either direction, is the same.
  @hysteresis 1.25

  @spec new(base :: pos_integer()) :: t()
  def new(base), do: %{base: base, adjustment: 1.0, resource: 1.0}

  @doc "Bytes from which on shared memory is used."
  @spec bytes(t(), minimum :: pos_integer() | nil, maximum :: pos_integer() | nil) :: pos_integer()
  def bytes(%{base: base, adjustment: adjustment, resource: resource}, minimum, maximum) do
    (base * adjustment * resource)
    |> round()
    |> max(minimum || 1)
    |> min(maximum || 1_152_921_504_606_846_976)
  end

  @doc "One step toward `target` bytes; nil is no evidence. `:same` if it is near enough."
  @spec toward(t(), pos_integer() | nil) :: {:changed, t()} | :same
  def toward(_threshold, nil), do: :same

  def toward(%{base: base, adjustment: now} = threshold, target) do
    wanted = target / base

    if wanted < now * @hysteresis and wanted > now / @hysteresis,
      do: :same,
      else: {:changed, %{threshold | adjustment: wanted |> min(now * @step) |> max(now / @step)}}
  end

  @doc """
  What scarce resources do to it: with little memory, shared memory is used for larger values only; with little CPU, for
  smaller ones too, since it copies once where a frame is copied twice.
  """
  @spec resource_factor(memory? :: boolean(), cpu? :: boolean()) :: float()
  def resource_factor(true, _cpu), do: 4.0
  def resource_factor(false, true), do: 0.5
  def resource_factor(false, false), do: 1.0
end
