defmodule Snakepit.Performance.ThresholdManager do
  @moduledoc """
  From which size on a pool's data goes by shared memory, for each type of data: base × adjustment × resource factor.

  The base is the policy's, else `default_zero_copy_threshold_mb`. Every ten seconds the adjustment takes a step toward the
  crossover that was measured, at most by a factor of two, and not for less than a quarter. The resource factor is 4 when
  memory is scarce, 1/2 when CPU is. The result stays between `minimum_threshold_mb` and `maximum_threshold_mb`.

  These thresholds decide where measurements do not: a pool's table goes by what each way costs as soon as that is known.
  One that somebody sets (`adjust_threshold/2`) decides whatever is measured, until it is reset.

  Every change is kept (`changes/1`), emitted as an event, and guarded: if the pool's calls are slower afterwards by more than a
  tenth, it is undone. Its old and new value are without the resource factor, which comes and goes. A value that
  somebody set, or that was undone, is logged at once; a tuned one when it comes to rest, if it moved by a factor of two.
  """

  use GenServer
  alias Snakepit.{Error, Performance, Telemetry}

  alias Snakepit.Performance.{GuardedChange, MetricsStore, ResourceMonitor, Settings}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.{Learning, Thresholds}

  alias Snakepit.Pool.{Events, Handle}
  require Logger

  @tick_ms 10_000
  @window_s 30
  @kept_changes 100
  # Less than so many times as large, or as small, as the log has it: not worth a line.
  @worth_a_line 2
  @table :snakepit_thresholds

  @doc "Makes the table that thresholds are read from; it lives as long as the process that calls this."
  @spec create() :: :ok
  def create do
    if :ets.whereis(@table) == :undefined,
      do: :ets.new(@table, [:set, :public, :named_table, read_concurrency: true])

    :ok
  end

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "The threshold in force, in bytes. No process is asked."
  @spec get_threshold(atom(), Performance.data_type()) :: {:ok, pos_integer()} | {:error, Error.t()}
  def get_threshold(pool, data_type) do
    with {:ok, handle} <- Handle.fetch(pool), :ok <- type(data_type) do
      {:ok, in_force(handle, data_type, state_of(handle, data_type))}
    end
  end

  @doc """
  Sets a threshold: `%{bytes: n}`, or `%{factor: f}` times the present one, for `:data_type` (or for all types), with a
  `:reason` for the log. It holds until it is reset, undone, or found to make calls slower.
  """
  @spec adjust_threshold(atom(), map()) :: :ok | {:error, Error.t()}
  def adjust_threshold(pool, adjustment) do
    with {:ok, handle} <- measured(pool),
         {:ok, adjustment} <- adjustment(adjustment) do
      types = if adjustment.data_type == :all, do: Performance.data_types(), else: [adjustment.data_type]
      call({:adjust, handle.name, types, adjustment})
    end
  end

  @doc "Forgets what was set and tuned: back to the base."
  @spec reset_thresholds(atom()) :: :ok | {:error, Error.t()}
  def reset_thresholds(pool) do
    with {:ok, handle} <- measured(pool), do: call({:reset, handle.name})
  end

  @doc "Undoes the latest change that was not undone yet."
  @spec undo(atom()) :: :ok | {:error, Error.t()}
  def undo(pool) do
    with {:ok, handle} <- measured(pool), do: call({:undo, handle.name})
  end

  @doc "A pool's changes since it was started, newest first; their knobs are `{:threshold, data_type}`, their values bytes."
  @spec changes(atom()) :: [GuardedChange.t()]
  def changes(pool) do
    with {:ok, %{performance: %{ref: ref}}} <- Handle.fetch(pool),
         [{_, ^ref, changes}] <- :ets.lookup(@table, {:changes, pool}) do
      changes
    else
      _ -> []
    end
  rescue
    ArgumentError -> []
  end

  @doc false
  # A step of the tuning, and the verdicts that are due: what the ticks do.
  @spec tune(atom(), now :: integer()) :: :ok
  def tune(pool, now \\ now()), do: GenServer.call(__MODULE__, {:tune, pool, now})

  defp call(message) do
    GenServer.call(__MODULE__, message)
  catch
    :exit, _ ->
      {:error, Error.new(:pool, :stopped, "the threshold manager is being started again: try once more")}
  end

  defp measured(pool) do
    with {:ok, handle} <- Handle.fetch(pool), :ok <- Performance.enabled(handle), do: {:ok, handle}
  end

  @schema [
    data_type: [type: {:in, [:all | Performance.data_types()]}, default: :all],
    bytes: [type: {:or, [{:in, [nil]}, :bytes]}, default: nil],
    factor: [type: {:or, [{:in, [nil]}, {:number, 0.01, 100}]}, default: nil],
    reason: [type: :string, default: "set by hand"]
  ]

  defp adjustment(given) do
    case Snakepit.Options.validate(given, @schema) do
      {:ok, %{bytes: nil, factor: nil}} ->
        refuse("expected :bytes or :factor")

      {:ok, %{bytes: bytes, factor: factor}} when bytes != nil and factor != nil ->
        refuse("expected :bytes or :factor, not both")

      {:ok, adjustment} ->
        {:ok, adjustment}

      {:error, _key, message} ->
        refuse(message)
    end
  end

  defp type(type) do
    if type in Performance.data_types(),
      do: :ok,
      else:
        refuse(
          "expected a data type to be one of #{inspect(Performance.data_types())}, got: #{inspect(type)}"
        )
  end

  defp refuse(words), do: {:error, Error.new(:validation, :invalid_option, "threshold: #{words}")}

  # ---- what is in force -------------------------------------------------------------------------------------------

  @doc false
  # The pool's policy is another: its table is compiled anew.
  @spec refresh(atom()) :: :ok | :unavailable
  def refresh(pool) do
    GenServer.call(__MODULE__, {:refresh, pool})
    :ok
  catch
    :exit, _ -> :unavailable
  end

  # The thresholds that were tuned, and those that somebody set.
  defp state_of(handle, type) do
    case :ets.lookup(@table, {handle.name, type}) do
      [{_, ref, tuned, set}] when ref == handle.performance.ref -> {tuned, set}
      _ -> {fresh(handle), nil}
    end
  rescue
    ArgumentError -> {fresh(handle), nil}
  end

  defp in_force(handle, type, state) do
    now = ResourceMonitor.now()
    in_force(handle, type, state, Thresholds.resource_factor(now.memory_pressure?, now.cpu_pressure?))
  end

  # As it is while nothing is scarce: what changes are described by, so that each begins where the last one ended.
  defp at_rest(handle, type, state), do: in_force(handle, type, state, 1.0)

  # The pool's bounds hold for what somebody set, too.
  defp in_force(handle, type, {tuned, set}, resource_factor) do
    %{policy: policy, settings: settings} = handle.performance
    {minimum, maximum} = {settings.minimum_threshold_mb, settings.maximum_threshold_mb}

    threshold =
      case set || policy.threshold_overrides[type] do
        nil -> %{tuned | resource: resource_factor}
        bytes -> Thresholds.new(bytes)
      end

    Thresholds.bytes(threshold, Settings.bytes(minimum), Settings.bytes(maximum))
  end

  # ---- the process ------------------------------------------------------------------------------------------------

  @impl true
  def init(_opts) do
    create()
    # Changes from the time without this process are dealt with at once.
    :ok = Events.subscribe()
    Process.send_after(self(), :tick, @tick_ms)
    {:ok, nil, {:continue, :apply}}
  end

  @impl true
  def handle_continue(:apply, state) do
    Enum.each(measured(), &apply_all/1)
    {:noreply, state}
  end

  @impl true
  def handle_call({:adjust, pool, types, adjustment}, _from, state) do
    with_handle(pool, state, fn handle ->
      for type <- types do
        {tuned, _set} = before = state_of(handle, type)
        new = adjustment.bytes || max(round(in_force(handle, type, before) * adjustment.factor), 1)
        {old, new} = {at_rest(handle, type, before), {tuned, new}}
        change(handle, type, old, at_rest(handle, type, new), new, adjustment.reason, nil)
      end

      apply_all(handle)
    end)
  end

  def handle_call({:reset, pool}, _from, state) do
    with_handle(pool, state, fn handle ->
      for type <- Performance.data_types() do
        old = at_rest(handle, type, state_of(handle, type))
        fresh = {fresh(handle), nil}
        new = at_rest(handle, type, fresh)
        if old != new, do: change(handle, type, old, new, fresh, "reset", nil), else: put(handle, type, fresh)
      end

      apply_all(handle)
    end)
  end

  def handle_call({:undo, pool}, _from, state) do
    case Enum.find(changes(pool), &(&1.verdict != :undone)) do
      nil -> {:reply, refuse("pool #{inspect(pool)} has no change to undo"), state}
      change -> with_handle(pool, state, &undo(&1, change, "undone by hand"))
    end
  end

  def handle_call({:tune, pool, now}, _from, state), do: with_handle(pool, state, &tick(&1, now))
  def handle_call({:refresh, pool}, _from, state), do: with_handle(pool, state, &apply_all/1)

  @impl true
  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick_ms)

    for handle <- measured(), do: tick(handle, now())
    forget_stopped()
    {:noreply, state}
  end

  def handle_info({Events, {:load_changed, pool}}, state) do
    with {:ok, handle} <- measured(pool), do: apply_all(handle)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp measured do
    for name <- Handle.names(),
        {:ok, handle} <- [Handle.fetch(name)],
        Model.enabled?(handle.performance),
        do: handle
  end

  defp with_handle(pool, state, fun) do
    case Handle.fetch(pool) do
      {:ok, handle} ->
        fun.(handle)
        {:reply, :ok, state}

      error ->
        {:reply, error, state}
    end
  end

  # Thresholds of cost models that are no more, which the rows would keep alive.
  defp forget_stopped do
    for row <- :ets.tab2list(@table),
        {name, ref} = whose(row),
        not match?({:ok, %{performance: %{ref: ^ref}}}, Handle.fetch(name)),
        do: :ets.delete(@table, elem(row, 0))
  end

  defp whose({{kind, name}, ref, _}) when kind in [:changes, :logged], do: {name, ref}
  defp whose({{name, _type}, ref, _tuned, _set}), do: {name, ref}

  # ---- tuning -----------------------------------------------------------------------------------------------------

  defp tick(handle, now) do
    for change <- changes(handle.name), GuardedChange.due?(change, now), do: judge(handle, change)

    if handle.performance.policy.learning_enabled do
      changed = for type <- Performance.data_types(), step(handle, type), do: type
      if changed != [], do: apply_all(handle), else: log_tuned(handle)
    end

    :ok
  end

  defp step(handle, type) do
    with {tuned, nil} = before <- state_of(handle, type),
         {crossover, _low, _high} = found <- Model.crossover(handle.performance, :request, type),
         {:changed, next} <- Thresholds.toward(tuned, crossover) do
      {old, new} = {at_rest(handle, type, before), at_rest(handle, type, {next, nil})}
      # A threshold that a bound or the policy fixes is tuned all the same, for the time after.
      if old == new, do: put(handle, type, {next, nil}), else: tuned(handle, type, old, new, next, found)
      old != new
    else
      _ -> false
    end
  end

  defp tuned(handle, type, old, new, next, {crossover, low, high}) do
    expected = "shared memory is cheaper from #{crossover} B on (95 %: #{low} to #{high})"

    change(handle, type, old, new, {next, nil}, "tuned toward the measured crossover", expected)
  end

  defp judge(handle, change) do
    judged = GuardedChange.judge(change, metric(handle.name))
    replace(handle, change, judged)

    # A tuned threshold decides only what measurements decide as well.
    # A later change of the same threshold has replaced it, and is judged by itself.
    newest = Enum.find(changes(handle.name), &(&1.knob == change.knob and &1.verdict != :undone))
    if judged.verdict == :worse and judged == newest, do: undo(handle, judged, "calls became slower")
  end

  defp undo(handle, change, reason) do
    {:threshold, type} = change.knob
    put(handle, type, change.context)
    undone = GuardedChange.undo(change, reason, now())
    replace(handle, change, %{change | verdict: :undone})
    log(handle, undone)
    apply_all(handle)
  end

  # Mean latency of the pool's calls of the last half minute.
  defp metric(pool) do
    now = System.os_time(:second)
    series = MetricsStore.series(pool, 1, {now - @window_s, now})
    count = series |> Enum.map(& &1.count) |> Enum.sum()
    if count > 0, do: {(series |> Enum.map(& &1.sum_latency) |> Enum.sum()) / count, count}
  end

  # The change remembers what it replaced, which is more than a number of bytes.
  defp change(handle, type, old, new, state, reason, expected) do
    context = state_of(handle, type)
    put(handle, type, state)

    change =
      GuardedChange.new({:threshold, type}, old, new,
        reason: reason,
        expected: expected,
        context: context,
        at: now(),
        before: metric(handle.name)
      )

    keep(handle, Enum.take([change | changes(handle.name)], @kept_changes))
    if expected, do: emit(handle, change), else: log(handle, change)
  end

  defp put(handle, type, {tuned, set}),
    do: :ets.insert(@table, {{handle.name, type}, handle.performance.ref, tuned, set})

  defp replace(handle, old, new),
    do: keep(handle, Enum.map(changes(handle.name), &if(&1 == old, do: new, else: &1)))

  defp keep(handle, changes),
    do: :ets.insert(@table, {{:changes, handle.name}, handle.performance.ref, changes})

  defp log(handle, change) do
    {:threshold, type} = change.knob
    log(handle, [{type, change.old, change.new}], change.reason)
    emit(handle, change)
  end

  # One line for all that was tuned, once nothing moves any more.
  defp log_tuned(handle) do
    logged = logged(handle)

    moved =
      for type <- Performance.data_types(),
          {_tuned, nil} = state <- [state_of(handle, type)],
          handle.performance.policy.threshold_overrides[type] == nil,
          old = logged[type] || at_rest(handle, type, {fresh(handle), nil}),
          new = at_rest(handle, type, state),
          new >= old * @worth_a_line or old >= new * @worth_a_line,
          do: {type, old, new}

    if moved != [], do: log(handle, moved, "tuned to the measured crossover")
  end

  defp fresh(handle), do: Thresholds.new(Settings.base_threshold(handle.performance.settings))

  defp log(handle, moved, reason) do
    words = Enum.map_join(moved, ", ", fn {type, old, new} -> "#{type} #{old} → #{new}" end)
    Logger.info("pool #{inspect(handle.name)}: thresholds in bytes: #{words}: #{reason}")
    now = Map.merge(logged(handle), Map.new(moved, fn {type, _old, new} -> {type, new} end))
    :ets.insert(@table, {{:logged, handle.name}, handle.performance.ref, now})
  end

  # By type, what the log says last.
  defp logged(%{name: name, performance: %{ref: ref}}) do
    case :ets.lookup(@table, {:logged, name}) do
      [{_, ^ref, logged}] -> logged
      _ -> %{}
    end
  end

  defp emit(handle, change) do
    {:threshold, type} = change.knob

    Telemetry.execute([:snakepit, :performance, :threshold], %{old: change.old, new: change.new}, %{
      pool: handle.name,
      data_type: type,
      reason: change.reason,
      expected: change.expected
    })
  end

  # The cost model's table, by all of the pool's thresholds.
  defp apply_all(handle) do
    states = Map.new(Performance.data_types(), &{&1, state_of(handle, &1)})
    thresholds = Map.new(states, fn {type, state} -> {type, in_force(handle, type, state)} end)
    set = for {type, {_tuned, set}} <- states, set != nil, into: %{}, do: {type, set}
    Model.set_rules(handle.performance, set, thresholds)
    Learning.publish(handle.name)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
