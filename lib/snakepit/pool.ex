defmodule Snakepit.Pool do
  @moduledoc """
  Keeps the books of a pool: which lanes are idle, who has which, who waits.

  No call's data passes through this process. A caller checks a lane out, talks to the worker itself, and checks the
  lane in again. Callers that wait do so in a bounded queue, each until its own deadline; callers that die give their
  lane back by way of a new worker.
  """

  use GenServer
  alias Snakepit.{Error, Worker}
  alias Snakepit.Pool.{Handle, Options, Queue}
  alias Snakepit.Worker.Lane

  @type checkout :: {:ok, Lane.t(), reference()} | {:error, Error.t()}

  # ---- for callers ------------------------------------------------------------------------------------------------

  @doc "Waits until every worker of the pool is ready, or until its start has failed."
  @spec await_ready(atom(), timeout()) :: :ok | {:error, Error.t()}
  def await_ready(name, timeout \\ 30_000) do
    with {:ok, handle} <- Handle.fetch(name) do
      safely(handle, fn -> GenServer.call(handle.pool, :await_ready, timeout) end)
    end
  end

  @doc false
  # A lane, at the latest at `deadline` (monotonic ms). `affinity`: the worker's index, or nil for any; `prefer?`: any
  # other will do when that one is busy.
  @spec checkout(Handle.t(), integer() | :infinity, non_neg_integer() | nil, boolean()) :: checkout()
  def checkout(%Handle{} = handle, deadline, affinity, prefer?) do
    safely(handle, fn -> GenServer.call(handle.pool, {:checkout, deadline, affinity, prefer?}, :infinity) end)
  end

  @doc false
  @spec checkin(Handle.t(), reference()) :: :ok
  def checkin(%Handle{pool: pool}, ref), do: GenServer.cast(pool, {:checkin, ref})

  @doc false
  # The lane may be in the middle of a call: it is not used again.
  @spec discard(Handle.t(), reference(), Lane.t(), String.t()) :: :ok
  def discard(%Handle{pool: pool}, ref, lane, why) do
    GenServer.cast(pool, {:forget, ref})
    Worker.discard(lane, why)
  end

  @doc false
  @spec status(Handle.t()) :: map()
  def status(%Handle{} = handle) do
    case safely(handle, fn -> {:ok, GenServer.call(handle.pool, :status)} end) do
      {:ok, status} -> status
      {:error, _} -> %{status: :stopped}
    end
  end

  @doc false
  # No new calls; answers when the running ones are done, or after `timeout`.
  @spec drain(Handle.t(), timeout()) :: :ok | :timeout
  def drain(%Handle{} = handle, timeout) do
    case safely(handle, fn -> GenServer.call(handle.pool, {:drain, timeout}, :infinity) end) do
      {:error, _} -> :ok
      answer -> answer
    end
  end

  defp safely(handle, fun) do
    fun.()
  catch
    :exit, {:timeout, _} ->
      {:error, error(handle, :timeout, :not_ready, "pool #{inspect(handle.name)} is not ready yet")}

    :exit, _ ->
      {:error, error(handle, :pool, :stopped, "pool #{inspect(handle.name)} has stopped")}
  end

  # ---- for workers ------------------------------------------------------------------------------------------------

  @doc false
  @spec worker_up(Handle.t(), non_neg_integer(), [Lane.t()]) :: :ok
  def worker_up(%Handle{pool: pool}, index, lanes), do: GenServer.cast(pool, {:worker_up, index, lanes})

  @doc false
  @spec worker_down(Handle.t(), non_neg_integer(), reference()) :: :ok
  def worker_down(%Handle{pool: pool}, index, epoch), do: GenServer.cast(pool, {:worker_down, index, epoch})

  @doc false
  @spec worker_failed(Handle.t(), non_neg_integer(), Error.t()) :: :ok
  def worker_failed(%Handle{pool: pool}, index, error), do: GenServer.cast(pool, {:worker_failed, index, error})

  # ---- the process ------------------------------------------------------------------------------------------------

  @doc false
  @spec start_link(Handle.t()) :: GenServer.on_start()
  def start_link(%Handle{} = handle), do: GenServer.start_link(__MODULE__, handle, name: handle.pool)

  @impl true
  def init(handle) do
    Process.flag(:trap_exit, true)
    Handle.publish(handle)

    {:ok,
     %{
       handle: handle,
       # Lanes nobody has, last used first: its worker's caches are warm.
       idle: [],
       # Monitor of the caller => its lane.
       busy: %{},
       queue: Queue.new(),
       # Index => epoch of the run whose lanes may be used.
       up: %{},
       awaiting: [],
       failure: nil,
       draining: nil
     }}
  end

  @impl true
  def handle_call({:checkout, _, _, _}, _from, %{failure: %Error{} = error} = state) do
    {:reply, {:error, error}, state}
  end

  def handle_call({:checkout, _, _, _}, _from, %{draining: draining} = state) when draining != nil do
    {:reply, {:error, error(state.handle, :pool, :stopping, "pool #{inspect(state.handle.name)} is stopping")}, state}
  end

  def handle_call({:checkout, deadline, affinity, prefer?}, {pid, _} = from, state) do
    case take_idle(state.idle, affinity) || (prefer? && take_idle(state.idle, nil)) do
      {lane, idle} ->
        ref = Process.monitor(pid)
        {:reply, {:ok, lane, ref}, %{state | idle: idle, busy: Map.put(state.busy, ref, lane)}}

      _none ->
        {:noreply, enqueue(state, from, deadline, if(prefer?, do: nil, else: affinity))}
    end
  end

  def handle_call(:await_ready, from, state) do
    cond do
      state.failure -> {:reply, {:error, state.failure}, state}
      map_size(state.up) == state.handle.options.size -> {:reply, :ok, state}
      true -> {:noreply, %{state | awaiting: [from | state.awaiting]}}
    end
  end

  def handle_call(:status, _from, state) do
    status =
      cond do
        state.failure -> :failed
        state.draining -> :stopping
        map_size(state.up) == state.handle.options.size -> :ready
        true -> :starting
      end

    {:reply,
     %{
       status: status,
       failure: state.failure,
       workers_up: map_size(state.up),
       idle: length(state.idle),
       busy: map_size(state.busy),
       queued: Queue.size(state.queue)
     }, state}
  end

  def handle_call({:drain, timeout}, from, state) do
    stopping = error(state.handle, :pool, :stopping, "pool #{inspect(state.handle.name)} is stopping")
    state = refuse_all(state, stopping)
    Process.send_after(self(), :drained, timeout)
    {:noreply, drained(%{state | draining: from})}
  end

  @impl true
  def handle_cast({:checkin, ref}, state), do: {:noreply, ref |> release(state) |> drained()}

  def handle_cast({:forget, ref}, state) do
    Process.demonitor(ref, [:flush])
    {:noreply, drained(%{state | busy: Map.delete(state.busy, ref)})}
  end

  def handle_cast({:worker_up, index, [lane | _] = lanes}, state) do
    state = %{state | up: Map.put(state.up, index, lane.epoch)}
    state = Enum.reduce(lanes, state, &offer/2)

    if map_size(state.up) == state.handle.options.size do
      Enum.each(state.awaiting, &GenServer.reply(&1, :ok))
      {:noreply, %{state | awaiting: []}}
    else
      {:noreply, state}
    end
  end

  def handle_cast({:worker_down, index, epoch}, state) do
    case state.up do
      %{^index => ^epoch} ->
        idle = Enum.reject(state.idle, &(&1.epoch == epoch))
        {:noreply, %{state | up: Map.delete(state.up, index), idle: idle}}

      _ ->
        {:noreply, state}
    end
  end

  def handle_cast({:worker_failed, _index, error}, state) do
    failure = state.failure || error
    Enum.each(state.awaiting, &GenServer.reply(&1, {:error, failure}))
    {:noreply, refuse_all(%{state | failure: failure, awaiting: []}, failure)}
  end

  @impl true
  def handle_info({:expired, key}, state) do
    case Queue.take(state.queue, key) do
      {nil, _} ->
        {:noreply, state}

      {waiter, queue} ->
        Process.demonitor(key, [:flush])
        GenServer.reply(waiter.from, {:error, waited_in_vain(state.handle)})
        {:noreply, %{state | queue: queue}}
    end
  end

  # A caller died: waiting, or in the middle of a call.
  def handle_info({:DOWN, ref, :process, _pid, _reason}, state) do
    case Map.pop(state.busy, ref) do
      {nil, _} ->
        {waiter, queue} = Queue.take(state.queue, ref)
        if waiter, do: cancel(waiter.timer)
        {:noreply, %{state | queue: queue}}

      {lane, busy} ->
        Worker.discard(lane, "its caller died in the middle of a call")
        {:noreply, drained(%{state | busy: busy})}
    end
  end

  def handle_info(:drained, state), do: {:noreply, answer_drain(state, :timeout)}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: Handle.withdraw(state.handle.name)

  # ---- the books --------------------------------------------------------------------------------------------------

  defp take_idle([lane | idle], nil), do: {lane, idle}
  defp take_idle([], nil), do: nil

  defp take_idle(idle, index) do
    with %Lane{} = lane <- Enum.find(idle, &(&1.index == index)), do: {lane, List.delete(idle, lane)}
  end

  defp enqueue(state, {pid, _} = from, deadline, affinity) do
    wait = if deadline == :infinity, do: :infinity, else: deadline - now()

    cond do
      Queue.size(state.queue) >= state.handle.options.max_queue ->
        GenServer.reply(from, {:error, saturated(state.handle)})
        state

      wait != :infinity and wait <= 0 ->
        GenServer.reply(from, {:error, waited_in_vain(state.handle)})
        state

      true ->
        key = Process.monitor(pid)
        timer = if wait != :infinity, do: Process.send_after(self(), {:expired, key}, wait)
        %{state | queue: Queue.push(state.queue, key, affinity, %{from: from, timer: timer})}
    end
  end

  defp release(ref, state) do
    Process.demonitor(ref, [:flush])

    case Map.pop(state.busy, ref) do
      {nil, _} -> state
      {lane, busy} -> offer(lane, %{state | busy: busy})
    end
  end

  # To the caller who waited longest, else to the idle ones. A lane of a run that ended is dropped.
  defp offer(lane, state) do
    with true <- state.up[lane.index] == lane.epoch,
         {key, waiter, queue} <- Queue.pop(state.queue, lane.index) do
      cancel(waiter.timer)
      GenServer.reply(waiter.from, {:ok, lane, key})
      %{state | queue: queue, busy: Map.put(state.busy, key, lane)}
    else
      false -> state
      :empty -> %{state | idle: [lane | state.idle]}
    end
  end

  defp refuse_all(state, error) do
    for {key, waiter} <- Queue.all(state.queue) do
      Process.demonitor(key, [:flush])
      cancel(waiter.timer)
      GenServer.reply(waiter.from, {:error, error})
    end

    %{state | queue: Queue.new()}
  end

  defp drained(%{draining: {_, _}, busy: busy} = state) when map_size(busy) == 0, do: answer_drain(state, :ok)
  defp drained(state), do: state

  defp answer_drain(%{draining: {_, _} = from} = state, answer) do
    GenServer.reply(from, answer)
    %{state | draining: :done}
  end

  defp answer_drain(state, _answer), do: state

  defp cancel(nil), do: false
  defp cancel(timer), do: Process.cancel_timer(timer)

  defp saturated(handle) do
    words = "pool #{inspect(handle.name)} is saturated: all #{lanes(handle)} lanes are busy and #{handle.options.max_queue} callers wait"
    error(handle, :pool, :pool_saturated, words)
  end

  defp waited_in_vain(handle) do
    error(handle, :timeout, :queue_timeout, "pool #{inspect(handle.name)}: no worker was free before the deadline")
  end

  defp lanes(handle), do: handle.options.size * Options.lanes(handle.options)

  defp error(handle, category, reason, message), do: Error.new(category, reason, message, pool: handle.name)

  defp now, do: System.monotonic_time(:millisecond)
end
