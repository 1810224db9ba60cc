defmodule Snakepit.Pool.Listing do
  @moduledoc false
  # The workers of a pool, as `Snakepit.list_workers/1` has them.

  alias Snakepit.Pool.{Handle, Slot, Tools, WorkerSpec}
  alias Snakepit.Worker

  @doc """
  A row for each run of the slots and each that departs, and its process if it was started. By the manager, which asks no worker.
  """
  @spec rows(atom(), %{non_neg_integer() => Slot.t()}, %{pid() => map()}) :: [{map(), pid() | nil}]
  def rows(pool, slots, runs) do
    pids = for {pid, run} <- runs, not run.over?, into: %{}, do: {{run.index, run.id}, pid}

    present =
      for {index, slot} <- slots,
          run <- [slot.run, slot.successor],
          run != nil or (slot.run == nil and slot.successor == nil),
          do: {row(pool, index, slot, nil), pids[{index, run && run.id}]}

    departing =
      for {pid, %{departing: departing} = run} <- runs,
          departing != nil and not run.over?,
          do: {row(pool, run.index, run, departing), pid}

    Enum.sort_by(Enum.uniq(present) ++ departing, fn {row, _pid} -> row.index end)
  end

  defp row(pool, index, facts, departing) do
    %{
      name: WorkerSpec.worker(pool, index),
      pool: pool,
      index: index,
      restarts: facts.restarts,
      last_error: facts.last_error,
      departing: departing
    }
  end

  @waiting %{status: :waiting, os_pid: nil, python: nil, held_buffers: 0}

  @doc "The rows with what the workers say of themselves. By whoever asks, who waits for them."
  @spec described([{map(), pid() | nil}], Handle.t()) :: [map()]
  def described(rows, handle),
    do: for({row, worker} <- rows, row = described(row, worker, handle), do: row)

  defp described(row, nil, handle), do: filled(row, @waiting, handle)

  defp described(row, worker, handle) do
    case Worker.describe(worker) do
      # Its process is gone, and the next one not there yet.
      found when found == nil or found.status == :over ->
        unless row.departing, do: filled(row, @waiting, handle)

      found ->
        filled(row, found, handle)
    end
  end

  defp filled(row, found, handle) do
    tools = if found.status in [:ready, :draining], do: Tools.names(handle), else: []
    {departing, row} = Map.pop!(row, :departing)
    Map.merge(row, %{found | status: status(departing, found.status)}) |> Map.put(:tools, tools)
  end

  defp status(:leaving, _status), do: :leaving
  # Its calls go on.
  defp status(_departing, :draining), do: :ready
  defp status(_departing, status), do: status
end
