defmodule Snakepit.Worker.Outcome do
  @moduledoc false
  # How a run ended: the error that its callers get, and what its owner is sent. Pure.

  alias Snakepit.Error
  alias Snakepit.Worker.{Report, Run, Words}

  @type t :: %{
          error: Error.t(),
          words: String.t(),
          ready?: boolean(),
          lived_ms: non_neg_integer(),
          ran_ms: non_neg_integer(),
          commands: [String.t()],
          meant?: boolean()
        }

  @doc """
  `how`: what the launcher said of the end, in words. `tail`: the last that it printed.

  The answer has `lived_ms` since the run was ready, `ran_ms` since it was started, and `commands` that ran when it ended, the
  one begun last first: none if all workers ended with the companion, whatever they ran.
  """
  @spec new(Run.t(), how :: String.t(), tail :: binary(), now :: integer()) :: t()
  def new(%Run{} = run, how, tail, now) do
    %{
      error: error(run, run.failure || how, tail |> Words.printable() |> String.trim()),
      words: words(run.failure, how),
      ready?: run.ready_at != nil,
      lived_ms: if(run.ready_at, do: now - run.ready_at, else: 0),
      ran_ms: now - run.started_at,
      commands: commands(run),
      meant?: run.meant?
    }
  end

  defp commands(%Run{status: :companion_died}), do: []
  defp commands(%Run{ran: ran}), do: ran |> Enum.sort_by(& &1.ms) |> Enum.map(& &1.command)

  defp words(nil, how), do: how
  defp words(%Error{message: message}, _how), do: message
  defp words(words, _how), do: words

  defp error(run, %Error{} = error, said) do
    # Its output may explain why it was not ready.
    error = if error.reason == :startup_timeout, do: Report.with_output(error, said), else: error
    if run.ready_at, do: error, else: Report.with_origin(error, run.spec.options)
  end

  defp error(%Run{spec: spec} = run, how, said) do
    # The words of a worker that was never ready explain why it was not.
    how = if run.ready_at == nil and run.doing, do: "#{how}, while it #{Report.busy_with(run)}", else: how
    words = Words.end_of(spec.pool, spec.name, how, if(run.ready_at, do: "", else: said))
    error = Error.new(:worker, :exited, words, details: %{stderr: said})
    if run.ready_at, do: error, else: Report.with_origin(error, spec.options)
  end
end
