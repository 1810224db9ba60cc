defmodule Snakepit.Transfer.Plan do
  @moduledoc false
  # The ways of one call, chosen once, when its lane is known: what `Snakepit.execute/3` follows, what `Snakepit.explain/3`
  # and `Controller.decide_transfer_method/2` show, what the decision event says and what is recorded with the outcome.
  #
  # | field | meaning |
  # |---|---|
  # | `request` | the ways of the request, in the order they are tried |
  # | `reply` | the ways the worker may choose from for the reply |
  # | `reason` | why the first way of the request is the first |
  # | `wanted` | the way that would be the first but for the lane's worker and open breakers |
  # | `predicted` | what each way was predicted to take, in ns; nil where nothing was decided |
  # | `threshold`, `confidence`, `version` | the threshold in bytes, how certain the order is, and the model's version |
  # | `explored?`, `propensity` | whether the second best way comes first, to learn, and how likely this order was |
  # | `make_memory?` | shared memory comes first even if it has to be made |

  alias Snakepit.Transfer

  @enforce_keys [:request, :reply, :reason, :wanted]
  defstruct @enforce_keys ++
              [
                :predicted,
                :threshold,
                confidence: 0.0,
                version: 0,
                explored?: false,
                propensity: 1.0,
                make_memory?: false
              ]

  @type reason ::
          :in_envelope
          | :shared
          | :only_way
          | :not_measured
          | :undecided
          | :custom_rule
          | :holdout
          | :rule
          | :below_minimum
          | :above_maximum
          | :override
          | :cheapest
          | :tie

  @type t :: %__MODULE__{
          request: [Transfer.way(), ...],
          reply: [Transfer.way(), ...],
          reason: reason(),
          wanted: Transfer.way(),
          predicted: {inline :: pos_integer(), zero_copy :: pos_integer(), grpc :: pos_integer()} | nil,
          threshold: pos_integer() | nil,
          confidence: float(),
          version: non_neg_integer(),
          explored?: boolean(),
          propensity: float(),
          make_memory?: boolean()
        }

  @doc "Whether the request's first way is another than it would be but for the lane's worker and open breakers."
  @spec diverted?(t()) :: boolean()
  def diverted?(%__MODULE__{request: [first | _], wanted: wanted}), do: first != wanted

  @doc "What `way` was predicted to take, in ns; nil where nothing was decided."
  @spec predicted(t(), Transfer.way()) :: pos_integer() | nil
  def predicted(%__MODULE__{predicted: nil}, _way), do: nil
  def predicted(%__MODULE__{predicted: {ns, _, _}}, :inline), do: ns
  def predicted(%__MODULE__{predicted: {_, ns, _}}, :zero_copy), do: ns
  def predicted(%__MODULE__{predicted: {_, _, ns}}, :grpc), do: ns

  @doc "Whether it explored, and how likely it was, if `way` was taken in the end: what was overruled did not explore."
  @spec choice(t(), Transfer.way()) :: {explored? :: boolean(), propensity :: float()}
  def choice(%__MODULE__{request: [way | _]} = plan, way), do: {plan.explored?, plan.propensity}
  def choice(_plan, _another), do: {false, 1.0}

  @doc "A reason in words."
  @spec words(reason()) :: String.t()
  def words(:in_envelope), do: "it carries nothing large, and the frame is the simplest way"
  def words(:shared), do: "what lies in shared memory already is not copied, and would be by any other way"
  def words(:only_way), do: "it is the only way this call may take"
  def words(:not_measured), do: "the pool does not measure its transfers"
  def words(:undecided), do: "the decision failed: without one, this way is tried first"
  def words(:custom_rule), do: "a custom rule of the policy"
  def words(:holdout), do: "one of the few that go by the rules, to be compared with the others"
  def words(:rule), do: "not measured, or not certain enough: the threshold"
  def words(:below_minimum), do: "below :minimum_threshold_mb"
  def words(:above_maximum), do: "from :maximum_threshold_mb on"
  def words(:override), do: "a threshold of the policy"
  def words(:cheapest), do: "costs least"
  def words(:tie), do: "about the same, and simplest"
end
