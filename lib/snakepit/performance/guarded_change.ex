defmodule Snakepit.Performance.GuardedChange do
  @moduledoc """
  A change somebody, or something, made to a setting that runs, and its effect: the old value, so that it can be
  undone, what calls took before, and the verdict once enough was seen. Pure.

  Like is compared with like: calls of one kind and size before the change with calls of the same kind and size after it. `effect` is
  how many times as long they take since, with its 95 % interval: `{1.2, 1.1, 1.3}` is a fifth longer.

  | verdict | meaning |
  |---|---|
  | `:pending` | its window is not over |
  | `:kept` | calls take no longer than before, within the tolerance and what chance explains |
  | `:worse` | they do: the change should be undone |
  | `:unknown` | too few calls of the same kind and size, before and after, to say |
  | `:undone` | it was undone |
  """

  @enforce_keys [:knob, :old, :new, :reason, :at]
  defstruct @enforce_keys ++
              [
                :expected,
                :effect,
                :context,
                before: %{},
                after: %{},
                window_ms: 30_000,
                tolerance: 0.1,
                verdict: :pending
              ]

  @typedoc "By kind of call: how many there were, and the sums of ln(ns) and of its square."
  @type outcomes :: %{optional(term()) => {calls :: pos_integer(), sum :: float(), squares :: float()}}
  @type verdict :: :pending | :kept | :worse | :unknown | :undone
  @type t :: %__MODULE__{
          knob: term(),
          old: term(),
          new: term(),
          reason: String.t(),
          expected: String.t() | nil,
          effect: {ratio :: float(), low :: float(), high :: float()} | nil,
          context: term(),
          at: integer(),
          before: outcomes(),
          after: outcomes(),
          window_ms: pos_integer(),
          tolerance: float(),
          verdict: verdict()
        }

  # Fewer pairs of calls say nothing.
  @enough 50
  @z95 1.96

  @doc "A change made at `at` (monotonic ms), with what calls took before it."
  @spec new(term(), term(), term(), keyword()) :: t()
  def new(knob, old, new, fields), do: struct!(__MODULE__, [knob: knob, old: old, new: new] ++ fields)

  @doc "Whether it is time for a verdict."
  @spec due?(t(), now :: integer()) :: boolean()
  def due?(%__MODULE__{verdict: :pending} = change, now), do: now - change.at >= change.window_ms
  def due?(_change, _now), do: false

  @doc "The calls of `now` that are not among those of `before`: both count since the same beginning."
  @spec since(now :: outcomes(), before :: outcomes()) :: outcomes()
  def since(now, before) do
    for {kind, {n, sum, squares}} <- now,
        {m, sum0, squares0} = Map.get(before, kind, {0, 0.0, 0.0}),
        n > m,
        into: %{},
        do: {kind, {n - m, sum - sum0, squares - squares0}}
  end

  @doc "The verdict on a change, from what calls take since."
  @spec judge(t(), outcomes()) :: t()
  def judge(%__MODULE__{} = change, now) do
    {pairs, effect} = effect(change.before, now)
    %{change | after: now, effect: effect, verdict: verdict(pairs, effect, change.tolerance)}
  end

  defp verdict(pairs, {ratio, low, _high}, tolerance) when pairs >= @enough,
    do: if(ratio > 1 + tolerance and low > 1.0, do: :worse, else: :kept)

  defp verdict(_pairs, _effect, _tolerance), do: :unknown

  # The mean difference of logarithms, weighted by how many calls of a kind can be paired.
  defp effect(before, now) do
    paired =
      for {kind, {m, _, _} = later} <- now,
          m > 1,
          {n, _, _} = earlier when n > 1 <- [before[kind]],
          do: {min(n, m), mean(later) - mean(earlier), error(later) + error(earlier)}

    case Enum.reduce(paired, 0, fn {weight, _, _}, sum -> sum + weight end) do
      0 ->
        {0, nil}

      pairs ->
        difference = Enum.reduce(paired, 0.0, fn {w, d, _}, sum -> sum + w * d end) / pairs
        error = :math.sqrt(Enum.reduce(paired, 0.0, fn {w, _, e}, sum -> sum + w * w * e end)) / pairs
        {pairs, List.to_tuple(for z <- [0, -@z95, @z95], do: :math.exp(difference + z * error))}
    end
  end

  defp mean({n, sum, _squares}), do: sum / n

  # The square of the mean's standard error.
  defp error({n, sum, squares}), do: max(squares - sum * sum / n, 0.0) / (n - 1) / n

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
