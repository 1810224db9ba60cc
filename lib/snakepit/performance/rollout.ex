defmodule Snakepit.Performance.Rollout do
  @moduledoc """
  How far a pool acts on what it has learned: a ladder that is climbed rung by rung, and left at once. Pure.

  | stage | what decides |
  |---|---|
  | `:observe` | the rules; the model learns from what they choose |
  | `:confident` | measurements where they are right with a probability of at least `bar`, else the rules |
  | `:adaptive` | measurements wherever there are some |
  | `:rolled_back` | the rules, since what was learned turned out to be worse than they are, or somebody said so |

  `rollout:` of a pool's policy names a stage, or `:auto`: from `:observe` on, a rung at a time, as soon as there were enough calls
  and predictions are good; the bar begins at 0.9 and falls as they stay so. Whatever the policy says, learning is rolled back when
  calls by the rules (`holdout_rate` of `Snakepit.Performance.Settings`) turn out to be faster. `:auto` begins anew after ten
  times as many calls; otherwise somebody has to resume it (`Snakepit.Performance.LearningEngine.resume/1`).
  """

  @enforce_keys [:wanted, :stage, :bar]
  defstruct @enforce_keys ++ [reason: "as configured", at: 0, calls: 0]

  @type stage :: :observe | :confident | :adaptive | :rolled_back
  @type wanted :: :observe | :confident | :adaptive | :auto
  @type t :: %__MODULE__{
          wanted: wanted(),
          stage: stage(),
          bar: float(),
          reason: String.t(),
          at: integer(),
          calls: non_neg_integer()
        }

  @typedoc """
  What is known of a pool: the calls that were recorded so far, the median of |actual − predicted| / actual of them, and how
  the holdout compares.
  """
  @type evidence :: %{
          calls: non_neg_integer(),
          error: float() | nil,
          holdout: Snakepit.Performance.Model.Holdout.t()
        }

  @first_bar 0.9
  @last_bar 0.6
  @lower_by 0.1
  # Predictions are good if half of them are off by less than this share.
  @good 0.25
  # Nobody is so certain.
  @nowhere 2.0

  @doc "The stages and `:auto`, for a policy."
  @spec wanted() :: [wanted()]
  def wanted, do: [:observe, :confident, :adaptive, :auto]

  @doc "Where a pool begins whose policy wants this."
  @spec new(wanted()) :: t()
  def new(:auto), do: %__MODULE__{wanted: :auto, stage: :observe, bar: @first_bar}
  def new(stage), do: %__MODULE__{wanted: stage, stage: stage, bar: @first_bar}

  @doc "The probability from which on measurements decide: see `Snakepit.Performance.Model`."
  @spec bar(t()) :: float()
  def bar(%__MODULE__{stage: :adaptive}), do: 0.0
  def bar(%__MODULE__{stage: :confident, bar: bar}), do: bar
  def bar(%__MODULE__{}), do: @nowhere

  @doc "One look at a pool, at a time: another rung, or the same. `enough` calls are needed for a rung."
  @spec update(t(), evidence(), enough :: pos_integer(), now :: integer()) :: t()
  def update(%__MODULE__{stage: stage} = r, %{holdout: %{worse: true} = holdout} = evidence, _enough, now)
      when stage in [:confident, :adaptive],
      do: roll_back(r, worse(holdout), evidence.calls, now)

  def update(%__MODULE__{wanted: :auto} = r, %{calls: calls, error: error}, enough, now) do
    since = calls - r.calls

    cond do
      # The counts are those of another model.
      since < 0 -> %{r | calls: calls}
      r.stage == :rolled_back and since >= 10 * enough -> to(r, :observe, "so many calls later", calls, now)
      r.stage in [:adaptive, :rolled_back] or since < enough or error == nil or error > @good -> r
      r.stage == :observe -> to(%{r | bar: @first_bar}, :confident, good(error), calls, now)
      r.bar > @last_bar + 1.0e-9 -> to(%{r | bar: r.bar - @lower_by}, :confident, good(error), calls, now)
      true -> to(r, :adaptive, good(error), calls, now)
    end
  end

  def update(r, _evidence, _enough, _now), do: r

  @doc "Learning is rolled back."
  @spec roll_back(t(), reason :: String.t(), calls :: non_neg_integer(), now :: integer()) :: t()
  def roll_back(r, reason, calls, now), do: to(r, :rolled_back, reason, calls, now)

  @doc "Goes on after a rollback, from where the policy begins."
  @spec resume(t(), calls :: non_neg_integer(), now :: integer()) :: t()
  def resume(%__MODULE__{wanted: wanted}, calls, now),
    do: %{new(wanted) | reason: "resumed by hand", calls: calls, at: now}

  defp to(r, stage, reason, calls, now), do: %{r | stage: stage, reason: reason, calls: calls, at: now}

  defp good(error), do: "half of the predictions are off by less than #{round(error * 100)} %"

  defp worse(holdout) do
    {low, high} = holdout.interval
    [ratio, low, high] = for x <- [holdout.ratio, low, high], do: :erlang.float_to_binary(x, decimals: 2)

    "calls by the rules take #{ratio} times as long as those by measurements (#{low} to #{high}; " <>
      "#{holdout.held_out} and #{holdout.learned} calls)"
  end
end
