defmodule Snakepit.Application do
  @moduledoc false
  use Application
  alias Snakepit.{Call, Config, Performance, Pool}
  require Logger

  @impl true
  def start(_type, _args) do
    with {:ok, config} <- Config.load(),
         {:ok, _dir} <- Snakepit.Runtime.open() do
      start(config)
    else
      {:error, error} -> {:error, error.message}
    end
  end

  defp start(config) do
    settings = config.performance_optimization
    warn(Performance.Settings.without_effect(settings))
    Performance.Settings.publish(settings)
    Snakepit.Telemetry.start()
    Performance.MetricsStore.create()
    Performance.ThresholdManager.Rows.create()
    Pool.Handle.set_default(config.default_pool)

    # However often these die, calls go on without them: they must not use up the restarts of those that calls need.
    performance = [
      {Task.Supervisor, name: Performance.Tasks},
      Performance.MetricsStore,
      Performance.Model.Learning,
      Performance.ThresholdManager,
      Performance.RolloutManager,
      Performance.ResourceMonitor
    ]

    # Workers notice the end of the companion's process themselves; the pools outlive it.
    serving = [
      Snakepit.Companion,
      Snakepit.ChunkReaper,
      {Task.Supervisor, name: Snakepit.Pool.LaneRecovery},
      {Task, &Snakepit.Telemetry.await_library/0},
      supervisor(:performance, performance, max_restarts: 100, max_seconds: 1),
      {DynamicSupervisor, name: Snakepit.Pools, strategy: :one_for_one}
    ]

    # rest_for_one: without the registry, no process of a pool is found.
    children = [
      {Registry, keys: :unique, name: Snakepit.Registry},
      Pool.Events,
      supervisor(:serving, serving, [])
    ]

    with {:ok, supervisor} <-
           Supervisor.start_link(children, strategy: :rest_for_one, name: Snakepit.Supervisor) do
      Enum.each(config.pools, &start_pool/1)
      {:ok, supervisor}
    end
  end

  defp warn([]), do: :ok

  defp warn(keys) do
    names = Enum.map_join(keys, ", ", &inspect/1)
    Logger.warning("config :snakepit, performance_optimization: no effect yet of #{names}")
  end

  defp supervisor(id, children, opts) do
    start = {Supervisor, :start_link, [children, [strategy: :one_for_one] ++ opts]}
    %{id: id, type: :supervisor, start: start}
  end

  @doc false
  # The specification of a pool as a child of `Snakepit.Pools`: its calls are measured, by calls of this application.
  @spec pool(Pool.Options.t()) :: Supervisor.child_spec()
  def pool(%Pool.Options{} = options),
    do: Pool.Supervisor.child_spec(%{options | performance: &__MODULE__.performance/1})

  @doc false
  # Runs in the pool's process, whenever that starts.
  @spec performance(Pool.Options.t()) :: Performance.Model.t()
  def performance(options) do
    settings = Performance.Settings.current()
    options |> Performance.Model.new(settings, &Call.run/3) |> Performance.Controller.restored(options)
  end

  # A pool that cannot start does not keep the application from starting: its calls say why. It is logged once.
  defp start_pool(options) do
    {:ok, _} = DynamicSupervisor.start_child(Snakepit.Pools, pool(options))

    Task.start(fn ->
      # If the pool was stopped while it started, there is nothing to report.
      with {:error, error} when error.reason not in [:stopped, :stopping] <-
             Pool.await_ready(options.name, :infinity),
           do: Logger.error(Exception.message(Pool.mendable(error)))
    end)
  end

  @impl true
  def stop(_state) do
    Snakepit.Runtime.close()
  end
end
