defmodule Snakepit.Pool do
  @moduledoc """
  A pool's lanes: who has which, who waits.

  No call passes through a process. A caller checks a lane out at the pool's desk (in the library), talks to the worker
  itself, and checks the lane in again, which hands it to whoever has waited longest. Callers wait in a bounded line,
  each until its own deadline. When a caller dies in the middle of a call, its tool is cancelled, and the lane is
  used again once that has ended.

  The process of a pool only hears of workers that come and go, and of lanes whose caller died. A worker whose runs die
  young again and again opens its breaker; when that of every worker is open and none is up, calls get `:breaker_open`
  at once, until one is ready.
  """

  use GenServer
  alias Snakepit.{Breaker, Call, Error, Native, Performance, Worker}
  alias Snakepit.Pool.{Handle, Options}
  alias Snakepit.Worker.Lane

  @typep epoch :: pos_integer()
  @type checkout :: {:ok, Lane.t(), Native.ticket()} | {:error, Error.t()}

  # Codes a closed desk gives its callers; they ask the pool's process for the words.
  @failed 1
  @stopping 2
  @dying 3
  # As the backoff of workers has it.
  @young_ms 30_000
  @worker_breaker %{window_ms: 60_000, minimum_calls: 5}

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
  def checkout(%Handle{desk: desk} = handle, deadline, affinity, prefer?) do
    case Native.desk_checkout(desk, affinity || -1, prefer?) do
      {:wait, key} -> wait(handle, key, deadline, affinity, prefer?)
      answer -> answered(handle, answer, deadline, affinity, prefer?)
    end
  end

  defp wait(handle, key, deadline, affinity, prefer?) do
    since = System.monotonic_time(:millisecond)

    receive do
      {:snakepit_lane, ^key, answer} -> handed(handle, answer, deadline, affinity, prefer?)
    after
      wait_ms(deadline) ->
        if Native.desk_cancel(handle.desk, key) do
          {:error, waited_in_vain(handle, System.monotonic_time(:millisecond) - since)}
        else
          # A lane was handed over in this moment: its message is there.
          receive do
            {:snakepit_lane, ^key, answer} -> handed(handle, answer, deadline, affinity, prefer?)
          end
        end
    end
  end

  defp handed(handle, {:ok, _, _, ticket} = answer, deadline, affinity, prefer?) do
    Native.desk_take(ticket)
    answered(handle, answer, deadline, affinity, prefer?)
  end

  defp handed(handle, answer, deadline, affinity, prefer?),
    do: answered(handle, answer, deadline, affinity, prefer?)

  defp answered(handle, {:ok, id, epoch, ticket}, deadline, affinity, prefer?) do
    case lane(handle, id, epoch) do
      %Lane{} = lane ->
        {:ok, lane, ticket}

      nil ->
        # Its worker went down in this moment.
        Native.desk_forget(ticket)
        checkout(handle, deadline, affinity, prefer?)
    end
  end

  defp answered(handle, :full, _deadline, _affinity, _prefer?), do: {:error, saturated(handle)}

  defp answered(handle, {:closed, @dying}, _deadline, _affinity, _prefer?), do: {:error, dying(handle)}

  defp answered(handle, {:closed, _code}, _deadline, _affinity, _prefer?) do
    with {:ok, nil} <- safely(handle, fn -> {:ok, GenServer.call(handle.pool, :failure)} end) do
      {:error, stopping(handle)}
    else
      {:ok, error} -> {:error, mendable(error)}
      {:error, error} -> {:error, error}
    end
  end

  @doc false
  # What to do about a pool that is there but could not start.
  @spec mendable(Error.t()) :: Error.t()
  def mendable(%Error{pool: pool} = error),
    do: %{error | message: "#{error.message}\nOnce that is mended: Snakepit.restart_pool(#{inspect(pool)})"}

  defp lane(%Handle{lanes: lanes}, id, epoch) do
    case :ets.lookup(lanes, {id, epoch}) do
      [{_, lane}] -> lane
      [] -> nil
    end
  rescue
    # The pool's process, and its table with it, is gone.
    ArgumentError -> nil
  end

  defp wait_ms(:infinity), do: :infinity
  defp wait_ms(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  @doc false
  @spec checkin(Native.ticket()) :: :ok
  def checkin(ticket), do: Native.desk_checkin(ticket)

  @doc false
  # The lane may be in the middle of a call: it is not used again.
  @spec discard(Handle.t(), Native.ticket(), Lane.t(), String.t() | :closed) :: :ok
  def discard(%Handle{desk: desk} = handle, ticket, lane, why) do
    # What we end for a caller's sake says nothing of its health; a lane it closed itself does.
    if why != :closed, do: spare(handle, lane.epoch)
    # At once, so that the caller's next call does not meet the same worker.
    Native.desk_down(desk, lane.index, lane.epoch)
    Native.desk_forget(ticket)
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

  @doc false
  # No new calls, and nobody waits any more.
  @spec close(Handle.t()) :: :ok
  def close(%Handle{desk: desk}), do: Native.desk_close(desk, @stopping)

  defp safely(handle, fun) do
    fun.()
  catch
    :exit, {:timeout, _} ->
      {:error, error(handle, :timeout, :not_ready, "pool #{inspect(handle.name)} is not ready yet")}

    :exit, _ ->
      {:error, error(handle, :pool, :stopped, "pool #{inspect(handle.name)} has stopped")}
  end

  @doc false
  @spec set_policy(Handle.t(), Performance.Policy.t()) :: :ok | {:error, Error.t()}
  def set_policy(%Handle{} = handle, policy),
    do: safely(handle, fn -> GenServer.call(handle.pool, {:policy, policy}) end)

  @doc false
  # The processes of the workers that are up. No process is asked, so that one that is stopping keeps nobody.
  @spec workers_of(Handle.t()) :: [pid()]
  def workers_of(%Handle{lanes: lanes}) do
    lanes |> :ets.match({:_, %{worker: :"$1"}}) |> List.flatten() |> Enum.uniq()
  rescue
    ArgumentError -> []
  end

  # ---- for workers ------------------------------------------------------------------------------------------------

  @doc false
  @spec worker_up(Handle.t(), non_neg_integer(), [Lane.t()]) :: :ok
  def worker_up(%Handle{pool: pool}, index, lanes), do: GenServer.cast(pool, {:worker_up, index, lanes})

  @doc false
  @spec worker_down(Handle.t(), non_neg_integer(), epoch()) :: :ok
  def worker_down(%Handle{pool: pool}, index, epoch), do: GenServer.cast(pool, {:worker_down, index, epoch})

  @doc false
  # To be called before `worker_down/3` of a run whose end was meant: it does not count as a death.
  @spec spare(Handle.t(), epoch()) :: :ok
  def spare(%Handle{pool: pool}, epoch), do: GenServer.cast(pool, {:spare, epoch})

  @doc false
  # A run counts as dead once, and as one that lived when it was up for long.
  @spec run_ended(Breaker.t(), non_neg_integer(), lived_ms :: integer(), now :: integer()) :: :ok
  def run_ended(breaker, index, lived_ms, _now) when lived_ms >= @young_ms, do: Breaker.reset(breaker, index)
  def run_ended(breaker, index, _lived_ms, now), do: Breaker.record(breaker, index, :failure, nil, now)

  @doc false
  @spec worker_breaker() :: map()
  def worker_breaker, do: @worker_breaker

  @doc false
  @spec worker_failed(Handle.t(), non_neg_integer(), Error.t()) :: :ok
  def worker_failed(%Handle{pool: pool}, index, error),
    do: GenServer.cast(pool, {:worker_failed, index, error})

  # ---- the process ------------------------------------------------------------------------------------------------

  @doc false
  @spec start_link(Options.t()) :: GenServer.on_start()
  def start_link(%Options{name: name} = options),
    do: GenServer.start_link(__MODULE__, options, name: Handle.name(:pool, name))

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    handle = Handle.new(options)
    Handle.publish(handle)
    if handle.brain, do: Performance.Learning.watch(options.name)

    # up: index => epoch of the run whose lanes may be used; since: when that was; ended: epochs of runs that are over;
    # spared: of those whose end is meant.
    state = %{handle: handle, up: %{}, since: %{}, ended: MapSet.new(), spared: MapSet.new()}
    {:ok, Map.merge(state, %{awaiting: [], failure: nil, draining: nil})}
  end

  @impl true
  def handle_call(:failure, _from, state), do: {:reply, state.failure, state}

  def handle_call({:policy, policy}, _from, %{handle: handle} = state) do
    handle = %{handle | policy: policy}
    Performance.Tuning.set(handle.brain, handle.options.transfers, handle.settings, policy)
    Handle.publish(handle)
    {:reply, :ok, %{state | handle: handle}}
  end

  def handle_call(:await_ready, from, state) do
    cond do
      state.failure -> {:reply, {:error, state.failure}, state}
      all_up?(state) -> {:reply, :ok, state}
      true -> {:noreply, %{state | awaiting: [from | state.awaiting]}}
    end
  end

  def handle_call(:status, _from, state) do
    status =
      cond do
        state.failure -> :failed
        state.draining -> :stopping
        all_up?(state) -> :ready
        all_dying?(state) -> :breaker_open
        true -> :starting
      end

    {idle, busy, queued} = Native.desk_counts(state.handle.desk)
    up = map_size(state.up)

    {:reply,
     %{status: status, failure: state.failure, workers_up: up, idle: idle, busy: busy, queued: queued}, state}
  end

  def handle_call({:drain, timeout}, from, state) do
    Process.send_after(self(), :drain_timeout, timeout)
    Native.desk_close(state.handle.desk, @stopping)
    {:noreply, %{state | draining: from}}
  end

  @impl true
  # A run that is up already is replaced by this one: it is told when its last call is done.
  def handle_cast({:worker_up, index, [%Lane{epoch: epoch} | _] = lanes}, state) do
    per_worker = length(lanes)
    for lane <- lanes, do: :ets.insert(state.handle.lanes, {{index * per_worker + lane.number, epoch}, lane})
    Native.desk_up(state.handle.desk, index, epoch)
    # The end of a run that is replaced is meant.
    state = if old = state.up[index], do: %{state | spared: MapSet.put(state.spared, old)}, else: state
    state = %{state | up: Map.put(state.up, index, epoch), since: Map.put(state.since, index, now())}

    if all_up?(state) do
      Enum.each(state.awaiting, &GenServer.reply(&1, :ok))
      {:noreply, %{state | awaiting: []}}
    else
      {:noreply, state}
    end
  end

  def handle_cast({:worker_down, index, epoch}, state) do
    Native.desk_down(state.handle.desk, index, epoch)
    :ets.match_delete(state.handle.lanes, {{:_, epoch}, :_})
    {:noreply, if(epoch in state.ended, do: state, else: run_over(state, index, epoch))}
  end

  def handle_cast({:spare, epoch}, state), do: {:noreply, %{state | spared: MapSet.put(state.spared, epoch)}}

  def handle_cast({:worker_failed, _index, error}, state) do
    failure = state.failure || error
    Enum.each(state.awaiting, &GenServer.reply(&1, {:error, failure}))
    Native.desk_close(state.handle.desk, @failed)
    {:noreply, %{state | failure: failure, awaiting: []}}
  end

  @impl true
  # A caller died in the middle of a call.
  def handle_info({:lane_lost, id, epoch, ticket}, state) do
    case lane(state.handle, id, epoch) do
      %Lane{} = lane ->
        Call.Settle.start(state.handle, lane, ticket, false, "its caller died in the middle of a call")

      nil ->
        Native.desk_forget(ticket)
    end

    {:noreply, state}
  end

  # A run that was replaced has served its last call.
  def handle_info({:lanes_retired, epoch}, state) do
    with [[lane] | _] <- :ets.match(state.handle.lanes, {{:_, epoch}, :"$1"}),
         do: send(lane.worker, {:retired, epoch})

    {:noreply, state}
  end

  def handle_info(:lanes_at_rest, state), do: {:noreply, answer_drain(state, :ok)}
  def handle_info(:drain_timeout, state), do: {:noreply, answer_drain(state, :timeout)}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: Handle.withdraw(state.handle.name)

  defp all_up?(state), do: map_size(state.up) == state.handle.options.size

  defp run_over(state, index, epoch) do
    {up?, now, breaker} = {state.up[index] == epoch, now(), state.handle.workers_breaker}

    unless epoch in state.spared or state.draining != nil,
      do: run_ended(breaker, index, if(up?, do: now - state.since[index], else: 0), now)

    up = if up?, do: Map.delete(state.up, index), else: state.up

    state = %{
      state
      | up: up,
        spared: recent(state.spared, state),
        ended: recent(MapSet.put(state.ended, epoch), state)
    }

    if all_dying?(state), do: Native.desk_suspend(state.handle.desk, @dying)
    state
  end

  # A run is told of twice at most, and soon. Epochs grow.
  defp recent(epochs, %{handle: %{options: %{size: size}}}) do
    if MapSet.size(epochs) <= 8 * size,
      do: epochs,
      else: epochs |> Enum.sort(:desc) |> Enum.take(4 * size) |> MapSet.new()
  end

  # How long an open one stays open does not matter: the worker itself says when it is ready.
  defp all_dying?(%{handle: %{workers_breaker: breaker}} = state) do
    state.up == %{} and Enum.all?(Breaker.targets(breaker), &(Breaker.state(breaker, &1) != :closed))
  end

  defp answer_drain(%{draining: {_, _} = from} = state, answer) do
    GenServer.reply(from, answer)
    %{state | draining: :done}
  end

  defp answer_drain(state, _answer), do: state

  # ---- words ------------------------------------------------------------------------------------------------------

  defp saturated(handle) do
    lanes = handle.options.size * Options.lanes(handle.options)
    waiting = handle.options.max_queue

    words =
      "pool #{inspect(handle.name)} is saturated: #{lanes} calls run (:size), #{waiting} callers wait (:max_queue)"

    error(handle, :pool, :pool_saturated, words)
  end

  defp waited_in_vain(handle, ms) do
    {_idle, busy, queued} = Native.desk_counts(handle.desk)

    words =
      "pool #{inspect(handle.name)}: no worker was free within #{ms} ms " <>
        "(#{busy} calls run, #{queued} more wait, #{workers_up(handle)} of #{handle.options.size} workers are up)"

    error(handle, :timeout, :queue_timeout, words)
  end

  # From the table, so that many who waited in vain need not ask the pool's process.
  defp workers_up(handle) do
    case :ets.info(handle.lanes, :size) do
      :undefined -> 0
      # Of a worker that is being replaced, the lanes of both are there.
      lanes -> lanes |> div(Options.lanes(handle.options)) |> min(handle.options.size)
    end
  end

  defp dying(handle) do
    words =
      "pool #{inspect(handle.name)}: every worker died young too often; calls are refused until one is ready again"

    error(handle, :pool, :breaker_open, words)
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp stopping(handle), do: error(handle, :pool, :stopping, "pool #{inspect(handle.name)} is stopping")

  defp error(handle, category, reason, message), do: Error.new(category, reason, message, pool: handle.name)
end
