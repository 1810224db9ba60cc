defmodule Snakepit.Pool.Slot do
  @moduledoc false
  # The policy for one worker of a pool, across its runs: when a run is started, replaced, or started again. Pure:
  # `handle/3` takes an event and facts, and gives the slot after it and what is to be done. `Snakepit.Pool.Manager` does it.
  #
  # A slot has a *run* that serves or is about to, and at times a *successor*, a run that is to take its place. Runs are
  # known by number. When the successor is ready, the old run *departs*: it finishes its calls and is no concern of the slot's
  # any more. A slot that never had a ready run *fails* with its first run: what is wrong would be wrong again.

  alias Snakepit.{Backoff, Error}

  # The companion is started again within moments.
  @companion_ms 100
  # After a successor that did not start.
  @next_try_ms 30_000

  @type id :: pos_integer()
  @typedoc "Whose request is answered, opaque to this module."
  @type from :: term()

  @type event ::
          {:ready, id(), started_at :: integer()}
          | {:due, id(), why :: String.t()}
          | {:not_ready, id(), Error.t() | :companion_gone}
          | {:ended, id(), ended()}
          | {:renew, from(), as_of :: integer(), why :: String.t()}
          | :turn
          | :leave

  @typedoc """
  How a run ended. `at_once?`: nothing speaks against starting another without a wait. `ran_ms`: since it was started.
  """
  @type ended :: %{
          error: Error.t(),
          ready?: boolean(),
          ran_ms: non_neg_integer(),
          at_once?: boolean()
        }

  @typedoc "`turn?`: no other slot of the pool has a successor. `random`: in 0..1."
  @type facts :: %{now: integer(), turn?: boolean(), random: float()}

  @type action ::
          {:start, id(), wait_ms :: non_neg_integer()}
          | {:depart, id()}
          | {:stop, id()}
          | {:answer, from(), :ok | {:error, Error.t()}}
          | {:joined, from()}
          | {:not_joined, from(), Error.t()}
          | {:failed, Error.t()}
          | {:trouble, String.t()}
          | {:log, {:replaced, why :: String.t()}}
          | {:log, {:not_started, words :: String.t()}}
          | {:log, {:no_successor, Error.t(), why :: String.t()}}

  @enforce_keys [:run]
  defstruct @enforce_keys ++
              [
                successor: nil,
                joining: nil,
                failed: nil,
                next: 2,
                ever_ready?: false,
                restarts: 0,
                backoff: Backoff.new(),
                renewals: [],
                not_before: nil,
                logged: nil,
                last_error: nil
              ]

  @typedoc """
  - `run`: nil once the slot failed, or while its successor starts.
  - `joining`: who gets a message that the slot's first run is ready, if the pool grows.
  - `renewals`: who wants the run replaced if it was started before a time, and why.
  - `not_before`: no recycling before. `logged`: the last failed start that was logged: once for each cause.
  """
  @type t :: %__MODULE__{
          run: %{id: id(), ready?: boolean(), started_at: integer() | nil} | nil,
          successor: %{id: id(), why: String.t()} | nil,
          joining: from() | nil,
          failed: Error.t() | nil,
          next: id(),
          ever_ready?: boolean(),
          restarts: non_neg_integer(),
          backoff: Backoff.t(),
          renewals: [{from(), integer(), String.t()}],
          not_before: integer() | nil,
          logged: String.t() | nil,
          last_error: String.t() | nil
        }

  @doc "A slot whose first run is to be started."
  @spec new(joining :: from() | nil) :: {t(), [action()]}
  def new(joining \\ nil), do: {%__MODULE__{run: starting(1), joining: joining}, [{:start, 1, 0}]}

  @doc "Whether this run is to be started still, and serves the slot when it is ready."
  @spec wants?(t(), id()) :: boolean()
  def wants?(%__MODULE__{run: run, successor: successor}, id),
    do: match?(%{id: ^id}, run) or match?(%{id: ^id}, successor)

  @doc "Whether this run serves."
  @spec serving?(t(), id()) :: boolean()
  def serving?(%__MODULE__{run: run}, id), do: match?(%{id: ^id, ready?: true}, run)

  @spec handle(t(), event(), facts()) :: {t(), [action()]}
  def handle(%__MODULE__{run: %{id: id}} = slot, {:ready, id, started_at}, facts) do
    joined = if slot.joining, do: [{:joined, slot.joining}], else: []
    slot |> served_by(id, started_at) |> renew(facts) |> after_doing(joined)
  end

  def handle(%__MODULE__{successor: %{id: id}} = slot, {:ready, id, started_at}, facts) do
    depart = if slot.run, do: [{:depart, slot.run.id}], else: []
    slot |> served_by(id, started_at) |> renew(facts) |> after_doing(depart)
  end

  def handle(%__MODULE__{run: %{id: id, ready?: true}, successor: nil} = slot, {:due, id, why}, facts) do
    if facts.turn? and (slot.not_before == nil or facts.now >= slot.not_before),
      do: slot |> succeed(why) |> after_doing([{:log, {:replaced, why}}]),
      else: {slot, []}
  end

  def handle(slot, {:not_ready, id, :companion_gone}, _facts),
    do: {slot, if(wants?(slot, id), do: [{:start, id, @companion_ms}], else: [])}

  def handle(slot, {:not_ready, id, error}, facts),
    do: handle(slot, {:ended, id, %{error: error, ready?: false, ran_ms: 0, at_once?: false}}, facts)

  def handle(%__MODULE__{run: %{id: id}} = slot, {:ended, id, ended}, facts) do
    {slot, actions} = remember(%{slot | last_error: ended.error.message}, ended)
    slot |> after_end(ended, facts) |> after_doing(actions)
  end

  def handle(%__MODULE__{successor: %{id: id, why: why}} = slot, {:ended, id, %{error: error}}, facts) do
    slot = %{slot | successor: nil}
    {asked, others} = Enum.split_with(slot.renewals, fn {_, _, wanted} -> wanted == why end)

    {slot, actions} =
      if asked == [],
        do: {%{slot | not_before: facts.now + @next_try_ms}, [{:log, {:no_successor, error, why}}]},
        else: {%{slot | renewals: others}, answers(asked, {:error, error})}

    # Without a run, the successor was the only one.
    if(slot.run, do: renew(slot, facts), else: later(slot, 0, facts)) |> after_doing(actions)
  end

  def handle(%__MODULE__{failed: %Error{} = error} = slot, {:renew, from, _as_of, _why}, _facts),
    do: {slot, [{:answer, from, {:error, error}}]}

  def handle(slot, {:renew, from, as_of, why}, facts),
    do: renew(%{slot | renewals: slot.renewals ++ [{from, as_of, why}]}, facts)

  def handle(slot, :turn, facts), do: renew(slot, facts)

  # The slot is given up. A run that serves finishes its calls.
  def handle(slot, :leave, _facts) do
    actions = answers(slot.renewals, :ok)

    runs =
      case slot.run do
        nil -> []
        %{ready?: true, id: id} -> [{:depart, id}]
        %{id: id} -> [{:stop, id}]
      end

    successor = if slot.successor, do: [{:stop, slot.successor.id}], else: []
    {%{slot | run: nil, successor: nil, renewals: []}, actions ++ runs ++ successor}
  end

  # About a run that is no concern of the slot's any more.
  def handle(slot, _event, _facts), do: {slot, []}

  defp starting(id), do: %{id: id, ready?: false, started_at: nil}

  defp served_by(slot, id, started_at) do
    run = %{id: id, ready?: true, started_at: started_at}
    %{slot | run: run, successor: nil, joining: nil, ever_ready?: true, logged: nil}
  end

  # A run that is not ready yet is waited for, and so is a successor that is under way.
  defp renew(%{renewals: [_ | _], run: %{ready?: true, started_at: at}, successor: nil} = slot, facts) do
    {done, open} = Enum.split_with(slot.renewals, fn {_, as_of, _} -> at >= as_of end)
    slot = %{slot | renewals: open}

    case open do
      [{_, _, why} | _] when facts.turn? -> slot |> succeed(why) |> after_doing(answers(done, :ok))
      _ -> {slot, answers(done, :ok)}
    end
  end

  defp renew(slot, _facts), do: {slot, []}

  defp succeed(%{next: id} = slot, why),
    do: {%{slot | successor: %{id: id, why: why}, next: id + 1}, [{:start, id, 0}]}

  defp remember(slot, %{ready?: true, error: error}), do: {slot, [{:trouble, error.message}]}

  # A start after the first that failed: its cause is logged once.
  defp remember(%{ever_ready?: true} = slot, %{error: %{message: words} = error}) do
    log = if slot.logged != words, do: [{:log, {:not_started, words}}], else: []
    actions = answers(slot.renewals, {:error, error}) ++ [{:trouble, words} | log]
    {%{slot | renewals: [], logged: words}, actions}
  end

  defp remember(slot, _ended), do: {slot, []}

  defp after_end(%{ever_ready?: false} = slot, %{error: error}, _facts) do
    failure = if slot.joining, do: {:not_joined, slot.joining, error}, else: {:failed, error}
    answers = answers(slot.renewals, {:error, error})
    {%{slot | run: nil, failed: error, joining: nil, renewals: []}, answers ++ [failure]}
  end

  # It will be ready before another could be; if it is not, its end says so.
  defp after_end(%{successor: %{}} = slot, _ended, _facts), do: {%{slot | run: nil}, []}
  defp after_end(slot, %{at_once?: true}, _facts), do: start(slot, 0)
  defp after_end(slot, %{ran_ms: ran_ms}, facts), do: later(slot, ran_ms, facts)

  defp later(slot, ran_ms, facts) do
    {wait, backoff} = Backoff.next(slot.backoff, ran_ms, facts.random)
    start(%{slot | backoff: backoff}, wait)
  end

  defp start(%{next: id} = slot, wait),
    do: {%{slot | run: starting(id), next: id + 1, restarts: slot.restarts + 1}, [{:start, id, wait}]}

  defp answers(renewals, answer), do: for({from, _, _} <- renewals, do: {:answer, from, answer})

  defp after_doing({slot, actions}, first), do: {slot, first ++ actions}
end
