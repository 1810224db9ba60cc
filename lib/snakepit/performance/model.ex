defmodule Snakepit.Performance.Model do
  @moduledoc false
  # A pool's cost model, and all that is asked of the native one: no other module calls `Native.cost_model_*`.
  #
  # A struct of this module is what `Snakepit.Pool.Handle` holds as `performance`. `ref` is the native model, nil in a pool
  # that does not measure. It lives as long as the pool's process: a pool that was started anew has another one.

  alias Snakepit.{Native, Observation, Performance, Telemetry, Transfer}
  alias Snakepit.Performance.{GuardedChange, Policy, Rollout, Settings}
  alias Snakepit.Performance.Model.Histogram
  alias Snakepit.Pool.Counters

  defmodule Rules do
    @moduledoc false
    # The table's rules, besides measurements. Bounds are bytes, nil for none; `thresholds` and `overridden` are
    # by data type, in the order of `Snakepit.Performance.data_types/0`; `tie` and `bounded_loss` are shares of a cost.
    # Measurements decide where they are right with a probability of at least `bar`. `holdout` is the share of calls that go
    # by the rules all the same. `drift`: shifts of the costs are looked for.
    @enforce_keys [
      :goal,
      :allowed,
      :minimum,
      :maximum,
      :thresholds,
      :overridden,
      :tie,
      :bounded_loss,
      :bar,
      :exploration,
      :holdout,
      :drift
    ]
    defstruct @enforce_keys

    @type t :: %__MODULE__{
            goal: Performance.goal(),
            allowed: 0..7,
            minimum: pos_integer() | nil,
            maximum: pos_integer() | nil,
            thresholds: [pos_integer()],
            overridden: [boolean()],
            tie: float(),
            bounded_loss: float(),
            bar: float(),
            exploration: float(),
            holdout: float(),
            drift: boolean()
          }
  end

  defmodule Cell do
    @moduledoc false
    # The table's entry for a size: the ways, best first, and the usual time of each there, in ns by way.
    defstruct [:order, :reason, :confidence, :ns]

    @type t :: %__MODULE__{
            order: [Transfer.way()],
            reason: Transfer.Plan.reason(),
            confidence: float(),
            ns: %{Transfer.way() => pos_integer()}
          }
  end

  defmodule Price do
    @moduledoc false
    # The cost of a way: its time in ns with a 95 % interval and the samples it rests on, both sides' CPU time, the bytes that
    # are held meanwhile, and the cost by the pool's goal. `ready`: there were enough samples.
    defstruct [:ns, :low, :high, :samples, :cpu_ns, :bytes_held, :cost, :ready]

    @type t :: %__MODULE__{
            ns: float(),
            low: float(),
            high: float(),
            samples: non_neg_integer(),
            cpu_ns: float(),
            bytes_held: float(),
            cost: float(),
            ready: boolean()
          }
  end

  defmodule Line do
    @moduledoc false
    # ns = fixed_ns + ns_per_byte · bytes. `ready`: there were enough samples.
    defstruct [:fixed_ns, :ns_per_byte, :samples, :ready]

    @type t :: %__MODULE__{
            fixed_ns: float(),
            ns_per_byte: float(),
            samples: non_neg_integer(),
            ready: boolean()
          }
  end

  defmodule Holdout do
    @moduledoc false
    # Calls that went as was learned, and those of the holdout, where the two differ: how many, how many times as long the
    # latter take, and the interval that holds that at all times (nil: too few calls). `worse`: what was learned is, for certain.
    defstruct [:learned, :held_out, :ratio, :interval, :worse]

    @type t :: %__MODULE__{
            learned: non_neg_integer(),
            held_out: non_neg_integer(),
            ratio: float(),
            interval: {low :: float(), high :: float()} | nil,
            worse: boolean()
          }
  end

  defmodule Counts do
    @moduledoc false
    defstruct [:decisions, :explored, :recorded, :dropped, :version, :table_bytes]

    @type t :: %__MODULE__{
            decisions: non_neg_integer(),
            explored: non_neg_integer(),
            recorded: non_neg_integer(),
            dropped: non_neg_integer(),
            version: non_neg_integer(),
            table_bytes: pos_integer()
          }
  end

  defmodule Row do
    @moduledoc false
    # A recorded call, by its direction that carried more. `ns` is beside its tool and its wait for a lane. `ok`: it went
    # well, and was no stream. `warm`: its memory was at hand.
    defstruct [
      :direction,
      :way,
      :data_type,
      :size,
      :ns,
      :predicted_ns,
      :request_bytes,
      :reply_bytes,
      ok: true,
      warm: true,
      explored: false,
      propensity: 1.0
    ]

    @type t :: %__MODULE__{
            direction: Performance.direction(),
            way: Transfer.way(),
            data_type: Performance.data_type(),
            size: non_neg_integer(),
            ns: non_neg_integer(),
            predicted_ns: non_neg_integer(),
            request_bytes: non_neg_integer(),
            reply_bytes: non_neg_integer(),
            ok: boolean(),
            warm: boolean(),
            explored: boolean(),
            propensity: float()
          }
  end

  @enforce_keys [:ref, :ways, :policy, :settings, :call]
  # Measurements decide where they are right with a probability of at least `bar`; above 1 the rules do. `rollout` is why: nil
  # until somebody has looked at the pool.
  defstruct @enforce_keys ++ [:rollout, bar: 0.0]

  @typedoc "Runs a call, as `Snakepit.observe/3` does: for probes."
  @type call ::
          (String.t(), map(), keyword() ->
             {{:ok, term()} | {:error, Snakepit.Error.t()}, Observation.t()})

  @type t :: %__MODULE__{
          ref: Native.cost_model() | nil,
          ways: [Transfer.way()],
          policy: Policy.t(),
          settings: Settings.t(),
          call: call(),
          rollout: Rollout.t() | nil,
          bar: number()
        }

  @typedoc "A transfer of so much in one direction, by one way."
  @type transfer :: %{
          :direction => Performance.direction(),
          :way => Transfer.way(),
          :type => Performance.data_type(),
          :size => non_neg_integer(),
          optional(:warm) => boolean()
        }

  # A way that is cheaper by less than this share is no reason to leave the simpler one.
  @tie 0.05
  # The most that exploring may cost, as a share of the best way's cost.
  @bounded_loss 0.25
  @failed [:snakepit, :performance, :decision_failed]

  @doc "The model of a pool that has these options, which knows nothing yet."
  @spec new(map(), Settings.t(), call()) :: t()
  def new(%{transfers: ways, performance_policy: given}, settings, call) do
    {:ok, policy} = Policy.new(given, settings)
    bar = policy.rollout |> Rollout.new() |> Rollout.bar()
    model = %__MODULE__{ref: nil, ways: ways, policy: policy, settings: settings, call: call, bar: bar}
    if Policy.enabled?(given, settings), do: blank(model), else: model
  end

  @doc "The same model before it learned anything."
  @spec blank(t()) :: t()
  def blank(%__MODULE__{} = model), do: %{model | ref: Native.cost_model_new(rules(model, model.policy))}

  @doc "Forgets all that was learned."
  @spec forget(t()) :: :ok
  def forget(%__MODULE__{} = model) do
    true = __MODULE__.import(model, export(blank(model)))
    :ok
  end

  @doc "The same model under another policy; one that names another stage of the rollout begins there."
  @spec with_policy(t(), Policy.t()) :: t()
  def with_policy(%__MODULE__{policy: %{rollout: wanted}} = model, %Policy{rollout: wanted} = policy),
    do: %{model | policy: policy}

  def with_policy(%__MODULE__{} = model, %Policy{} = policy),
    do: %{model | policy: policy, rollout: nil, bar: policy.rollout |> Rollout.new() |> Rollout.bar()}

  @doc "Whether the pool measures its transfers."
  @spec enabled?(t() | nil) :: boolean()
  def enabled?(nil), do: false
  def enabled?(%__MODULE__{ref: ref}), do: ref != nil

  @doc "Whether both are of one run of a pool, whatever policy they have."
  @spec same?(t(), t()) :: boolean()
  def same?(%__MODULE__{ref: one}, %__MODULE__{ref: other}), do: one == other

  # ---- decisions --------------------------------------------------------------------------------------------------

  @typedoc "Whether a decision is to be carried out, or only shown."
  @type mode :: :call | :look

  @doc """
  Decides the ways of a transfer that may take those of `allowed`, a mask. A `preferred` way that is allowed comes first,
  and nothing is explored. `:look` counts nothing and explores nothing.
  """
  @spec decide(
          t(),
          Performance.direction(),
          Performance.data_type(),
          warm :: boolean(),
          size :: non_neg_integer(),
          allowed :: 0..7,
          preferred :: Transfer.way() | nil,
          mode()
        ) :: Native.decision()
  def decide(%__MODULE__{ref: ref}, direction, type, warm, size, allowed, preferred, mode),
    do: Native.cost_model_decide(ref, direction, type, warm, size, allowed, preferred, mode)

  @doc "Counts a decision, or a custom rule, that failed, and emits why."
  @spec failed(Snakepit.Pool.Handle.t(), :model | :custom_rule, String.t()) :: :ok
  def failed(handle, what, why) do
    Counters.add(handle.counters, :failed_decisions, 1)

    if Telemetry.listened_to?(@failed),
      do: Telemetry.execute(@failed, %{}, %{pool: handle.name, what: what, why: why})

    :ok
  end

  @doc "The table's entry for such a transfer: of warm memory and under the present load, unless options say otherwise."
  @spec cell(t(), Performance.direction(), Performance.data_type(), non_neg_integer(), keyword()) :: Cell.t()
  def cell(%__MODULE__{ref: ref}, direction, type, size, opts \\ []) do
    cell = Native.cost_model_cell(ref, direction, type, Keyword.get(opts, :warm, true), size, opts[:load])
    {inline, zero_copy, grpc} = cell.ns
    %{cell | ns: %{inline: inline, zero_copy: zero_copy, grpc: grpc}}
  end

  @doc """
  From which size on, up to 1 GiB, arguments or results in shared memory that is warm go by it, and why: what calls do under
  the present load, or another one. 2^60 if they do not at 1 GiB.
  """
  @spec threshold(t(), Performance.direction(), Performance.data_type(), {boolean(), boolean()} | nil) ::
          {bytes :: non_neg_integer(), Transfer.Plan.reason()}
  def threshold(%__MODULE__{ref: ref}, direction, type, load \\ nil),
    do: Native.cost_model_threshold(ref, direction, type, load)

  @doc "The table's bins of sizes from `first` to `last`: where each begins, and the next one."
  @spec bins(first :: pos_integer(), last :: pos_integer()) :: [{pos_integer(), pos_integer()}]
  def bins(first, last), do: Native.cost_model_bins(first, last)

  @doc "Compiles the table by the pool's policy. `set`, in bytes by type, decide whatever was measured."
  @spec set_rules(t(), set :: %{Performance.data_type() => pos_integer()}) :: :ok
  def set_rules(%__MODULE__{ref: ref, policy: policy} = model, set \\ %{}) do
    policy = %{policy | threshold_overrides: Map.merge(policy.threshold_overrides, set)}
    Native.cost_model_rules(ref, rules(model, policy))
  end

  defp rules(%{settings: settings, ways: ways, bar: bar}, policy) do
    overrides = policy.threshold_overrides
    base = Settings.base_threshold(settings)
    types = Performance.data_types()

    %Rules{
      goal: policy.goal,
      allowed: Transfer.mask(ways),
      minimum: Settings.bytes(settings.minimum_threshold_mb),
      maximum: Settings.bytes(settings.maximum_threshold_mb),
      thresholds: Enum.map(types, &(overrides[&1] || base)),
      overridden: Enum.map(types, &is_map_key(overrides, &1)),
      tie: @tie,
      bounded_loss: @bounded_loss,
      bar: bar * 1.0,
      exploration: if(policy.learning_enabled, do: policy.exploration_rate * 1.0, else: 0.0),
      holdout: if(policy.learning_enabled, do: policy.holdout_rate * 1.0, else: 0.0),
      drift: settings.drift_detection_enabled
    }
  end

  @doc "Sets which resources are scarce. Whether that is news."
  @spec set_load(t(), cpu? :: boolean(), memory? :: boolean()) :: boolean()
  def set_load(%__MODULE__{ref: ref}, cpu?, memory?), do: Native.cost_model_load(ref, {cpu?, memory?})

  @doc "The table of replies as workers read it (native/PROTOCOL.md)."
  @spec reply_table(t()) :: binary()
  def reply_table(%__MODULE__{ref: ref}), do: Native.cost_model_reply_table(ref)

  # ---- what calls took --------------------------------------------------------------------------------------------

  @typedoc """
  What a decision was: whether it explored, how likely it was, the ns it predicted for the way that was taken (nil where
  that was for a part of the request only), and whether it was held out.
  """
  @type choice ::
          {explored? :: boolean(), propensity :: float(), predicted_ns :: non_neg_integer() | nil,
           held_out? :: boolean()}

  @doc """
  Records what a call took beside its tool and its wait for a lane; sizes are of what was carried. `warm?`: its arguments
  made no memory. `learn?`: it went well, and is no stream. `choice` is nil where nothing was decided.
  """
  @spec record(
          t(),
          {request :: Transfer.way(), reply :: Transfer.way(), Performance.data_type(), warm? :: boolean(),
           learn? :: boolean()},
          choice() | nil,
          ns :: non_neg_integer(),
          request_bytes :: non_neg_integer(),
          reply_bytes :: non_neg_integer()
        ) :: :ok
  def record(%__MODULE__{ref: ref}, call, choice, ns, request_bytes, reply_bytes),
    do: Native.cost_model_record(ref, call, choice, ns, request_bytes, reply_bytes)

  @doc """
  Counts what was recorded since the last time, and learns from it if the policy says so: how many calls there were, how
  many were learned from, and the latest ones.
  """
  @spec drain(t(), most_rows :: non_neg_integer(), learn? :: boolean() | nil) ::
          {seen :: non_neg_integer(), learned :: non_neg_integer(), [Row.t()]}
  def drain(%__MODULE__{ref: ref, policy: policy}, most_rows, learn? \\ nil) do
    learn? = if learn? == nil, do: policy.learning_enabled, else: learn?
    Native.cost_model_drain(ref, learn?, most_rows)
  end

  @doc "The calls of the current second, minute or hour (0, 1, 2), and a histogram of their latencies; `over?` begins the next."
  @spec window(t(), 0..2, over? :: boolean()) ::
          {count :: non_neg_integer(), failed :: non_neg_integer(), sum_ns :: non_neg_integer(),
           sum_bytes :: non_neg_integer(), Histogram.t()}
  def window(%__MODULE__{ref: ref}, window, over?), do: Native.cost_model_window(ref, window, over?)

  @doc "The latencies of a type's calls, by bins of their arguments' size: see `GuardedChange`."
  @spec outcomes(t(), Performance.data_type()) :: GuardedChange.outcomes()
  def outcomes(%__MODULE__{ref: ref}, type),
    do:
      for(
        {size, n, sum, squares} <- Native.cost_model_outcomes(ref, type),
        into: %{},
        do: {size, {n, sum, squares}}
      )

  @doc "Learns from a probe; it is counted nowhere."
  @spec probed(t(), transfer(), ns :: non_neg_integer()) :: :ok
  def probed(%__MODULE__{ref: ref}, probe, ns), do: Native.cost_model_probed(ref, probe(probe), ns)

  @doc "The time that such a probe is expected to take, in ns."
  @spec predict(t(), transfer()) :: float()
  def predict(%__MODULE__{ref: ref}, probe), do: Native.cost_model_predict(ref, probe(probe))

  defp probe(%{direction: direction, way: way, type: type, size: size}), do: {direction, way, type, size}

  # ---- calibration ------------------------------------------------------------------------------------------------

  @doc "A measured call that carried `transfer`, and nothing in the other direction; `base_ns` is what an empty call takes."
  @spec calibrate(t(), transfer(), ns :: number(), base_ns :: number()) :: :ok
  def calibrate(%__MODULE__{ref: ref}, transfer, ns, base_ns),
    do: Native.cost_model_calibrate(ref, carried(transfer), ns * 1.0, base_ns * 1.0)

  @doc "A measured call that carried nothing."
  @spec calibrate_empty(t(), ns :: number(), base_ns :: number()) :: :ok
  def calibrate_empty(%__MODULE__{ref: ref}, ns, base_ns),
    do: Native.cost_model_calibrate_empty(ref, ns * 1.0, base_ns * 1.0)

  @doc "CPU time of both sides for such a transfer."
  @spec calibrate_cpu(t(), transfer(), ns :: number()) :: :ok
  def calibrate_cpu(%__MODULE__{ref: ref}, %{direction: direction, way: way, size: size}, ns),
    do: Native.cost_model_calibrate_cpu(ref, direction, way, size, ns * 1.0)

  @doc "Makes the present state the one to which the past is forgotten."
  @spec anchor(t()) :: :ok
  def anchor(%__MODULE__{ref: ref}), do: Native.cost_model_anchor(ref)

  @doc "Compiles the table anew from what was learned."
  @spec compile(t()) :: :ok
  def compile(%__MODULE__{ref: ref}), do: Native.cost_model_compile(ref)

  # ---- what it knows ----------------------------------------------------------------------------------------------

  @doc "The cost of each way by the pool's goal, under a load `{cpu?, memory?}`."
  @spec prices(
          t(),
          Performance.direction(),
          Performance.data_type(),
          non_neg_integer(),
          warm :: boolean(),
          load :: {boolean(), boolean()}
        ) :: %{Transfer.way() => Price.t()}
  def prices(%__MODULE__{ref: ref, policy: policy}, direction, type, size, warm, load),
    do: ref |> Native.cost_model_prices(direction, type, warm, size, policy.goal, load) |> Map.new()

  @doc "The line by which such a transfer is judged."
  @spec line(t(), transfer()) :: Line.t()
  def line(%__MODULE__{ref: ref}, transfer), do: Native.cost_model_line(ref, carried(transfer))

  defp carried(%{direction: direction, way: way, type: type, size: size} = transfer),
    do: {direction, way, type, Map.get(transfer, :warm, true), size}

  @doc "From which size on shared memory is the cheapest way, with its 95 % interval."
  @spec crossover(t(), Performance.direction(), Performance.data_type()) ::
          {size :: pos_integer(), low :: pos_integer(), high :: pos_integer()} | nil
  def crossover(%__MODULE__{ref: nil}, _direction, _type), do: nil

  def crossover(%__MODULE__{ref: ref, ways: ways, policy: policy}, direction, type),
    do: Native.cost_model_crossover(ref, direction, type, policy.goal, Transfer.mask(ways))

  @spec counts(t()) :: Counts.t()
  def counts(%__MODULE__{ref: ref}), do: Native.cost_model_counts(ref)

  @doc "Percentiles (0..1) of latencies in ns, and of predictions' relative errors in thousandths; nil without calls."
  @spec percentiles(t(), [float()]) :: {[non_neg_integer() | nil], [non_neg_integer() | nil]}
  def percentiles(%__MODULE__{ref: ref}, which), do: Native.cost_model_percentiles(ref, which)

  @doc "How many times as long as usual calls take at the moment."
  @spec drift_factor(t()) :: float()
  def drift_factor(%__MODULE__{ref: ref}), do: Native.cost_model_drift_factor(ref)

  @doc """
  Shifts of the costs: how many alarms there were, whether one is not judged yet, and the steps since somebody took them last.
  A first alarm widens the intervals of the way (`:widened`); some dozens of its calls later the last good model is
  restored, or the present one accepted.
  """
  @spec drift(t(), take? :: boolean()) ::
          {alarms :: non_neg_integer(), open? :: boolean(),
           [{:widened | :restored | :accepted, Performance.direction(), Transfer.way(), longer? :: boolean()}]}
  def drift(%__MODULE__{ref: ref}, take? \\ false), do: Native.cost_model_drift(ref, take?)

  @doc "How calls that went as was learned compare with the holdout; wrong about `worse` with a probability of `alpha` at most."
  @spec holdout(t(), alpha :: float()) :: Holdout.t()
  def holdout(%__MODULE__{ref: ref}, alpha \\ 0.01), do: Native.cost_model_holdout(ref, alpha)

  @doc "The learned model, for a file."
  @spec export(t()) :: binary()
  def export(%__MODULE__{ref: ref}), do: Native.cost_model_export(ref)

  @doc "Takes over what `export/1` gave; false for anything else."
  @spec import(t(), binary()) :: boolean()
  def import(%__MODULE__{ref: ref}, bytes), do: Native.cost_model_import(ref, bytes)
end
