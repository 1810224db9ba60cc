defmodule Snakepit.Breaker do
  @moduledoc """
  Circuit breakers, one per target: who failed too often is left alone for a while, then tried by one caller at a time.

      breaker = Breaker.new([:grpc], open_ms: 1_000)

      case Breaker.allow(breaker, :grpc) do
        :ok -> Breaker.record(breaker, :grpc, result)
        {:ok, probe} -> Breaker.record(breaker, :grpc, result, probe)
        :open -> :go_another_way
      end

  | state | `allow/3` | left |
  |---|---|---|
  | `:closed` | `:ok` | by a failure that makes `failure_ratio` of at least `minimum_calls` within `window_ms` fail |
  | `:open` | `:open` | after a time that doubles with every probe that failed, from `open_ms` up to a minute |
  | `:half_open` | `{:ok, probe}` to one caller, `:open` to the others | by what that caller records: `:ok` closes, a failure opens |
  | `:isolated` | `:open` | by `reset/2` alone |

  A probe is a lease: when its owner dies, or takes longer than `lease_ms`, the next caller gets one, and what the first
  has to say no longer counts.

  There is no process and no lock: a row of atomics per target, which any process may use. A closed breaker is read by
  one atomic get. Times are milliseconds of `System.monotonic_time/1`; every function takes the time, so that tests need
  no clock.
  """

  alias Snakepit.Options

  # One row per target. The state has a cache line of its own: callers read it, and write to the buckets.
  #
  #   1  state: 0 closed; -1 isolated; 2t open until t; 2t + 1 a probe has its lease until t
  #   2  probes that failed in a row
  #   3  how often it opened
  #   4  calls refused
  #   5  in the first row: 1 once any target was isolated
  #   9… buckets, each an eighth of the window: number of the eighth (23 bits), failures (18), calls (18)
  #
  # A state other than closed says until when, and the next is always later: so no value comes twice, and
  # compare_exchange on it decides between callers.
  @row 16
  @state 1
  @failed_probes 2
  @opened 3
  @refused 4
  @ever_isolated 5
  @first_bucket 9
  @buckets 8

  @closed 0
  @isolated -1

  # 59 bits, the most that is no bignum. A full bucket is halved: its ratio stays.
  @count_bits 18
  @count_mask Bitwise.bsl(1, @count_bits) - 1
  @number_mask Bitwise.bsl(1, 23) - 1
  @full Bitwise.bsl(1, @count_bits - 1)
  @one_failure Bitwise.bsl(1, @count_bits) + 1

  @open_cap_ms 60_000

  @schema [
    window_ms: [type: :pos_integer, default: 10_000, doc: "Milliseconds that calls are remembered."],
    failure_ratio: [type: :ratio, default: 0.5, doc: "Opened when this share of the calls failed."],
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
  Closed breakers of these targets. Options, beside those every pool takes as `breaker:`
  (see `Snakepit.Pool.Options`): `:lease_ms`, the most a probe may take; `:minimum_failures`, fewer of which open nothing;
  `:random`, a function of numbers in 0..1; `:now`.
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
        bucket_ms: max(div(settings.window_ms, @buckets), 1),
        lease_ms: Map.get(opts, :lease_ms, 10_000),
        minimum_failures: Map.get(opts, :minimum_failures, 1),
        random: Map.get(opts, :random, &:rand.uniform/0)
      })

    rows = targets |> Enum.with_index() |> Map.new(fn {target, n} -> {target, n * @row} end)
    {:atomics.new(max(length(targets), 1) * @row, signed: true), rows, settings}
  end

  @doc """
  Whether `target` may be used. Whoever gets a probe hands it to `record/5`, whatever becomes of the call.

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

  # Whether open or leased: when its time is over, the one who changes it has the probe.
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
  What came of a call that was allowed: `:ok`, `:failure`, `:slow` (counts as one), or `:void`, which says nothing of
  the target, such as a caller's own mistake.

  While the breaker is not closed, only the owner of the probe is heard.
  """
  @spec record(t(), target(), result(), probe() | nil, ms() | nil) :: :ok
  def record(breaker, target, result, probe \\ nil, now \\ nil)

  def record(_breaker, _target, :void, nil, _now), do: :ok

  def record({ref, rows, settings}, target, result, nil, now) do
    row = :erlang.map_get(target, rows)

    if :atomics.get(ref, row + @state) == @closed do
      now = time(settings, now)
      count(ref, row, settings, result, now)
      if result != :ok and sick?(ref, row, settings, now), do: open(ref, row, settings, @closed, now)
    end

    :ok
  end

  def record({ref, rows, settings}, target, result, probe, now) do
    row = :erlang.map_get(target, rows)
    now = time(settings, now)

    case result do
      :ok ->
        # Before it is closed: nobody counts until then.
        if :atomics.get(ref, row + @state) == probe, do: clear(ref, row)
        :atomics.compare_exchange(ref, row + @state, probe, @closed)

      :void ->
        # The next one may try.
        :atomics.compare_exchange(ref, row + @state, probe, 2 * now)

      _failed ->
        if open(ref, row, settings, probe, now) == :ok, do: :atomics.add(ref, row + @failed_probes, 1)
    end

    :ok
  end

  @doc """
  Counts a failure that somebody else than the caller saw, such as the end of the caller's worker: a probe under way has
  failed with it. An open breaker stays as it is.
  """
  @spec fail(t(), target(), ms() | nil) :: :ok
  def fail({ref, rows, _settings} = breaker, target, now \\ nil) do
    case :atomics.get(ref, :erlang.map_get(target, rows) + @state) do
      @closed -> record(breaker, target, :failure, nil, now)
      state when state > 0 and rem(state, 2) == 1 -> record(breaker, target, :failure, state, now)
      # The call began before it was opened.
      _open -> :ok
    end
  end

  @doc "Whether it would answer `:open` now. Takes no probe and counts nothing."
  @spec refuses?(t(), target(), ms() | nil) :: boolean()
  def refuses?({ref, rows, settings}, target, now \\ nil) do
    case :atomics.get(ref, :erlang.map_get(target, rows) + @state) do
      @closed -> false
      @isolated -> true
      state -> not due?(state, time(settings, now))
    end
  end

  @doc "The targets that are isolated. One atomic get as long as none ever was."
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

  @doc "Closes it and forgets what it counted; a probe under way has nothing to say any more."
  @spec reset(t(), target()) :: :ok
  def reset({ref, rows, _settings}, target) do
    row = :erlang.map_get(target, rows)
    clear(ref, row)
    :atomics.put(ref, row + @state, @closed)
  end

  @doc "As new, for another target that takes its place: its counts are gone as well."
  @spec renew(t(), target()) :: :ok
  def renew({ref, rows, _settings} = breaker, target) do
    row = :erlang.map_get(target, rows)
    reset(breaker, target)
    :atomics.put(ref, row + @opened, 0)
    :atomics.put(ref, row + @refused, 0)
  end

  @doc "Its state. An open one whose time is over, so that the next caller gets a probe, is half-open."
  @spec state(t(), target(), ms() | nil) :: state()
  def state(breaker, target, now \\ nil), do: explain(breaker, target, now).state

  @doc """
  Its state and the numbers that rests on: `:calls` and `:failures` within the window, `:opened` (how often), `:refused`
  (calls), `:failed_probes` (in a row), and `:retry_in_ms`, milliseconds until the next probe: 0 when it is due, nil when
  it is closed or isolated.
  """
  @spec explain(t(), target(), ms() | nil) :: map()
  def explain({ref, rows, settings}, target, now \\ nil) do
    row = :erlang.map_get(target, rows)
    now = time(settings, now)
    {calls, failures} = counts(ref, row, settings, now)
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
  Breakers of other targets: those that it has as well keep all that is known of them. For the process that alone records.
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

  @doc "The same breakers, of which fewer failures than this open none."
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
    # At least one, so that no state comes twice.
    ms = max(trunc(ceiling * (0.5 + settings.random.() / 2)), 1)

    with :ok <- :atomics.compare_exchange(ref, row + @state, from, 2 * (now + ms)),
         do: :atomics.add(ref, row + @opened, 1)
  end

  # ---- the window -------------------------------------------------------------------------------------------------

  defp count(ref, row, settings, result, now) do
    number = div(now, settings.bucket_ms)
    at = row + @first_bucket + rem(number, @buckets)
    add(ref, at, Bitwise.band(number, @number_mask), if(result == :ok, do: 1, else: @one_failure))
  end

  defp add(ref, at, number, one) do
    bucket = :atomics.get(ref, at)
    calls = Bitwise.band(bucket, @count_mask)

    cond do
      Bitwise.bsr(bucket, 2 * @count_bits) != number ->
        exchange(ref, at, bucket, pack(number, 0, 0) + one, number, one)

      calls >= @full ->
        failures = bucket |> Bitwise.bsr(@count_bits) |> Bitwise.band(@count_mask)
        exchange(ref, at, bucket, pack(number, div(failures, 2), div(calls, 2)) + one, number, one)

      true ->
        # Should the eighth end in this moment, the call counts for the next.
        :atomics.add(ref, at, one)
    end
  end

  defp exchange(ref, at, old, new, number, one) do
    case :atomics.compare_exchange(ref, at, old, new) do
      :ok -> :ok
      _changed -> add(ref, at, number, one)
    end
  end

  defp pack(number, failures, calls),
    do:
      number |> Bitwise.bsl(@count_bits) |> Kernel.+(failures) |> Bitwise.bsl(@count_bits) |> Kernel.+(calls)

  defp sick?(ref, row, settings, now) do
    {calls, failures} = counts(ref, row, settings, now)

    calls >= settings.minimum_calls and failures >= settings.minimum_failures and
      failures >= settings.failure_ratio * calls
  end

  # The eighth that has begun, and the seven before it.
  defp counts(ref, row, %{bucket_ms: bucket_ms}, now) do
    last = div(now, bucket_ms)

    Enum.reduce(max(last - @buckets + 1, 0)..last//1, {0, 0}, fn number, {calls, failures} ->
      bucket = :atomics.get(ref, row + @first_bucket + rem(number, @buckets))

      if Bitwise.bsr(bucket, 2 * @count_bits) == Bitwise.band(number, @number_mask) do
        {calls + Bitwise.band(bucket, @count_mask),
         failures + (bucket |> Bitwise.bsr(@count_bits) |> Bitwise.band(@count_mask))}
      else
        {calls, failures}
      end
    end)
  end

  defp clear(ref, row) do
    for n <- 0..(@buckets - 1), do: :atomics.put(ref, row + @first_bucket + n, 0)
    :atomics.put(ref, row + @failed_probes, 0)
  end

  defp time(settings, nil), do: now() - settings.origin
  defp time(settings, now), do: now - settings.origin

  defp now, do: System.monotonic_time(:millisecond)
end
