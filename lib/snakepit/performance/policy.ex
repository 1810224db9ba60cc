defmodule Snakepit.Performance.Policy do
  @moduledoc """
  What a pool wants of its transfers: `performance_policy:` of the pool, or `Controller.update_policy/2` while it runs.

  A *rule* is a function of one argument, or `{module, function}`. It is given the characteristics of a transfer,
  `%{pool:, direction:, data_size:, data_type:, format:}`, before anything else is asked, and returns a way or `:default`. Rules are asked of arguments
  (`direction: :request`): results are decided by workers, which know the table and no rules.
  """

  alias Snakepit.{Options, Performance, Transfer}
  alias Snakepit.Performance.Settings

  @type goal :: Performance.goal()
  @type rule :: {module(), atom()} | (map() -> Transfer.way() | :default)

  @type t :: %__MODULE__{
          goal: goal(),
          custom_rules: [rule()],
          threshold_overrides: %{optional(Performance.data_type()) => pos_integer()},
          learning_enabled: boolean(),
          exploration_rate: float(),
          holdout_rate: float(),
          rollout: Performance.Rollout.wanted()
        }

  defstruct goal: :balanced,
            custom_rules: [],
            threshold_overrides: %{},
            learning_enabled: true,
            exploration_rate: 0.05,
            holdout_rate: 0.01,
            rollout: :adaptive

  @schema [
    enabled: [
      type: {:or, [{:in, [nil]}, :boolean]},
      default: nil,
      doc:
        "Whether this pool's calls are measured and their ways chosen; as `performance_optimization:` has it, unless set."
    ],
    goal: [
      type: {:in, Performance.goals()},
      default: :balanced,
      doc: "What is weighed: latency, CPU time, memory, or some of each."
    ],
    zero_copy_threshold_mb: [
      type: {:or, [{:in, [nil]}, {:number, 0.001, 1_048_576}]},
      default: nil,
      doc: "MiB from which on this pool uses shared memory, whatever was measured."
    ],
    threshold_overrides: [
      type: {:map_of, {:in, Performance.data_types()}, :bytes},
      default: %{},
      doc: "The same for one type of data, in bytes: `%{tensor: \"64KB\"}`."
    ],
    custom_rules: [type: :any, default: [], doc: "Rules that come first: see `Snakepit.Performance.Policy`."],
    learning_enabled: [
      type: {:or, [{:in, [nil]}, :boolean]},
      default: nil,
      doc: "As `performance_optimization:` has it, unless set."
    ],
    exploration_rate: [
      type: {:or, [{:in, [nil]}, {:number, 0, 1}]},
      default: nil,
      doc: "As `performance_optimization:` has it, unless set."
    ],
    holdout_rate: [
      type: {:or, [{:in, [nil]}, {:number, 0, 0.1}]},
      default: nil,
      doc: "As `performance_optimization:` has it, unless set."
    ],
    rollout: [
      type: {:in, Performance.Rollout.wanted()},
      default: :adaptive,
      doc: "How far the pool acts on what it has learned: see `Snakepit.Performance.Rollout`."
    ]
  ]

  @moduledoc @moduledoc <> "\n" <> Options.docs(@schema)

  @doc "A policy of these options, or a message that names the key."
  @spec new(map() | keyword(), Settings.t()) :: {:ok, t()} | {:error, atom() | nil, String.t()}
  def new(%__MODULE__{} = policy, settings), do: policy |> Map.from_struct() |> new(settings)

  def new(given, settings) do
    with {:ok, options} <- Options.validate(given, @schema),
         :ok <- rules(options.custom_rules) do
      all =
        if mb = options.zero_copy_threshold_mb,
          do: Map.new(Performance.data_types(), &{&1, Settings.bytes(mb)}),
          else: %{}

      {:ok,
       %__MODULE__{
         goal: options.goal,
         custom_rules: options.custom_rules,
         threshold_overrides: Map.merge(all, options.threshold_overrides),
         learning_enabled:
           if(options.learning_enabled == nil, do: settings.learning_enabled, else: options.learning_enabled),
         exploration_rate: options.exploration_rate || settings.exploration_rate,
         holdout_rate: options.holdout_rate || settings.holdout_rate,
         rollout: options.rollout
       }}
    end
  end

  @doc "Whether a pool of these options has a cost model."
  @spec enabled?(map() | keyword(), Settings.t()) :: boolean()
  def enabled?(given, settings) do
    case Access.get(given, :enabled) do
      nil -> settings.enabled
      enabled -> enabled
    end
  end

  defp rules(rules) when is_list(rules) do
    case Enum.find(rules, &(not rule?(&1))) do
      nil -> :ok
      other -> rules({:not_one, other})
    end
  end

  defp rules(other) do
    shown = with {:not_one, rule} <- other, do: rule

    {:error, :custom_rules,
     "expected :custom_rules to be a list of functions of one argument, or {module, function}, got: #{inspect(shown)}"}
  end

  defp rule?({module, function}) when is_atom(module) and is_atom(function),
    do: Code.ensure_loaded?(module) and function_exported?(module, function, 1)

  defp rule?(rule), do: is_function(rule, 1)
end
