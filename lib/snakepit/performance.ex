defmodule Snakepit.Performance do
  @moduledoc """
  The cost model: which way the bytes of a call take, learned from what calls cost on this machine.

  | module | what |
  |---|---|
  | `Snakepit.Performance.Controller` | the decision, and what came of decisions |
  | `Snakepit.Performance.CostBenefitAnalyzer` | what each way would cost, and why |
  | `Snakepit.Performance.ThresholdManager` | from which size on data goes by shared memory |
  | `Snakepit.Performance.MetricsStore` | what calls took, in ETS; `Snakepit.Performance.TransferMetrics` is one row |
  | `Snakepit.Performance.Analyzer` | spans of time summed up, scenarios measured |
  | `Snakepit.Performance.ResourceMonitor` | what the machine has left |
  | `Snakepit.Performance.Policy` | what a pool wants most, and what it forbids |
  | `Snakepit.Performance.Settings` | `config :snakepit, performance_optimization: […]` |

  A pool's *model* (in the library, `native/snakepit_core/src/cost_model`) is a line for each direction, way, kind of data and
  warmth of memory: nanoseconds = a + b · bytes, corrected at the sizes that were observed. It is seeded by a
  *calibration* when the pool starts, and follows the calls. From it a *table* is compiled, which a call reads in well under
  a microsecond; workers have it too, for their results.
  """

  alias Snakepit.{Error, Pool}

  @typedoc "What the bytes are."
  @type data_type :: :binary | :string | :tensor | :dataframe | :mixed
  @type direction :: :request | :reply
  @type goal :: :minimize_latency | :maximize_throughput | :minimize_memory | :balanced

  @data_types [:binary, :string, :tensor, :dataframe, :mixed]
  @goals [:minimize_latency, :maximize_throughput, :minimize_memory, :balanced]

  @doc "The types of data, in the order of the library's numbers."
  @spec data_types() :: [data_type()]
  def data_types, do: @data_types

  @doc "The goals that a pool can have."
  @spec goals() :: [goal()]
  def goals, do: @goals

  @doc false
  # The encoder's numbers.
  @spec data_type(0..4) :: data_type()
  for {type, number} <- Enum.with_index(@data_types) do
    def data_type(unquote(number)), do: unquote(type)
  end

  @doc "The format that spec/003 names for data of this type."
  @spec format(data_type()) :: :raw | :numpy | :arrow
  def format(:tensor), do: :numpy
  def format(:dataframe), do: :arrow
  def format(_raw), do: :raw

  @doc "Whether the pool measures its transfers; else the error of a request for what it does not know."
  @spec enabled(Pool.Handle.t()) :: :ok | {:error, Error.t()}
  def enabled(%{performance: %{ref: ref}}) when ref != nil, do: :ok
  def enabled(handle), do: not_enabled(handle)

  defp not_enabled(%{name: name, options: %{fake: {_module, _}}}) do
    words =
      "pool #{inspect(name)} is a fake (Snakepit.Test): there is nothing to measure, and no way to choose"

    {:error, Error.new(:validation, :not_enabled, words, pool: name)}
  end

  defp not_enabled(%{name: name}) do
    words = "pool #{inspect(name)} does not measure its transfers: performance_optimization: [enabled: false]"
    {:error, Error.new(:validation, :not_enabled, words, pool: name)}
  end
end
