defmodule Snakepit.Performance.Settings do
  @moduledoc """
  `config :snakepit, performance_optimization: […]`, for all pools.
  """

  alias Snakepit.Options

  @mib 1024 * 1024

  @schema [
    enabled: [
      type: :boolean,
      default: true,
      doc:
        "Whether calls are measured and ways chosen by what they cost; else everything of at least a pool's " <>
          "`:inline_limit` goes by shared memory."
    ],
    calibrate: [
      type: :boolean,
      default: true,
      doc: "Whether each pool measures its ways when it starts, in at most 300 ms of one worker's idle time."
    ],
    calibration_dir: [
      type: {:or, [{:in, [nil]}, :string]},
      default: nil,
      doc:
        "Where calibrations are kept for the next start, each for one machine, Python and pool; by default in the user's cache."
    ],
    keep_models: [
      type: :boolean,
      default: true,
      doc:
        "Whether a pool's next start goes on with what this one learned, and with thresholds and policies that were set " <>
          "while it ran: kept beside calibrations, for each pool, in files."
    ],
    learning_enabled: [type: :boolean, default: true, doc: "Whether the model follows the calls."],
    exploration_rate: [
      type: {:number, 0, 1},
      default: 0.05,
      doc:
        "The share of calls, among those whose second best way costs little more than the best, that take that one to learn."
    ],
    holdout_rate: [
      type: {:number, 0, 0.1},
      default: 0.01,
      doc:
        "The share of calls that go by the rules where measurements choose another way, and by one that is expected to take twice " <>
          "as long at most: what was learned is compared with them, and rolled back if it is worse."
    ],
    drift_detection_enabled: [
      type: :boolean,
      default: true,
      doc: "Whether shifts of the costs are looked for (`[:snakepit, :performance, :drift]`)."
    ],
    minimum_training_samples: [
      type: :pos_integer,
      default: 1_000,
      doc:
        "So many calls must have been recorded before a pool acts on more of what it has learned (`rollout: :auto`)."
    ],
    default_zero_copy_threshold_mb: [
      type: {:number, 0.001, 1_048_576},
      default: 10,
      doc: "MiB from which on shared memory is used as long as nothing was measured."
    ],
    minimum_threshold_mb: [
      type: {:or, [{:in, [nil]}, {:number, 0.001, 1_048_576}]},
      default: nil,
      doc: "MiB below which shared memory is never used; by default measurements decide."
    ],
    metrics_retention_hours: [
      type: :pos_integer,
      default: 168,
      doc: "How long aggregated metrics are kept (`Snakepit.Performance.MetricsStore`)."
    ],
    aggregation_interval_seconds: [
      type: {:range, 2, 3_599},
      default: 60,
      doc: "The seconds of one aggregate between those of a second and of an hour."
    ],
    regression_detection_enabled: [
      type: :boolean,
      default: true,
      doc:
        "Whether transfers that became slower are looked for (`Snakepit.Performance.Analyzer.detect_regressions/1`)."
    ],
    regression_threshold_percent: [
      type: {:number, 1, 10_000},
      default: 20,
      doc: "By how much slower they must be."
    ],
    memory_pressure_threshold: [
      type: {:number, 0, 1},
      default: 0.8,
      doc: "The share of memory in use above which it counts as scarce; 1: never."
    ],
    cpu_pressure_threshold: [
      type: {:number, 0, 1},
      default: 0.8,
      doc: "The share of the CPUs' time above which they count as scarce; 1: never."
    ],
    maximum_threshold_mb: [
      type: {:or, [{:in, [nil]}, {:number, 0.001, 1_048_576}]},
      default: nil,
      doc: "MiB from which on it always is; by default measurements decide."
    ]
  ]

  # spec/003's, of parts that are not there yet: checked, so that its configuration can be taken over as it is, warned of
  # where they are set (`without_effect/1`), and not in the documentation.
  @later [
    model_update_interval_seconds: [type: :pos_integer, default: 3_600],
    model_validation_split: [type: {:number, 0.01, 0.99}, default: 0.2],
    ab_testing_enabled: [type: :boolean, default: false],
    ab_test_traffic_split: [type: {:number, 0, 1}, default: 0.1]
  ]

  @all @schema ++ @later

  @moduledoc @moduledoc <> "\n" <> Options.docs(@all)

  defstruct Keyword.keys(@all)

  @type t :: %__MODULE__{
          enabled: boolean(),
          calibrate: boolean(),
          calibration_dir: Path.t() | nil,
          keep_models: boolean(),
          learning_enabled: boolean(),
          exploration_rate: number(),
          holdout_rate: number(),
          default_zero_copy_threshold_mb: number(),
          minimum_threshold_mb: number() | nil,
          maximum_threshold_mb: number() | nil,
          metrics_retention_hours: pos_integer(),
          aggregation_interval_seconds: pos_integer(),
          regression_detection_enabled: boolean(),
          regression_threshold_percent: number(),
          memory_pressure_threshold: number(),
          cpu_pressure_threshold: number(),
          model_update_interval_seconds: pos_integer(),
          minimum_training_samples: pos_integer(),
          model_validation_split: float(),
          drift_detection_enabled: boolean(),
          ab_testing_enabled: boolean(),
          ab_test_traffic_split: number()
        }

  @doc "The option set, for `Snakepit.Config`."
  @spec schema() :: Options.schema()
  def schema, do: @all

  @doc "Which of these settings are not the default, and have no effect yet."
  @spec without_effect(t()) :: [atom()]
  def without_effect(settings),
    do: for({key, spec} <- @later, Map.fetch!(settings, key) != spec[:default], do: key)

  @doc "Checks what the types cannot: `{:error, key, message}` names the key."
  @spec new(map()) :: {:ok, t()} | {:error, atom(), String.t()}
  def new(%{minimum_threshold_mb: min, maximum_threshold_mb: max})
      when is_number(min) and is_number(max) and min > max do
    {:error, :minimum_threshold_mb,
     "expected :minimum_threshold_mb to be at most :maximum_threshold_mb (#{max}), got: #{min}"}
  end

  def new(options), do: {:ok, struct!(__MODULE__, options)}

  @doc "Those that are in force: see `Snakepit.Config.reload/0`."
  @spec current() :: t()
  def current, do: :persistent_term.get(__MODULE__, nil) || default()

  @doc "Puts settings in force, for pools that start from now on."
  @spec publish(t()) :: :ok
  def publish(%__MODULE__{} = settings), do: :persistent_term.put(__MODULE__, settings)

  # A pool has read these when it started.
  @at_start [:enabled, :calibrate]

  @doc "Which of two settings differ, and which of those act on pools that start from now on only."
  @spec changes(t(), t()) :: %{changed: [atom()], at_start: [atom()]}
  def changes(old, new) do
    changed = for {key, value} <- Map.from_struct(new), Map.fetch!(old, key) != value, do: key
    %{changed: Enum.sort(changed), at_start: Enum.filter(@at_start, &(&1 in changed))}
  end

  @doc "The defaults."
  @spec default() :: t()
  def default, do: struct!(__MODULE__, Map.new(@all, fn {key, spec} -> {key, spec[:default]} end))

  @doc "Bytes of `default_zero_copy_threshold_mb`."
  @spec base_threshold(t()) :: pos_integer()
  def base_threshold(settings), do: bytes(settings.default_zero_copy_threshold_mb)

  @doc "MiB, which may be a fraction, in bytes."
  @spec bytes(number() | nil) :: pos_integer() | nil
  def bytes(nil), do: nil
  def bytes(mb), do: max(round(mb * @mib), 1)
end
