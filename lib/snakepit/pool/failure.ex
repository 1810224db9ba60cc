defmodule Snakepit.Pool.Failure do
  @moduledoc false
  # Why a pool has no lane for a caller, as errors.

  alias Snakepit.{Error, Native}
  alias Snakepit.Pool.{Handle, Options}
  alias Snakepit.Terminal.Units

  @typedoc "Why a checkout queue is closed."
  @type reason :: :failed | :stopping | :dying

  # The queue gives its callers a number.
  @codes %{failed: 1, stopping: 2, dying: 3}

  @doc "Closes the queue: nobody gets a lane any more, and who waits gets the error."
  @spec close(Handle.t(), reason()) :: :ok
  def close(%Handle{queue: queue}, reason), do: Native.queue_close(queue, @codes[reason])

  @doc "The same until a worker is up; nothing if one is."
  @spec suspend(Handle.t()) :: :ok
  def suspend(%Handle{queue: queue}), do: Native.queue_suspend(queue, @codes.dying)

  @doc "The error of a caller that was given this number."
  @spec closed(Handle.t(), code :: pos_integer()) :: Error.t()
  def closed(handle, 3), do: dying(handle)

  def closed(handle, _failed_or_stopping) do
    case safely(handle, fn -> {:ok, GenServer.call(handle.pool, :failure)} end) do
      {:ok, nil} -> stopping(handle)
      {:ok, error} -> mendable(error)
      {:error, error} -> error
    end
  end

  @doc "Asks the pool's process, whose end is an error."
  @spec safely(Handle.t(), (() -> answer)) :: answer | {:error, Error.t()} when answer: term()
  def safely(handle, fun) do
    fun.()
  catch
    :exit, {:timeout, _} ->
      {:error, error(handle, :timeout, :not_ready, "pool #{inspect(handle.name)} is not ready yet")}

    :exit, _ ->
      {:error, error(handle, :pool, :stopped, "pool #{inspect(handle.name)} has stopped")}
  end

  @doc "Advice for a pool that is there but could not start."
  @spec mendable(Error.t()) :: Error.t()
  def mendable(%Error{reason: reason} = error) when reason in [:stopped, :not_ready], do: error

  def mendable(%Error{pool: pool} = error),
    do: %{error | message: "#{error.message}\nOnce that is mended: Snakepit.restart_pool(#{inspect(pool)})"}

  @doc "Every place in line is taken."
  @spec saturated(Handle.t()) :: Error.t()
  def saturated(handle) do
    lanes = handle.options.size * Options.lanes(handle.options)
    waiting = handle.options.max_queue

    words =
      "pool #{inspect(handle.name)} is saturated: #{Units.counted(lanes, "call runs", "calls run")} (:size), " <>
        "#{Units.counted(waiting, "caller waits", "callers wait")} (:max_queue)"

    error(handle, :pool, :pool_saturated, words <> why_none_is_up(handle))
  end

  @doc "No lane was free within `ms`."
  @spec waited_in_vain(Handle.t(), timeout()) :: Error.t()
  def waited_in_vain(handle, ms) do
    {_idle, busy, queued} = Native.queue_counts(handle.queue)

    words =
      "pool #{inspect(handle.name)}: no worker was free within #{ms} ms " <>
        "(#{Units.counted(busy, "call runs", "calls run")}, #{queued} more #{if queued == 1, do: "waits", else: "wait"}, " <>
        "#{workers_up(handle)} of #{Units.counted(handle.options.size, "worker")} up)"

    error(handle, :timeout, :queue_timeout, words <> why_none_is_up(handle))
  end

  defp why_none_is_up(handle) do
    case workers_up(handle) == 0 && :ets.lookup(handle.trouble, :last) do
      [last: words] -> "; no worker is up: #{words}"
      _ -> ""
    end
  rescue
    ArgumentError -> ""
  end

  # From the table, so that many who waited in vain need not ask the pool's process.
  defp workers_up(handle) do
    # A worker that is being replaced has lanes of two runs, one that leaves has some as well.
    indices = :ets.match(handle.lanes, {:_, %{index: :"$1"}})
    indices |> Enum.uniq() |> Enum.count(fn [index] -> index < handle.options.size end)
  rescue
    # The pool's process, and its table with it, is gone.
    ArgumentError -> 0
  end

  defp dying(handle) do
    words =
      "pool #{inspect(handle.name)}: every worker died young too often; calls are refused until one is ready again"

    error(handle, :pool, :breaker_open, words <> why_none_is_up(handle))
  end

  @doc "The pool stopped while the call ran."
  @spec stopped(Handle.t()) :: Error.t()
  def stopped(handle),
    do: error(handle, :pool, :stopping, "pool #{inspect(handle.name)} stopped before the call ended")

  @doc "The pool stops."
  @spec stopping(Handle.t()) :: Error.t()
  def stopping(handle), do: error(handle, :pool, :stopping, "pool #{inspect(handle.name)} is stopping")

  @doc "The caller gave up."
  @spec cancelled(Handle.t()) :: Error.t()
  def cancelled(handle),
    do: error(handle, :cancelled, :cancelled, "the call was cancelled while it waited")

  defp error(handle, category, reason, message), do: Error.new(category, reason, message, pool: handle.name)
end
