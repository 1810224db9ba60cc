defmodule Snakepit.Python.Environment.Plan do
  @moduledoc false
  # What a run of the setup has to do. Pure: facts in, a decision out.

  alias Snakepit.Python.Environment.{Extras, Options, Requirement, Stamp}

  @oldest {3, 11}

  @typedoc "`asked` is what this and earlier runs named; `requirements` has what the configuration says as well."
  @type wanted :: %{extras: [String.t()], asked: [Requirement.t()], requirements: [Requirement.t()]}

  @typedoc "What is there: nil where there is none, or it does not run."
  @type facts :: %{
          stamp: Stamp.t() | nil,
          package: String.t(),
          digest: String.t(),
          python: %{version: String.t(), release: {integer(), integer()}} | nil,
          base: %{prefix: Path.t()} | nil
        }

  @doc "What to install in all: nothing that an earlier run asked for is left out, unless it is to be forgotten."
  @spec wanted(Options.t(), configured :: [Requirement.t()], Stamp.t() | nil) ::
          {:ok, wanted()} | {:error, String.t()}
  def wanted(%Options{} = options, configured, stamp) do
    earlier = if options.forget or stamp == nil, do: %{extras: [], asked: []}, else: stamp
    {extras, words} = Extras.among(options.with)

    with {:ok, before} <-
           parsed(
             earlier.asked,
             ", which an earlier run asked for: name it anew, or leave it out with --force --forget"
           ),
         {:ok, now} <- parsed(words ++ options.requirements, "") do
      {:ok,
       %{
         extras: Extras.complete(earlier.extras ++ extras),
         asked: Requirement.merge(before, now),
         # The configuration is newer than what an earlier run was told.
         requirements: before |> Requirement.merge(configured) |> Requirement.merge(now)
       }}
    end
  end

  @doc "The requirements that these words and places are."
  @spec parsed([String.t() | {atom(), Path.t()}], String.t()) ::
          {:ok, [Requirement.t()]} | {:error, String.t()}
  def parsed(words, more) do
    Enum.reduce_while(words, {:ok, []}, fn word, {:ok, done} ->
      case Requirement.parse(word) do
        {:ok, requirement} -> {:cont, {:ok, done ++ [requirement]}}
        {:error, message} -> {:halt, {:error, message <> more}}
      end
    end)
  end

  @doc "Whether to do nothing, to install into what is there, or to make the environment anew first."
  @spec decide(Options.t(), wanted(), facts()) :: :nothing | :install | :make
  def decide(%Options{force: force?}, wanted, facts) do
    cond do
      force? or broken?(facts) -> :make
      facts.stamp && facts.base && facts.base.prefix != facts.stamp.base -> :make
      complete?(wanted, facts) -> :nothing
      true -> :install
    end
  end

  defp broken?(%{python: nil}), do: true
  defp broken?(%{python: python}), do: python.release < @oldest

  defp complete?(_wanted, %{stamp: nil}), do: false

  defp complete?(wanted, %{stamp: stamp} = facts) do
    wanted.extras -- stamp.extras == [] and stamp.package == facts.package and stamp.digest == facts.digest and
      stamp.version == facts.python.version
  end

  @doc "The oldest Python that serves."
  @spec oldest() :: {integer(), integer()}
  def oldest, do: @oldest
end
