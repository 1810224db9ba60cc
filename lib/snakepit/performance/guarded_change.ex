defmodule Snakepit.Performance.GuardedChange do
  @moduledoc """
  A change somebody, or something, made to a setting that runs, and what came of it: the old value, so that it can be
  undone, a metric that must not get worse, and the verdict once enough was seen. Pure.

  | verdict | meaning |
  |---|---|
  | `:pending` | its window is not over |
  | `:kept` | the metric is no worse than before, within the tolerance |
  | `:worse` | it is: the change should be undone |
  | `:unknown` | too little happened, before or after, to say |
  | `:undone` | it was undone |
  """

  @enforce_keys [:knob, :old, :new, :reason, :at]
  defstruct @enforce_keys ++
              [:expected, :before, :after, :context, window_ms: 30_000, tolerance: 0.1, verdict: :pending]

  @typedoc "The metric's mean and how many samples it rests on; less is better."
  @type metric :: {mean :: number(), samples :: non_neg_integer()}
  @type verdict :: :pending | :kept | :worse | :unknown | :undone
  @type t :: %__MODULE__{
          knob: term(),
          old: term(),
          new: term(),
          reason: String.t(),
          expected: String.t() | nil,
          context: term(),
          at: integer(),
          before: metric() | nil,
          after: metric() | nil,
          window_ms: pos_integer(),
          tolerance: float(),
          verdict: verdict()
        }

  # Fewer samples say nothing.
  @enough 50

  @doc "A change made at `at` (monotonic ms), with what the metric was before it."
  @spec new(term(), term(), term(), keyword()) :: t()
  def new(knob, old, new, fields), do: struct!(__MODULE__, [knob: knob, old: old, new: new] ++ fields)

  @doc "Whether it is time for a verdict."
  @spec due?(t(), now :: integer()) :: boolean()
  def due?(%__MODULE__{verdict: :pending} = change, now), do: now - change.at >= change.window_ms
  def due?(_change, _now), do: false

  @doc "The verdict on a change, from what the metric is since."
  @spec judge(t(), metric() | nil) :: t()
  def judge(%__MODULE__{before: before} = change, now),
    do: %{change | after: now, verdict: verdict(before, now, change.tolerance)}

  defp verdict({before, n}, {now, m}, tolerance) when n >= @enough and m >= @enough,
    do: if(now > before * (1 + tolerance), do: :worse, else: :kept)

  defp verdict(_before, _now, _tolerance), do: :unknown

  @doc "The change that undoes this one."
  @spec undo(t(), reason :: String.t(), now :: integer()) :: t()
  def undo(%__MODULE__{} = change, reason, now) do
    %__MODULE__{
      knob: change.knob,
      old: change.new,
      new: change.old,
      reason: reason,
      at: now,
      before: change.after,
      verdict: :kept
    }
  end
end
