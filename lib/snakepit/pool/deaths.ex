defmodule Snakepit.Pool.Deaths do
  @moduledoc false
  # A worker's end counts against something: against the command whose call it ran, or against the worker itself. By the pool's process,
  # which alone counts.

  alias Snakepit.{Breaker, Telemetry, Transfer}
  alias Snakepit.Pool.CommandBreaker
  require Logger

  # As the backoff of workers has it.
  @young_ms 30_000
  @worker_breaker %{window_ms: 60_000, minimum_calls: 5}

  @typedoc """
  How a run ended: of itself while these commands ran (none: idle, or before it was ready), or as somebody wanted.
  """
  @type end_of_run :: {:died, commands :: [String.t()], how :: String.t()} | :meant

  @doc "A run counts as dead once, and as one that lived when it was up for long."
  @spec run_ended(Breaker.t(), non_neg_integer(), lived_ms :: integer(), now :: integer()) :: :ok
  def run_ended(breaker, index, lived_ms, _now) when lived_ms >= @young_ms, do: Breaker.reset(breaker, index)
  def run_ended(breaker, index, _lived_ms, now), do: Breaker.record(breaker, index, :failure, nil, now)

  @doc "The settings of the breakers of workers."
  @spec worker_breaker() :: map()
  def worker_breaker, do: @worker_breaker

  @doc """
  Counts the end of a run that was ready for `lived_ms`. Whether a command is blamed. `index`: nil for a worker that leaves,
  which has no breaker any more. `handle`: the pool's.
  """
  @spec over(Snakepit.Pool.Handle.t(), non_neg_integer() | nil, non_neg_integer(), end_of_run()) :: boolean()
  def over(_handle, _index, _lived_ms, :meant), do: false

  def over(handle, index, lived_ms, {:died, commands, how}) do
    # Probes run no tool.
    commands = Enum.reject(commands, &(&1 == Transfer.probe_command()))

    case commands != [] and CommandBreaker.died(handle.commands, commands, how) do
      {[_ | _], opened} ->
        if index && lived_ms >= @young_ms, do: Breaker.reset(handle.workers_breaker, index)
        Enum.each(opened, &opened(handle, &1))
        true

      # Nothing ran, or so many commands end workers that no row is left.
      _nobody ->
        if index, do: run_ended(handle.workers_breaker, index, lived_ms, now())
        false
    end
  end

  defp opened(handle, command) do
    %{^command => facts} = CommandBreaker.explain(handle.commands)

    Logger.warning(
      "pool #{inspect(handle.name)}: the calls of #{inspect(command)} ended #{facts.deaths} workers (the last: " <>
        "#{facts.last}); it is refused for #{facts.retry_in_ms} ms, then tried by one call at a time"
    )

    Telemetry.execute(
      [:snakepit, :pool, :command_refused],
      %{deaths: facts.deaths, retry_in_ms: facts.retry_in_ms},
      %{pool: handle.name, command: command, last: facts.last}
    )
  end

  defp now, do: System.monotonic_time(:millisecond)
end
