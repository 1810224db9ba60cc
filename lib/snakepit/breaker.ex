defmodule Snakepit.Breaker do
  @moduledoc """
  Circuit breakers, one per target: a target that fails too often is not used for a while, then tried by one caller at a time.

      breaker = Breaker.new([:grpc], open_ms: 1_000)

      case Breaker.allow(breaker, :grpc) do
        :ok -> Breaker.record(breaker, :grpc, result)
        {:ok, probe} -> Breaker.record(breaker, :grpc, result, probe)
        :open -> :go_another_way
      end

  | state | `allow/3` answers | ends |
  |---|---|---|
  | `:closed` | `:ok` | by a failure that makes `failure_ratio` of at least `minimum_calls` within `window_ms` fail |
  | `:open` | `:open` | after a time that doubles with every failed probe, from `open_ms` up to a minute |
  | `:half_open` | `{:ok, probe}` to one caller, `:open` to the others | by the result that this caller records: `:ok` closes, a failure opens |
  | `:isolated` | `:open` | only by `reset/2` |

  A probe is a lease: when its owner dies, or takes longer than `lease_ms`, the next caller gets one, and the result of
  the first no longer counts.

  There is no process and no lock: each target has a row of atomics, which any process may use. Reading a closed breaker
  takes one atomic get. Times are milliseconds of `System.monotonic_time/1`; every function takes the time as an argument,
  so tests need no clock.
  """

  alias Snakepit.Breaker.Window
  alias Snakepit.Options

  # One row per target. The state has a cache line of its own: callers read it, and write to the buckets.
  #
  #   1  state: 0 closed; -1 isolated; 2t open until t; 2t + 1 a probe has its lease until t
  #   2  probes that failed in a row
  #   3  how often it opened
  #   4  calls refused
  #   5  in the first row: 1 once any target was isolated
  #   9… the calls of the window (`Window`)
  #
  # Every state but closed contains a time, and the next state's time is later. So no value comes twice, and
  # compare_exchange on it decides which caller changes the state.
  @row 16
  @state 1
  @failed_probes 2
  @opened 3
  @refused 4
  @ever_isolated 5
  @first_bucket 9

  @closed 0
  @isolated -1

  @open_cap_ms 60_000

  @schema [
    window_ms: [type: :pos_integer, default: 10_000, doc: "Milliseconds that calls are remembered."],
    failure_ratio: [type: :ratio, default: 0.5, doc: "Opens when this share of the calls failed."],
    minimum_calls: [type: :pos_integer, default: 20, doc: "Fewer calls within the window open nothing."],
    open_ms: [
      type: :pos_integer,
      default: 1_000,
      doc:
        "Milliseconds until it is tried again; doubled with every failed trial up to a minute, less up to half, at random."
    ],
    slow_ms: [
      type: :timeout,
      default: 5_000,
      doc: "Milliseconds, the tool's own not counted, above which a call counts as failed."
    ]
  ]

  # A tuple is taken apart faster than a struct: the array, the targets' rows, the settings.
  @opaque t :: {:atomics.atomics_ref(), %{target() => non_neg_integer()}, map()}
  @type target :: term()
  @opaque probe :: pos_integer()
  @type result :: :ok | :failure | :slow | :void
  @type state :: :closed | :open | :half_open | :isolated
  @type ms :: integer()

  @doc "The options of `new/2` that users may set."
  @spec schema() :: Options.schema()
  def schema, do: @schema

  @doc """
  Closed breakers of these targets. Options are those of a pool's `breaker:` (`Snakepit.Pool.Options`), and `:lease_ms`, the
  most a probe may take; `:minimum_failures`, with fewer than which a breaker stays closed; `:random`, a function that
  returns numbers in 0..1; `:now`.
  """
  @spec new([target()], map() | keyword()) :: t()
  def new(targets, opts \\ []) do
    opts = Map.new(opts)
    defaults = Map.new(@schema, fn {key, spec} -> {key, spec[:default]} end)
    settings = Map.merge(defaults, Map.take(opts, Map.keys(defaults)))

    settings =
      Map.merge(settings, %{
        # The first millisecond is number 1: 0 would be a closed breaker.
        origin: Map.get_lazy(opts, :now, &now/0) - 1,
        bucket_ms: max(div(settings.window_ms, Window.buckets()), 1),
        lease_ms: Map.get(opts, :lease_ms, 10_000),
        minimum_failures: Map.get(opts, :minimum_failures, 1),
        random: Map.get(opts, :random, &:rand.uniform/0)
      })

    rows = targets |> Enum.with_index() |> Map.new(fn {target, n} -> {target, n * @row} end)
    {:atomics.new(max(length(targets), 1) * @row, signed: true), rows, settings}
  end

  @doc """
  Whether `target` may be used. A caller that gets a probe must pass it to `record/5`, however the call ends.

  Without a time, the clock is read only when the breaker is not closed.
  """
  @spec allow(t(), target(), ms() | nil) :: :ok | {:ok, probe()} | :open
  def allow({ref, rows, settings}, target, now \\ nil) do
    row = :erlang.map_get(target, rows)

    case :atomics.get(ref, row + @state) do
      @closed -> :ok
      state -> allow_again(ref, row, settings, state, time(settings, now))
    end
  end

  # Open or leased: when its time is over, the caller that changes the state has the probe.
  defp allow_again(ref, row, settings, state, now) do
    lease = 2 * (now + settings.lease_ms) + 1

    with true <- state != @isolated and due?(state, now),
         :ok <- :atomics.compare_exchange(ref, row + @state, state, lease) do
      {:ok, lease}
    else
      @closed ->
        :ok

      _refused ->
        :atomics.add(ref, row + @refused, 1)
        :open
    end
  end

  @doc """
  Records the result of an allowed call: `:ok`, `:failure`, `:slow` (counts as a failure), or `:void` for a result that
  says nothing about the target, such as a caller's own mistake.

  While the breaker is not closed, only the result of the probe's owner counts.
  """
  @spec record(t(), target(), result(), probe() | nil, ms() | nil) :: :ok
  def record(breaker, target, result, probe \\ nil, now \\ nil)

  def record(_breaker, _target, :void, nil, _now), do: :ok

  def record({ref, rows, settings}, target, result, nil, now) do
    row = :erlang.map_get(target, rows)

    if :atomics.get(ref, row + @state) == @closed do
      now = time(settings, now)
      Window.count(ref, row + @first_bucket, settings.bucket_ms, now, result != :ok)
      if result != :ok and sick?(ref, row, settings, now), do: open(ref, row, settings, @closed, now)
    end

    :ok
  end

  def record({ref, rows, settings}, target, result, probe, now) do
    row = :erlang.map_get(target, rows)
    now = time(settings, now)

    case result do
      :ok ->
        # Before the state changes, because callers count only in a closed breaker.
        if :atomics.get(ref, row + @state) == probe, do: clear(ref, row)
        :atomics.compare_exchange(ref, row + @state, probe, @closed)

      :void ->
        # The next caller gets a probe.
        :atomics.compare_exchange(ref, row + @state, probe, 2 * now)

      _failed ->
        if open(ref, row, settings, probe, now) == :ok, do: :atomics.add(ref, row + @failed_probes, 1)
    end

    :ok
  end

  @doc """
  Counts a failure that another process than the caller saw, such as the end of the caller's worker. A running probe fails
  with it; an open breaker stays open.
  """
  @spec fail(t(), target(), ms() | nil) :: :ok
  def fail({ref, rows, _settings} = breaker, target, now \\ nil) do
    case :atomics.get(ref, :erlang.map_get(target, rows) + @state) do
      @closed -> record(breaker, target, :failure, nil, now)
      state when state > 0 and rem(state, 2) == 1 -> record(breaker, target, :failure, state, now)
      # The call began before the breaker opened.
      _open -> :ok
    end
  end

  @doc "Whether `allow/3` would answer `:open` now. Takes no probe and counts no refusal."
  @spec refuses?(t(), target(), ms() | nil) :: boolean()
  def refuses?({ref, rows, settings}, target, now \\ nil) do
    case :atomics.get(ref, :erlang.map_get(target, rows) + @state) do
      @closed -> false
      @isolated -> true
      state -> not due?(state, time(settings, now))
    end
  end

  @doc "The isolated targets. Costs one atomic get until a target is isolated for the first time."
  @spec isolated(t()) :: [target()]
  def isolated({ref, rows, _settings} = breaker) do
    case :atomics.get(ref, @ever_isolated) do
      0 -> []
      1 -> for {target, _row} <- rows, isolated?(breaker, target), do: target
    end
  end

  @doc "Whether it is isolated."
  @spec isolated?(t(), target()) :: boolean()
  def isolated?({ref, rows, _settings}, target),
    do: :atomics.get(ref, :erlang.map_get(target, rows) + @state) == @isolated

  @doc "Opens it until it is reset."
  @spec isolate(t(), target()) :: :ok
  def isolate({ref, rows, _settings}, target) do
    :atomics.put(ref, :erlang.map_get(target, rows) + @state, @isolated)
    :atomics.put(ref, @ever_isolated, 1)
  end

  @doc "Closes the breaker and clears its window; the result of a running probe no longer counts."
  @spec reset(t(), target()) :: :ok
  def reset({ref, rows, _settings}, target) do
    row = :erlang.map_get(target, rows)
    clear(ref, row)
    :atomics.put(ref, row + @state, @closed)
  end

  @doc "Makes the breaker new for another target that takes its place: as `reset/2`, and clears all counts."
  @spec renew(t(), target()) :: :ok
  def renew({ref, rows, _settings} = breaker, target) do
    row = :erlang.map_get(target, rows)
    reset(breaker, target)
    :atomics.put(ref, row + @opened, 0)
    :atomics.put(ref, row + @refused, 0)
  end

  @doc "The state. An open breaker is half-open once its time is over and the next caller gets a probe."
  @spec state(t(), target(), ms() | nil) :: state()
  def state(breaker, target, now \\ nil), do: explain(breaker, target, now).state

  @doc """
  The state and its numbers: `:calls` and `:failures` within the window, `:opened` (how often), `:refused`
  (calls), `:failed_probes` (in a row), and `:retry_in_ms`, milliseconds until the next probe: 0 when it is due, nil when
  it is closed or isolated.
  """
  @spec explain(t(), target(), ms() | nil) :: map()
  def explain({ref, rows, settings}, target, now \\ nil) do
    row = :erlang.map_get(target, rows)
    now = time(settings, now)
    {calls, failures} = Window.counts(ref, row + @first_bucket, settings.bucket_ms, now)
    {state, retry} = :atomics.get(ref, row + @state) |> named(now)

    %{
      state: state,
      calls: calls,
      failures: failures,
      opened: :atomics.get(ref, row + @opened),
      refused: :atomics.get(ref, row + @refused),
      failed_probes: :atomics.get(ref, row + @failed_probes),
      retry_in_ms: retry
    }
  end

  @doc "Milliseconds above which a call is slow."
  @spec slow_ms(t()) :: timeout()
  def slow_ms({_ref, _rows, settings}), do: settings.slow_ms

  @doc """
  Breakers of these targets; a target that the given breakers have too keeps its state and counts. Only the process that records may call
  this.
  """
  @spec retarget(t(), [target()]) :: t()
  def retarget({old, old_rows, settings}, targets) do
    rows = targets |> Enum.with_index() |> Map.new(fn {target, n} -> {target, n * @row} end)
    ref = :atomics.new(max(length(targets), 1) * @row, signed: true)

    for {target, row} <- rows, was = old_rows[target], n <- 1..@row, n != @ever_isolated do
      :atomics.put(ref, row + n, :atomics.get(old, was + n))
    end

    :atomics.put(ref, @ever_isolated, :atomics.get(old, @ever_isolated))
    {ref, rows, settings}
  end

  @doc "The same breakers, which stay closed below this number of failures."
  @spec minimum_failures(t(), pos_integer()) :: t()
  def minimum_failures({ref, rows, settings}, n), do: {ref, rows, %{settings | minimum_failures: n}}

  @doc "Its targets."
  @spec targets(t()) :: [target()]
  def targets({_ref, rows, _settings}), do: Map.keys(rows)

  defp named(@closed, _now), do: {:closed, nil}
  defp named(@isolated, _now), do: {:isolated, nil}
  defp named(state, now) when rem(state, 2) == 1, do: {:half_open, max(div(state, 2) - now, 0)}

  defp named(state, now),
    do: if(due?(state, now), do: {:half_open, 0}, else: {:open, div(state, 2) - now})

  defp due?(state, now), do: now >= div(state, 2)

  defp open(ref, row, settings, from, now) do
    cap = max(@open_cap_ms, settings.open_ms)
    failed = :atomics.get(ref, row + @failed_probes) + if(from == @closed, do: 0, else: 1)
    ceiling = min(cap, settings.open_ms * Integer.pow(2, min(failed, 16)))
    # At least 1, so no state comes twice.
    ms = max(trunc(ceiling * (0.5 + settings.random.() / 2)), 1)

    with :ok <- :atomics.compare_exchange(ref, row + @state, from, 2 * (now + ms)),
         do: :atomics.add(ref, row + @opened, 1)
  end

  defp sick?(ref, row, settings, now) do
    {calls, failures} = Window.counts(ref, row + @first_bucket, settings.bucket_ms, now)

    calls >= settings.minimum_calls and failures >= settings.minimum_failures and
      failures >= settings.failure_ratio * calls
  end

  defp clear(ref, row) do
    Window.clear(ref, row + @first_bucket)
    :atomics.put(ref, row + @failed_probes, 0)
  end

  defp time(settings, nil), do: now() - settings.origin
  defp time(settings, now), do: now - settings.origin

  defp now, do: System.monotonic_time(:millisecond)
end
