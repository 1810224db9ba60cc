defmodule Snakepit.Python.Environment.Plan do
  @moduledoc false
  # Decides what a run of the setup has to do. Pure: facts in, a decision out.

  alias Snakepit.Python.Environment.{Extras, Options, Requirement, Stamp}

  @oldest {3, 11}

  @typedoc "`asked` has the requirements of this and earlier runs; `requirements` also has those of the configuration."
  @type wanted :: %{extras: [String.t()], asked: [Requirement.t()], requirements: [Requirement.t()]}

  @typedoc "The present environment: nil if there is none, or its interpreter does not run."
  @type facts :: %{
          stamp: Stamp.t() | nil,
          package: String.t(),
          digest: String.t(),
          python: %{version: String.t(), release: {integer(), integer()}} | nil,
          base: %{prefix: Path.t()} | nil
        }

  @doc "All that is to be installed: also the requirements of earlier runs, unless `:forget` is given."
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
         # The configuration is newer than the arguments of an earlier run.
         requirements: before |> Requirement.merge(configured) |> Requirement.merge(now)
       }}
    end
  end

  @doc "Parses words, each with the place where it was written."
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

  @doc "Whether to do nothing, to install into the present environment, or to make a new one first."
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
