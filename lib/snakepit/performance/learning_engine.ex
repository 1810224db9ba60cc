defmodule Snakepit.Performance.LearningEngine do
  @moduledoc """
  What a pool has learned of its ways: whether it still holds, and how to be rid of it.

  `Snakepit.Performance.Rollout` says how far a pool acts on it; `Snakepit.Performance.Controller.get_statistics/1` shows both.
  """

  alias Snakepit.{Error, Performance}
  alias Snakepit.Performance.{Export, MetricsStore, Model, RolloutManager, ThresholdManager}
  alias Snakepit.Performance.Model.Learning
  alias Snakepit.Pool.Handle

  @doc """
  Whether transfers take longer or shorter at the moment than what was learned says, and it is not known yet whether that lasts.
  Each such alarm, and what came of it, is an event `[:snakepit, :performance, :drift]`.

  The test is Page-Hinkley's, for each direction, way and class of sizes, on standardized log residuals against the last good
  model (`drift_detection_enabled` of `Snakepit.Performance.Settings`).
  """
  @spec detect_drift(atom()) :: {:ok, boolean()} | {:error, Error.t()}
  def detect_drift(pool) do
    with {:ok, handle} <- Handle.fetch(pool), :ok <- Performance.enabled(handle) do
      {_alarms, open?, _steps} = Model.drift(handle.performance)
      {:ok, open?}
    end
  end

  @doc """
  Rolls a pool's learning back: the rules decide from now on, and thresholds that were set, held or measured are those of the
  configuration. The model goes on learning. One call for the moment in which somebody wants the old behaviour back.

  Options: `export: PATH` writes the latest transfers before, a JSON object a line; `clear_models: true` forgets what was learned
  (`clear_models/1`). It holds until `resume/1`, or the pool's restart.
  """
  @spec roll_back(atom(), keyword()) :: :ok | {:error, Error.t()}
  def roll_back(pool, opts \\ []) do
    with {:ok, handle} <- Handle.fetch(pool),
         :ok <- Performance.enabled(handle),
         {:ok, opts} <- rollback_options(opts),
         :ok <- export(pool, opts.export),
         :ok <- managed(pool, RolloutManager.roll_back(pool, "rolled back by hand")),
         :ok <- ThresholdManager.reset_thresholds(pool),
         do: if(opts.clear_models, do: clear_models(pool), else: :ok)
  end

  @doc "Goes on acting on what a pool learned, as its policy has it, after a rollback."
  @spec resume(atom()) :: :ok | {:error, Error.t()}
  def resume(pool) do
    with {:ok, handle} <- Handle.fetch(pool),
         :ok <- Performance.enabled(handle),
         do: managed(pool, RolloutManager.resume(pool))
  end

  @rollback [
    export: [type: {:or, [{:in, [nil]}, :string]}, default: nil],
    clear_models: [type: :boolean, default: false]
  ]

  defp rollback_options(opts) do
    with {:error, _key, message} <- Snakepit.Options.validate(opts, @rollback),
         do: {:error, Error.new(:validation, :invalid_option, "roll_back: #{message}")}
  end

  defp managed(_pool, :ok), do: :ok
  defp managed(_pool, {:error, %Error{} = error}), do: {:error, error}

  defp managed(pool, {:error, :stopped}),
    do:
      {:error,
       Error.new(:pool, :stopped, "pool #{inspect(pool)} is being stopped or started: try once more",
         pool: pool
       )}

  defp export(_pool, nil), do: :ok

  defp export(pool, path) do
    with {:error, reason} <- Export.write(path, MetricsStore.latest(pool, 1_000_000)) do
      words = "roll_back: #{path} cannot be written: #{:file.format_error(reason)}; nothing was rolled back"
      {:error, Error.new(:validation, :invalid_option, words, pool: pool)}
    end
  end

  @doc """
  Forgets what a pool learned: lines and calibration, in the running pool and in the files for its next start. Its ways are
  measured anew at once, unless `calibrate: false` of `Snakepit.Performance.Settings`; until then the rules decide. Thresholds and
  policies that were set stay.

  An error has reason `:calibrating` while the pool is measured anyway.
  """
  @spec clear_models(atom()) :: :ok | {:error, Error.t()}
  def clear_models(pool) do
    with {:ok, handle} <- Handle.fetch(pool), :ok <- Performance.enabled(handle) do
      case Learning.clear(pool) do
        :ok ->
          :ok

        {:error, :calibrating} ->
          {:error,
           Error.new(:pool, :calibrating, "pool #{inspect(pool)} is being calibrated: try again in a moment",
             pool: pool
           )}

        {:error, :stopped} ->
          {:error,
           Error.new(:pool, :stopped, "pool #{inspect(pool)} is being stopped or started: try once more",
             pool: pool
           )}
      end
    end
  end
end
