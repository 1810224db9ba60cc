defmodule Snakepit.Performance.ThresholdManager do
  @moduledoc """
  From which size on a pool's arguments go by shared memory, for each type of data.

  A threshold is what calls do: it is read from the table that decides them. Where the costs of ways are measured, it is the
  size at which they cross; elsewhere the base, which is the policy's or `default_zero_copy_threshold_mb`. `get_parts/2` has it
  as base × adjustment × resource factor: how far measurements, or somebody, moved it, and how far scarce memory or CPU
  moves it now. One that somebody sets (`adjust_threshold/2`) decides whatever is measured, until it is reset.

  Every change is kept (`changes/1`), emitted as an event, and guarded: if calls of the sizes it concerns take longer
  afterwards, by more than a tenth and than chance explains, it is undone. A measured threshold that is undone is held where it was
  before, until it is set or reset. Both outlive the pool (`keep_models` of `Snakepit.Performance.Settings`). A value that somebody set, or that was undone, is logged at once; a measured one when it comes
  to rest, if it moved by a factor of two.
  """

  use GenServer
  alias Snakepit.{Error, Performance, Telemetry}

  alias Snakepit.Performance.{GuardedChange, Settings}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.{Learning, Thresholds}
  alias Snakepit.Performance.ThresholdManager.Rows
  alias Snakepit.Pool.Handle
  require Logger

  @tick_ms 10_000
  # Latencies are remembered at so many ticks, so that a change can be compared with the half minute before it.
  @ticks 4
  @kept_changes 100
  # Less than so many times as large, or as small, as the log has it: not worth a line.
  @worth_a_line 2

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc """
  The threshold in force, in bytes; 2^60 where shared memory is never the way. No process is asked. In a pool that does
  not measure it is the pool's `:inline_limit`.
  """
  @spec get_threshold(atom(), Performance.data_type()) :: {:ok, pos_integer()} | {:error, Error.t()}
  def get_threshold(pool, data_type) do
    with {:ok, handle} <- Handle.fetch(pool),
         :ok <- type(data_type),
         do: {:ok, Thresholds.bytes(handle, data_type)}
  end

  @doc """
  The threshold in force, in parts: `%{bytes:, base:, adjustment:, resource_factor:, reason:}`, bytes = base × adjustment ×
  resource factor. `reason` is why the table has it: `:cheapest` and `:tie` are measured, `:rule` is the base, `:override` was
  set, by the policy or `adjust_threshold/2`, `:below_minimum` and `:above_maximum` are bounds.
  """
  @spec get_parts(atom(), Performance.data_type()) :: {:ok, Thresholds.parts()} | {:error, Error.t()}
  def get_parts(pool, data_type) do
    with {:ok, handle} <- measured(pool), :ok <- type(data_type) do
      {:ok, Thresholds.parts(handle.performance, data_type)}
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

  @doc "Forgets what was set or held: back to what is measured, or the base."
  @spec reset_thresholds(atom()) :: :ok | {:error, Error.t()}
  def reset_thresholds(pool) do
    with {:ok, handle} <- measured(pool), do: call({:reset, handle.name})
  end

  @doc "Undoes the latest change that was not undone yet; one of all types as one."
  @spec undo(atom()) :: :ok | {:error, Error.t()}
  def undo(pool) do
    with {:ok, handle} <- measured(pool), do: call({:undo, handle.name})
  end

  @doc "A pool's changes since it was started, newest first; their knobs are `{:threshold, data_type}`, their values bytes."
  @spec changes(atom()) :: [GuardedChange.t()]
  def changes(pool) do
    with {:ok, handle} <- Handle.fetch(pool), do: Rows.get(handle, :changes, []), else: (_ -> [])
  end

  @doc false
  # A tick: the verdicts that are due, and thresholds that measurements have moved.
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

  # ---- the process ------------------------------------------------------------------------------------------------

  @impl true
  def init(_opts) do
    Rows.create()
    Process.send_after(self(), :tick, @tick_ms)
    # By pool: its run, and what calls took at the last ticks, newest first.
    {:ok, %{}, {:continue, :apply}}
  end

  # The process before may have died before it compiled what was set.
  @impl true
  def handle_continue(:apply, state) do
    Enum.each(measured(), &apply_all/1)
    {:noreply, state}
  end

  @impl true
  def handle_call({:adjust, pool, types, adjustment}, _from, state) do
    with_handle(pool, state, fn handle ->
      set =
        for type <- types, into: Rows.set(handle) do
          {type, adjustment.bytes || max(round(Thresholds.bytes(handle, type) * adjustment.factor), 1)}
        end

      change(handle, types, set, adjustment.reason, state)
    end)
  end

  def handle_call({:reset, pool}, _from, state),
    do: with_handle(pool, state, &change(&1, Performance.data_types(), %{}, "reset", state))

  def handle_call({:undo, pool}, _from, state) do
    case Enum.find(changes(pool), &(&1.verdict != :undone)) do
      nil -> {:reply, refuse("pool #{inspect(pool)} has no change to undo"), state}
      change -> with_handle(pool, state, &undo(&1, change, "undone by hand"))
    end
  end

  def handle_call({:tune, pool, now}, _from, state) do
    case Handle.fetch(pool) do
      {:ok, handle} -> {:reply, :ok, tick(handle, now, state)}
      error -> {:reply, error, state}
    end
  end

  def handle_call({:refresh, pool}, _from, state), do: with_handle(pool, state, &apply_all/1)

  @impl true
  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick_ms)
    Rows.forget_stopped()
    handles = measured()
    names = Enum.map(handles, & &1.name)
    {:noreply, Enum.reduce(handles, Map.take(state, names), &tick(&1, now(), &2))}
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

  # ---- what measurements move ---------------------------------------------------------------------------------------

  defp tick(handle, now, state) do
    for change <- changes(handle.name), GuardedChange.due?(change, now), do: judge(handle, change)
    moved = Thresholds.moved(handle.performance, Rows.get(handle, :seen, %{}))
    if moved == [], do: log_measured(handle), else: Enum.each(moved, &moved(handle, &1, state))
    remember(handle, state)
  end

  defp moved(handle, {type, old, new}, state) do
    Rows.put(handle, :seen, Map.put(Rows.get(handle, :seen, %{}), type, new))

    expected =
      case Model.crossover(handle.performance, :request, type) do
        {crossover, low, high} ->
          "shared memory is cheaper from #{crossover} B on (95 %: #{low} to #{high})"

        nil ->
          "shared memory is cheaper from #{new} B on"
      end

    fields = [reason: "measured anew", expected: expected, context: context(handle, :measured)]
    emit(handle, record(handle, type, old, new, fields, before(handle, type, state)))
  end

  # The latencies of late, for changes to come.
  defp remember(%{name: name, performance: %{ref: ref} = model}, state) do
    outcomes = Map.new(Performance.data_types(), &{&1, Model.outcomes(model, &1)})

    earlier =
      case state do
        %{^name => {^ref, earlier}} -> earlier
        _ -> []
      end

    Map.put(state, name, {ref, Enum.take([outcomes | earlier], @ticks)})
  end

  defp before(%{name: name, performance: %{ref: ref} = model}, type, state) do
    case state do
      %{^name => {^ref, earlier}} ->
        GuardedChange.since(Model.outcomes(model, type), List.last(earlier)[type])

      _ ->
        Model.outcomes(model, type)
    end
  end

  # ---- changes ------------------------------------------------------------------------------------------------------

  # Sets what is given for these types, and says what that changed.
  defp change(handle, types, set, reason, state) do
    old = Thresholds.at_rest(handle.performance)
    context = context(handle, :set)
    before = Map.new(types, &{&1, before(handle, &1, state)})
    Rows.set(handle, set)
    apply_all(handle)
    new = Thresholds.at_rest(handle.performance)

    for type <- types, old[type] != new[type] do
      fields = [reason: reason, context: context]
      change = record(handle, type, old[type], new[type], fields, before[type])
      # A measurement that differs from here on is news again.
      Rows.put(handle, :seen, Map.put(Rows.get(handle, :seen, %{}), type, new[type]))
      log(handle, change)
    end
  end

  # `made` is one for all changes that are made at once: they are undone at once.
  defp context(handle, kind), do: %{kind: kind, set: Rows.set(handle), made: make_ref()}

  # `before` is what calls took.
  defp record(handle, type, old, new, fields, before) do
    now = Model.outcomes(handle.performance, type)
    context = Map.put(fields[:context], :outcomes, now)
    fields = Keyword.merge(fields, context: context, at: now(), before: between(before, old, new))
    change = GuardedChange.new({:threshold, type}, old, new, fields)
    Rows.put(handle, :changes, Enum.take([change | Rows.get(handle, :changes, [])], @kept_changes))
    change
  end

  # Only calls of these sizes go another way since.
  defp between(outcomes, one, other) do
    {low, high} = {min(one, other), max(one, other)}
    Map.filter(outcomes, fn {size, _} -> size >= low and size < high end)
  end

  defp judge(handle, %{knob: {:threshold, type}} = change) do
    since = GuardedChange.since(Model.outcomes(handle.performance, type), change.context.outcomes)
    judged = GuardedChange.judge(change, between(since, change.old, change.new))
    replace(handle, change, judged)

    # A later change of the same threshold has replaced it, and is judged by itself.
    newest = Enum.find(changes(handle.name), &(&1.knob == change.knob and &1.verdict != :undone))
    if judged.verdict == :worse and judged == newest, do: undo(handle, judged, "calls became slower")
  end

  defp undo(handle, %{context: %{made: made, set: set}}, reason) do
    undone = Enum.filter(changes(handle.name), &(&1.context.made == made and &1.verdict != :undone))

    set =
      for %{knob: {:threshold, type}, old: old, context: %{kind: kind}} <- undone, into: Rows.set(handle) do
        # A measured one would be found again at once.
        {type, if(kind == :measured, do: old, else: set[type])}
      end

    Rows.set(handle, Map.reject(set, fn {_type, bytes} -> bytes == nil end))
    apply_all(handle)

    for change <- undone do
      replace(handle, change, %{change | verdict: :undone})
      log(handle, GuardedChange.undo(change, reason, now()))
    end
  end

  defp replace(handle, old, new),
    do: Rows.put(handle, :changes, Enum.map(changes(handle.name), &if(&1 == old, do: new, else: &1)))

  # The cost model's table, by all that was set.
  defp apply_all(handle) do
    Model.set_rules(handle.performance, Rows.set(handle))
    Learning.publish(handle.name)
  end

  # ---- words --------------------------------------------------------------------------------------------------------

  defp log(handle, change) do
    {:threshold, type} = change.knob
    log(handle, [{type, change.old, change.new}], change.reason)
    emit(handle, change)
  end

  # One line for all that was measured, once nothing moves any more.
  defp log_measured(handle) do
    logged = Rows.get(handle, :logged, %{})
    base = Settings.base_threshold(handle.performance.settings)

    moved =
      for {type, new} <- Rows.get(handle, :seen, %{}),
          not is_map_key(Rows.set(handle), type),
          old = Map.get(logged, type, base),
          new >= old * @worth_a_line or old >= new * @worth_a_line,
          do: {type, old, new}

    if moved != [], do: log(handle, moved, "measured")
  end

  defp log(handle, moved, reason) do
    words = Enum.map_join(moved, ", ", fn {type, old, new} -> "#{type} #{old} → #{new}" end)
    Logger.info("pool #{inspect(handle.name)}: thresholds in bytes: #{words}: #{reason}")
    now = Map.new(moved, fn {type, _old, new} -> {type, new} end)
    Rows.put(handle, :logged, Map.merge(Rows.get(handle, :logged, %{}), now))
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

  defp now, do: System.monotonic_time(:millisecond)
end
