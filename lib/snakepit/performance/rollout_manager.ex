defmodule Snakepit.Performance.RolloutManager do
  @moduledoc false
  # Looks at each pool's evidence and moves it on the ladder of `Snakepit.Performance.Rollout`; says what became of shifts
  # of the costs. Calls do not wait for this process, and go on without it; what it decided is in the pool's handle.

  use GenServer
  alias Snakepit.{Pool, Telemetry}
  alias Snakepit.Performance.{Model, Rollout, ThresholdManager}
  alias Snakepit.Performance.Model.Learning
  alias Snakepit.Pool.Handle
  require Logger

  @tick_ms 1_000
  @rollout [:snakepit, :performance, :rollout]
  @drift [:snakepit, :performance, :drift]

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "Rolls a pool's learning back: the rules decide."
  @spec roll_back(atom(), reason :: String.t()) :: :ok | {:error, :stopped}
  def roll_back(pool, reason), do: call({:roll_back, pool, reason})

  @doc "Goes on after a rollback."
  @spec resume(atom()) :: :ok | {:error, :stopped}
  def resume(pool), do: call({:resume, pool})

  @doc "Looks at a pool now, as a tick does."
  @spec look(atom()) :: :ok | {:error, :stopped}
  def look(pool), do: call({:look, pool})

  @doc "Where a pool is on the ladder."
  @spec stage(Handle.t()) :: Rollout.t()
  def stage(%Handle{performance: %Model{rollout: nil, policy: policy}}), do: Rollout.new(policy.rollout)
  def stage(%Handle{performance: %Model{rollout: rollout}}), do: rollout

  defp call(message) do
    GenServer.call(__MODULE__, message)
  catch
    :exit, _ -> {:error, :stopped}
  end

  # ---- the process ------------------------------------------------------------------------------------------------

  @impl true
  def init(_opts) do
    Process.send_after(self(), :tick, @tick_ms)
    {:ok, nil}
  end

  @impl true
  def handle_call({:look, pool}, _from, state), do: {:reply, with_handle(pool, &look_at/1), state}

  def handle_call({:roll_back, pool, reason}, _from, state) do
    {:reply, with_handle(pool, &move(&1, Rollout.roll_back(stage(&1), reason, calls(&1), now()))), state}
  end

  def handle_call({:resume, pool}, _from, state),
    do: {:reply, with_handle(pool, &move(&1, Rollout.resume(stage(&1), calls(&1), now()))), state}

  @impl true
  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick_ms)
    for name <- Handle.names(), do: with_handle(name, &look_at/1)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp with_handle(pool, fun) do
    case Handle.fetch(pool) do
      {:ok, %{performance: %Model{ref: ref}} = handle} when ref != nil -> fun.(handle)
      _ -> {:error, :stopped}
    end
  end

  defp look_at(%{performance: %{policy: policy, settings: settings} = model} = handle) do
    drifted(handle)
    before = stage(handle)
    # Another policy begins anew.
    rollout = if before.wanted == policy.rollout, do: before, else: Rollout.new(policy.rollout)
    {_, [error]} = Model.percentiles(model, [0.5])
    evidence = %{calls: calls(handle), error: error && error / 1000, holdout: Model.holdout(model)}
    move(handle, Rollout.update(rollout, evidence, settings.minimum_training_samples, now()))
  end

  defp calls(%{performance: model}), do: Model.counts(model).recorded
  defp now, do: System.os_time(:second)

  defp move(handle, rollout) do
    before = stage(handle)

    if rollout == before do
      :ok
    else
      bar = Rollout.bar(rollout)
      moved = Pool.set_performance(handle, &%{&1 | rollout: rollout, bar: bar})
      if bar != handle.performance.bar, do: ThresholdManager.refresh(handle.name)

      if moved == :ok and {rollout.stage, rollout.bar} != {before.stage, before.bar},
        do: announce(handle, before, rollout)

      moved
    end
  end

  defp announce(%{name: name}, before, rollout) do
    level = if rollout.stage == :rolled_back, do: :warning, else: :info

    bar =
      if rollout.stage == :confident, do: " from a probability of #{Float.round(rollout.bar, 2)} on", else: ""

    Logger.log(
      level,
      "pool #{inspect(name)}: learning: #{before.stage} → #{rollout.stage}#{bar}: #{rollout.reason}"
    )

    Telemetry.execute(@rollout, %{bar: Rollout.bar(rollout)}, %{
      pool: name,
      stage: rollout.stage,
      before: before.stage,
      reason: rollout.reason
    })
  end

  # ---- drift ------------------------------------------------------------------------------------------------------

  defp drifted(%{name: name, performance: model}) do
    {alarms, _open?, events} = Model.drift(model, true)

    for {step, direction, way, longer?} <- events do
      # The other ways may have moved as well.
      if step == :widened, do: Learning.alarm(name)
      words = if longer?, do: "longer", else: "shorter"

      message =
        "pool #{inspect(name)}: #{direction}s by #{way} take #{words} than they used to: #{said(step)}"

      if step == :restored, do: Logger.warning(message), else: Logger.debug(message)
      metadata = %{pool: name, step: step, direction: direction, method: way, longer?: longer?}
      Telemetry.execute(@drift, %{alarms: alarms}, metadata)
    end
  end

  defp said(:widened), do: "intervals are wider until more is seen"
  defp said(:restored), do: "it was a disturbance, and the last good model is in force again"
  defp said(:accepted), do: "the model that learned it is the good one now"
end
