defmodule Snakepit.Performance.Model.Pressure do
  @moduledoc false
  # Whether memory or CPU is scarce, from samples of how much of it is used. Pure. It begins at a threshold and ends
  # somewhat below it, so that a share that trembles around the threshold does not switch it to and fro; the CPU's share
  # is smoothed over about half a second, for a core is always either busy or not.

  defstruct [:memory_threshold, :cpu_threshold, memory?: false, cpu?: false, cpu: nil]

  @type t :: %__MODULE__{
          memory_threshold: number(),
          cpu_threshold: number(),
          memory?: boolean(),
          cpu?: boolean(),
          cpu: float() | nil
        }

  # It ends when so much less is used.
  @hysteresis 0.05
  @smoothing 0.2

  @spec new(memory_threshold :: number(), cpu_threshold :: number()) :: t()
  def new(memory, cpu), do: %__MODULE__{memory_threshold: memory, cpu_threshold: cpu}

  @doc "Shares in 0..1; `nil` for what could not be read, which changes nothing."
  @spec update(t(), memory :: number() | nil, cpu :: number() | nil) :: t()
  def update(%__MODULE__{} = p, memory, cpu) do
    smooth = if cpu && p.cpu, do: p.cpu + @smoothing * (cpu - p.cpu), else: cpu || p.cpu

    %{
      p
      | cpu: smooth,
        memory?: pressed?(p.memory?, memory, p.memory_threshold),
        cpu?: pressed?(p.cpu?, smooth, p.cpu_threshold)
    }
  end

  defp pressed?(before, nil, _threshold), do: before
  # A threshold of 1 is never exceeded.
  defp pressed?(true, share, threshold), do: share > threshold - @hysteresis
  defp pressed?(false, share, threshold), do: share > threshold

  @doc "As one number: 1 for CPU, 2 for memory."
  @spec bits(t()) :: 0..3
  def bits(p), do: if(p.cpu?, do: 1, else: 0) + if(p.memory?, do: 2, else: 0)
end
