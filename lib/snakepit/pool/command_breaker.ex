defmodule Snakepit.Pool.CommandBreaker do
  @moduledoc false
  # Breakers of the commands of a pool that ended workers. A command whose calls end as many workers within a minute as
  # the pool has (three at least), and a fifth of its calls do, is refused, then tried by one call at a time. One that
  # happens to run when something else kills workers ends far fewer of its calls so.
  #
  # A pool none of whose commands ever ended a worker pays one atomic read a call. A command gets a row when it first
  # ends a worker, and loses it after a minute without. Callers ask and say how probes went; only the pool's process
  # gives rows, takes them back, and counts deaths.

  alias Snakepit.{Breaker, Error}

  @rows 64
  @window_ms 60_000
  @least_deaths 3
  @share 0.2
  # A tool under trial may take as long before another call tries it as well.
  @lease_ms 60_000

  # known: an atomic, how many commands have a row. table: {command, row, deaths, how the last worker ended}.
  @enforce_keys [:known, :table, :breaker]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          known: :atomics.atomics_ref(),
          table: :ets.table(),
          breaker: Breaker.t()
        }
  @typep row :: non_neg_integer()
  @typedoc "A call of a command that has a row, and its probe if it is one."
  @opaque suspect :: {row(), Breaker.probe() | nil}

  @doc "By the process that owns it."
  @spec new(workers :: pos_integer(), keyword()) :: t()
  def new(workers, opts \\ []) do
    settings =
      [
        window_ms: @window_ms,
        failure_ratio: @share,
        minimum_calls: 1,
        minimum_failures: least_deaths(workers),
        lease_ms: @lease_ms
      ] ++ opts

    %__MODULE__{
      known: :atomics.new(1, signed: false),
      table: :ets.new(:snakepit_commands, [:set, :protected, read_concurrency: true]),
      breaker: Breaker.new(Enum.to_list(0..(@rows - 1)), settings)
    }
  end

  @doc "The same for a pool of so many workers."
  @spec resize(t(), workers :: pos_integer()) :: t()
  def resize(%__MODULE__{} = t, workers),
    do: %{t | breaker: Breaker.minimum_failures(t.breaker, least_deaths(workers))}

  defp least_deaths(workers), do: max(workers, @least_deaths)

  # ---- for callers ------------------------------------------------------------------------------------------------

  @doc "Whether a call of `command` may run. A caller that gets a suspect hands it on, whatever becomes of the call."
  @spec allow(t(), String.t()) :: {:ok, suspect() | nil} | {:open, row()}
  def allow(%__MODULE__{known: known} = t, command) do
    if :atomics.get(known, 1) == 0, do: {:ok, nil}, else: look(t, command)
  end

  @doc "The same once more, of a call that waited since: others of its command may have ended their workers."
  @spec allow_still(t(), String.t(), suspect() | nil) :: {:ok, suspect() | nil} | {:open, row()}
  def allow_still(_t, _command, {_row, probe} = suspect) when probe != nil, do: {:ok, suspect}
  def allow_still(t, command, _not_on_trial), do: allow(t, command)

  defp look(t, command) do
    with row when row != nil <- row(t, command) do
      case Breaker.allow(t.breaker, row) do
        :ok -> {:ok, {row, nil}}
        {:ok, probe} -> {:ok, {row, probe}}
        :open -> {:open, row}
      end
    else
      nil -> {:ok, nil}
    end
  end

  # The table goes with the pool's process.
  defp row(t, command) do
    case :ets.lookup(t.table, command) do
      [{_, row, _, _}] -> row
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end

  @doc "Records the end of the call. Its worker's end is counted by the pool, not here."
  @spec record(t(), suspect() | nil, {:ok, term()} | {:error, Error.t()} | tuple()) :: :ok
  def record(_t, nil, _result), do: :ok

  def record(t, suspect, {:error, %Error{category: category}})
      when category not in [:python_error, :validation],
      do: void(t, suspect)

  def record(t, {row, probe}, _answered), do: Breaker.record(t.breaker, row, :ok, probe)

  @doc "Nothing is known of the call: another may try its command."
  @spec void(t(), suspect() | nil) :: :ok
  def void(_t, nil), do: :ok
  def void(t, {row, probe}), do: Breaker.record(t.breaker, row, :void, probe)

  @doc "The error of a call that is refused."
  @spec refused(t(), atom(), String.t()) :: Error.t()
  def refused(t, pool, command) do
    %{deaths: deaths, last: last, retry_in_ms: ms, state: state} = facts(t, command)

    again =
      if state == :half_open and ms > 0,
        do: "One call tries it at the moment",
        else: "It is tried again in #{ms || 0} ms"

    words =
      "pool #{inspect(pool)} does not run #{inspect(command)}: its calls ended #{deaths} workers (the last: #{last}). " <>
        "#{again}; Snakepit.reset_command(#{inspect(pool)}, #{inspect(command)}) allows it at once"

    details = %{deaths: deaths, last: last, retry_in_ms: ms || 0}
    Error.new(:pool, :command_breaker_open, words, pool: pool, command: command, details: details)
  end

  @doc "By command: as `Breaker.explain/3`, with `:deaths`, workers it ended, and `:last`, how the last of them did."
  @spec explain(t()) :: %{String.t() => map()}
  def explain(t) do
    for {command, _, _, _} <- :ets.tab2list(t.table), into: %{}, do: {command, facts(t, command)}
  rescue
    ArgumentError -> %{}
  end

  defp facts(t, command) do
    case :ets.lookup(t.table, command) do
      [{_, row, deaths, last}] ->
        t.breaker |> Breaker.explain(row) |> Map.merge(%{deaths: deaths, last: last})

      # Forgotten in this moment.
      [] ->
        %{state: :closed, deaths: 0, last: "", retry_in_ms: 0}
    end
  rescue
    ArgumentError -> %{state: :closed, deaths: 0, last: "", retry_in_ms: 0}
  end

  # ---- for the pool's process -------------------------------------------------------------------------------------

  @doc """
  A worker ended while these commands ran on it. Says which of them is blamed, and which breakers that opened; nobody is
  blamed if there is no row left.

  `commands` begins with the call that was begun last. Among several, the one is blamed that ended most of the workers it ran
  on: one that is on trial before all others, then by the share of deaths in its calls, then by their number. If that does
  not tell them apart, the one begun last: a long call is there whenever a short one kills, and dies with it.
  """
  @spec died(t(), [String.t(), ...], how :: String.t(), now :: integer() | nil) ::
          {blamed :: [String.t()], opened :: [String.t()]}
  def died(t, commands, how, now \\ nil) do
    scored = for command <- Enum.uniq(commands), do: {score(t, command, now), command}
    # The first of those that are equal.
    {_score, worst} = Enum.max_by(scored, &elem(&1, 0))

    case row(t, worst) || give_row(t, worst, now) do
      nil -> {[], []}
      row -> {[worst], if(count(t, worst, row, how, now), do: [worst], else: [])}
    end
  end

  defp score(t, command, now) do
    case row(t, command) do
      nil ->
        {0, 1.0, 0}

      row ->
        seen = Breaker.explain(t.breaker, row, now)
        on_trial = if seen.state == :half_open, do: 1, else: 0
        {on_trial, (seen.failures + 1) / (seen.calls + 1), seen.failures}
    end
  end

  # Whether that opened its breaker.
  defp count(t, command, row, how, now) do
    before = Breaker.explain(t.breaker, row, now).opened
    Breaker.fail(t.breaker, row, now)
    :ets.update_counter(t.table, command, {3, 1})
    :ets.update_element(t.table, command, {4, how})
    Breaker.explain(t.breaker, row, now).opened > before
  end

  defp give_row(t, command, now) do
    taken = for {_, row, _, _} <- :ets.tab2list(t.table), do: row

    case Enum.to_list(0..(@rows - 1)) -- taken do
      [row | _] ->
        Breaker.renew(t.breaker, row)
        :ets.insert(t.table, {command, row, 0, ""})
        count_known(t)
        row

      [] ->
        if forget(t, now) < @rows or forget_unwanted(t, now), do: give_row(t, command, now)
    end
  end

  # One that nobody has called since it might be tried again. Whether there was one.
  defp forget_unwanted(t, now) do
    unwanted? = fn {_, row, _, _} ->
      match?(%{state: :half_open, retry_in_ms: 0}, Breaker.explain(t.breaker, row, now))
    end

    case Enum.find(:ets.tab2list(t.table), unwanted?) do
      {command, _, _, _} -> :ets.delete(t.table, command)
      nil -> false
    end
  end

  @doc "Takes the rows back of commands that ended no worker for a minute; how many are left."
  @spec forget(t(), now :: integer() | nil) :: non_neg_integer()
  def forget(t, now \\ nil) do
    for {command, row, _, _} <- :ets.tab2list(t.table),
        %{state: :closed, failures: 0} <- [Breaker.explain(t.breaker, row, now)],
        do: :ets.delete(t.table, command)

    count_known(t)
  end

  @doc "Allows a command at once, and forgets what it did. Whether it had a row."
  @spec reset(t(), String.t()) :: boolean()
  def reset(t, command) do
    known? = :ets.take(t.table, command) != []
    count_known(t)
    known?
  end

  defp count_known(t) do
    size = :ets.info(t.table, :size)
    :atomics.put(t.known, 1, size)
    size
  end

  @doc "After how many milliseconds without a death a command is forgotten."
  @spec window_ms() :: pos_integer()
  def window_ms, do: @window_ms
end
