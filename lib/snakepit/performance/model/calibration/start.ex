defmodule Snakepit.Performance.Model.Calibration.Start do
  @moduledoc false
  # Where the model of a pool that starts comes from: from what this pool learned in its last run, from a calibration that was
  # kept, or from measuring now. What was kept must hold.

  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.{Calibration, Saved}
  alias Snakepit.Pool.Handle
  require Logger

  @doc "Removes what is kept of the pool's model."
  @spec forget(Handle.t(), Saved.place()) :: :ok
  def forget(%Handle{performance: %{settings: settings}} = handle, place) do
    Saved.remove(place, :lines)
    Calibration.Kept.remove(handle, settings)
  end

  @doc "Has the pool's model know its ways, if that can be; its workers are ready. `place` is where it is kept."
  @spec run(Handle.t(), Saved.place()) :: :ok
  def run(%Handle{performance: %{settings: settings}} = handle, place) do
    with :none <- restored(handle, place),
         true <- settings.calibrate,
         :none <- Calibration.Kept.take_over(handle, settings),
         {:ok, %{ready?: true} = summary} <- Calibration.run(handle) do
      Logger.debug(fn -> "pool #{inspect(handle.name)} was calibrated: #{inspect(summary)}" end)

      with {:error, reason} <- Calibration.Kept.store(handle, settings),
           do: Logger.debug("the calibration of pool #{inspect(handle.name)} is not kept: #{inspect(reason)}")
    else
      {:ok, summary} ->
        Logger.debug(
          "pool #{inspect(handle.name)}: the machine was too busy to calibrate: #{inspect(summary)}"
        )

      {:error, reason} ->
        Logger.debug("pool #{inspect(handle.name)} was not calibrated: #{inspect(reason)}")

      _ ->
        :ok
    end

    :ok
  end

  # As `Calibration.Kept.take_over/2`, for what this pool itself learned.
  defp restored(%{performance: model} = handle, place) do
    with {:ok, bytes} <- Saved.get(place, :lines),
         true <- Model.import(model, bytes) do
      Calibration.checked(handle, :restored)
    else
      _none -> :none
    end
  end
end
