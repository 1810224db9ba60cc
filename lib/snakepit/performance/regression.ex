defmodule Snakepit.Performance.Regression do
  @moduledoc false
  # Whether transfers became slower than they used to be. Pure.
  #
  # Transfers of one direction, way, type and about one size (four to a doubling) are compared among themselves: another
  # share of large calls must not look like a change. Two exponential averages of the logarithms of their times are kept,
  # over about the last 50 and the last 2,000; the slow one is the baseline. A regression is a quick average that lies above the baseline by more than a
  # threshold and by more than chance; it ends half way down, or when the baseline has become what is usual.

  alias Snakepit.{Performance, Transfer}

  defstruct samples: 0, quick: 0.0, slow: 0.0, variance: 0.04, worse?: false

  @type key :: {Performance.direction(), Transfer.way(), Performance.data_type(), bin :: non_neg_integer()}
  @type t :: %__MODULE__{
          samples: non_neg_integer(),
          quick: float(),
          slow: float(),
          variance: float(),
          worse?: boolean()
        }

  @quick 1 / 50
  @slow 1 / 2_000
  # Before so many there is no baseline.
  @enough 200
  # Standard errors. Neighbours in time are alike, so that the usual 2 would be chance too often.
  @certain 5
  # One stall says as much as a time that is so many standard deviations from the usual one.
  @clip 3

  @spec new() :: t()
  def new, do: %__MODULE__{}

  @doc "A transfer is compared with others of this key."
  @spec key(Performance.direction(), Transfer.way(), Performance.data_type(), non_neg_integer()) :: key()
  def key(direction, way, type, size), do: {direction, way, type, floor(4 * :math.log2(max(size, 1)))}

  @doc "One more transfer, and what it took."
  @spec add(t(), microseconds :: pos_integer()) :: t()
  def add(%__MODULE__{samples: 0} = r, us),
    do: %{r | samples: 1, quick: :math.log(us), slow: :math.log(us)}

  def add(%__MODULE__{} = r, us) do
    usual = @clip * :math.sqrt(r.variance)
    # From the quick average, which may be far from the baseline by now.
    off = (:math.log(us) - r.quick) |> max(-usual) |> min(usual)
    samples = r.samples + 1
    # Plain means at first.
    quick = max(@quick, 1 / samples)
    slow = max(@slow, 1 / samples)
    now = r.quick + off

    %{
      r
      | samples: samples,
        quick: r.quick + quick * off,
        slow: r.slow + slow * (now - r.slow),
        variance: max(r.variance + quick * (off * off - r.variance), 1.0e-4)
    }
  end

  @doc """
  Whether it is a regression by now: `:begins`, `:lasts`, `:ends` or `:none`. The threshold is a share: 0.2 is a fifth
  slower.
  """
  @spec judge(t(), threshold :: float()) :: {:begins | :lasts | :ends | :none, t()}
  def judge(%__MODULE__{samples: samples} = r, _threshold) when samples < @enough, do: {:none, r}

  def judge(%__MODULE__{worse?: worse?} = r, threshold) do
    rise = r.quick - r.slow
    # The variance of an exponential average: σ² · a / (2 − a).
    error = :math.sqrt(r.variance * @quick / (2 - @quick))

    case {worse?, rise > :math.log(1 + threshold) and rise > @certain * error} do
      {false, true} ->
        {:begins, %{r | worse?: true}}

      {true, _} ->
        if rise < :math.log(1 + threshold / 2), do: {:ends, %{r | worse?: false}}, else: {:lasts, r}

      {false, false} ->
        {:none, r}
    end
  end

  @doc "In words for people and programs: microseconds, and by how many percent more."
  @spec describe(key(), t()) :: map()
  def describe({direction, way, type, bin}, %__MODULE__{} = r) do
    %{
      direction: direction,
      method: way,
      data_type: type,
      data_size: {ceil(:math.pow(2, bin / 4)), ceil(:math.pow(2, (bin + 1) / 4))},
      baseline_us: Float.round(:math.exp(r.slow), 1),
      recent_us: Float.round(:math.exp(r.quick), 1),
      change_percent: Float.round(100 * (:math.exp(r.quick - r.slow) - 1), 1),
      samples: r.samples
    }
  end
end
