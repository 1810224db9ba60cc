defmodule Snakepit.Pool do
  @moduledoc """
  A pool's lanes: who has which, who waits.

  No call passes through a process. A caller checks a lane out at the pool's checkout queue (in the library), talks to the worker
  itself, and checks the lane in again, which hands it to whoever has waited longest. Callers wait in a bounded line,
  each until its own deadline. When a caller dies in the middle of a call, its tool is cancelled, and the lane is
  used again once that has ended.

  The process of a pool only hears of workers that come and go, and of lanes whose caller died. A worker that dies while
  a tool runs counts against that tool's command (`Snakepit.Pool.CommandBreaker`). One whose runs die young without a
  call, again and again, opens its own breaker; when that of every worker is open and none is up, calls get
  `:breaker_open` at once, until one is ready.
  """

  use GenServer
  import Snakepit.Pool.Failure, only: [safely: 2]
  alias Snakepit.{Breaker, Error, Native, Worker}

  alias Snakepit.Pool.{
    Checkout,
    CommandBreaker,
    Deaths,
    Events,
    Failure,
    Handle,
    LaneRecovery,
    Options,
    Size,
    Tools
  }

  alias Snakepit.Worker.Lane

  # ---- for callers ------------------------------------------------------------------------------------------------

  @doc "Waits until every worker of the pool is ready, or until its start has failed."
  @spec await_ready(atom(), timeout()) :: :ok | {:error, Error.t()}
  def await_ready(name, timeout \\ 30_000) do
    with {:ok, handle} <- Handle.fetch(name) do
      safely(handle, fn -> GenServer.call(handle.pool, :await_ready, timeout) end)
    end
  end

  @doc false
  # The pool's tools. Waits until the first worker has said them, at most as long as a call would.
  @spec tools(Handle.t()) :: {:ok, [Snakepit.Tool.t()]} | {:error, Error.t()}
  def tools(%Handle{} = handle) do
    with nil <- Tools.all(handle),
         :ok <- safely(handle, fn -> GenServer.call(handle.pool, :await_tools, handle.options.timeout) end) do
      {:ok, Tools.all(handle) || []}
    else
      {:error, error} -> {:error, Failure.mendable(error)}
      tools -> {:ok, tools}
    end
  end

  @doc false
  defdelegate checkout(handle, deadline, session, prefer?, cancellation \\ nil), to: Checkout
  @doc false
  defdelegate checkin(checkout), to: Checkout
  @doc false
  defdelegate discard(handle, checkout, lane, why), to: Checkout
  @doc false
  defdelegate suspended, to: Checkout
  @doc false
  defdelegate mendable(error), to: Failure
  @doc false
  defdelegate waited_in_vain(handle, ms), to: Failure
  @doc false
  defdelegate stopped(handle), to: Failure

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
  def close(%Handle{} = handle), do: Failure.close(handle, :stopping)

  @doc false
  # `fun` runs in the pool's process, with what measures its calls, and answers what does so from now on.
  @spec set_performance(Handle.t(), (term() -> term())) :: :ok | {:error, Error.t()}
  def set_performance(%Handle{} = handle, fun),
    do: safely(handle, fn -> GenServer.call(handle.pool, {:performance, fun}) end)

  @doc false
  # Whether it may be resized: it did start, or is about to.
  @spec started(Handle.t()) :: :ok | {:error, Error.t()}
  def started(%Handle{} = handle) do
    case safely(handle, fn -> {:ok, GenServer.call(handle.pool, :failure)} end) do
      {:ok, nil} -> :ok
      {:ok, error} -> {:error, Failure.mendable(error)}
      {:error, error} -> {:error, error}
    end
  end

  @doc false
  # So many workers may come up from now on; the pool's size stays.
  @spec make_room(Handle.t(), pos_integer()) :: :ok
  def make_room(%Handle{pool: pool}, workers), do: GenServer.call(pool, {:make_room, workers}, :infinity)

  @doc false
  # The pool has so many workers from now on; those above leave.
  @spec resized(Handle.t(), pos_integer()) :: {:ok, Handle.t()}
  def resized(%Handle{pool: pool}, size), do: GenServer.call(pool, {:resized, size}, :infinity)

  @doc false
  # The processes of the workers that are up. No process is asked, so that one that is stopping keeps nobody.
  @spec workers_of(Handle.t()) :: [pid()]
  def workers_of(%Handle{lanes: lanes}) do
    lanes |> :ets.match({:_, %{worker: :"$1"}}) |> List.flatten() |> Enum.uniq()
  rescue
    ArgumentError -> []
  end

  # ---- for the manager --------------------------------------------------------------------------------------------

  @doc false
  @spec worker_up(Handle.t(), non_neg_integer(), [Lane.t()]) :: :ok
  def worker_up(%Handle{pool: pool}, index, lanes), do: GenServer.cast(pool, {:worker_up, index, lanes})

  @doc false
  # Its tools, if they are news. Before `worker_up/3`.
  @spec worker_tools(Handle.t(), [Snakepit.Tool.t()]) :: :ok
  def worker_tools(%Handle{pool: pool} = handle, tools) do
    if Tools.all(handle) == Enum.sort_by(tools, & &1.name),
      do: :ok,
      else: GenServer.cast(pool, {:tools, tools})
  end

  @doc false
  @spec worker_down(Handle.t(), non_neg_integer(), run :: pos_integer()) :: :ok
  def worker_down(%Handle{pool: pool}, index, run), do: GenServer.cast(pool, {:worker_down, index, run})

  @doc false
  # After `worker_down/3`, once it is known how the run ended, and before its callers get their errors. `lived_ms`: since it was
  # ready. Answers whether a command is blamed: then the worker is started again at once.
  @spec run_over(Handle.t(), non_neg_integer(), lived_ms :: non_neg_integer(), Deaths.end_of_run()) ::
          :blamed | :not_blamed
  def run_over(%Handle{pool: pool}, index, lived_ms, how_it_ended) do
    GenServer.call(pool, {:run_over, index, lived_ms, how_it_ended})
  catch
    # The pool is stopping, or starts again.
    :exit, _ -> :not_blamed
  end

  @doc false
  # Why a worker ended, or did not start: the callers' error while none is up.
  @spec trouble(Handle.t(), String.t()) :: :ok
  def trouble(%Handle{pool: pool}, words), do: GenServer.cast(pool, {:trouble, words})

  @doc false
  @spec reset_command(Handle.t(), String.t()) :: boolean()
  def reset_command(%Handle{} = handle, command) do
    with {:error, _stopped} <-
           safely(handle, fn -> GenServer.call(handle.pool, {:reset_command, command}) end),
         do: false
  end

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
    handle = options |> Size.recalled() |> Handle.new()
    Handle.publish(handle)
    Events.emit({:pool_started, options.name})

    # up: index => run whose lanes may be used. room: how many may be up: more than the size while it grows.
    state = %{handle: handle, up: %{}, room: handle.options.size, awaiting: [], awaiting_tools: []}
    {:ok, Map.merge(state, %{failure: nil, draining: nil, forgetting?: false})}
  end

  @impl true
  def handle_call(:failure, _from, state), do: {:reply, state.failure, state}

  def handle_call({:performance, fun}, _from, %{handle: handle} = state) do
    handle = %{handle | performance: fun.(handle.performance)}
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

  def handle_call(:await_tools, from, state) do
    cond do
      Tools.all(state.handle) -> {:reply, :ok, state}
      state.failure -> {:reply, {:error, state.failure}, state}
      true -> {:noreply, %{state | awaiting_tools: [from | state.awaiting_tools]}}
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

    {idle, busy, queued} = Native.queue_counts(state.handle.queue)
    up = map_size(state.up)

    {:reply,
     %{
       status: status,
       failure: state.failure,
       size: state.handle.options.size,
       workers_up: up,
       idle: idle,
       busy: busy,
       queued: queued
     }, state}
  end

  def handle_call({:make_room, workers}, _from, %{handle: handle} = state) do
    handle = Handle.with_room(handle, workers)
    Handle.publish(handle)
    Native.queue_resize(handle.queue, workers)
    {:reply, :ok, %{state | handle: handle, room: workers}}
  end

  def handle_call({:resized, size}, _from, %{handle: handle} = state) do
    handle = Handle.resize(handle, size)
    # First: whoever gets `:moved`, because its worker left, looks for another by the new size.
    Handle.publish(handle)
    Native.queue_resize(handle.queue, size)
    up = Map.filter(state.up, fn {index, _run} -> index < size end)
    {:reply, {:ok, handle}, answer_awaiting(%{state | handle: handle, room: size, up: up})}
  end

  def handle_call({:run_over, index, lived_ms, how_it_ended}, _from, state) do
    # A worker that leaves has no breaker any more.
    index = if index < state.room, do: index
    blamed? = state.draining == nil and Deaths.over(state.handle, index, lived_ms, how_it_ended)
    if all_dying?(state), do: Failure.suspend(state.handle)
    {:reply, if(blamed?, do: :blamed, else: :not_blamed), if(blamed?, do: forget_later(state), else: state)}
  end

  def handle_call({:reset_command, command}, _from, state),
    do: {:reply, CommandBreaker.reset(state.handle.commands, command), state}

  def handle_call({:drain, timeout}, from, state) do
    Process.send_after(self(), :drain_timeout, timeout)
    Failure.close(state.handle, :stopping)
    {:noreply, %{state | draining: from}}
  end

  @impl true
  # A run that is up already is replaced by this one: this process gets `:lanes_retired` when its last call is done.
  def handle_cast({:worker_up, index, [%Lane{worker: worker} | _]}, %{room: room} = state)
      when index >= room do
    # It left in this moment.
    Worker.retired(worker)
    {:noreply, state}
  end

  def handle_cast({:worker_up, index, [%Lane{run: run, worker: worker} | _] = lanes}, state) do
    per_worker = length(lanes)
    for lane <- lanes, do: :ets.insert(state.handle.lanes, {{index * per_worker + lane.number, run}, lane})
    Events.emit({:worker_up, state.handle.name, worker})
    Native.queue_up(state.handle.queue, index, run)
    :ets.delete(state.handle.trouble, :last)
    {:noreply, answer_awaiting(%{state | up: Map.put(state.up, index, run)})}
  end

  def handle_cast({:tools, tools}, state) do
    Tools.put(state.handle.tools, tools)
    Enum.each(state.awaiting_tools, &GenServer.reply(&1, :ok))
    {:noreply, %{state | awaiting_tools: []}}
  end

  def handle_cast({:worker_down, index, run}, state) do
    Native.queue_down(state.handle.queue, index, run)
    :ets.match_delete(state.handle.lanes, {{:_, run}, :_})
    {:noreply, if(state.up[index] == run, do: %{state | up: Map.delete(state.up, index)}, else: state)}
  end

  def handle_cast({:trouble, words}, state) do
    if state.up == %{}, do: :ets.insert(state.handle.trouble, {:last, words})
    {:noreply, state}
  end

  def handle_cast({:worker_failed, _index, error}, state) do
    failure = state.failure || error
    Enum.each(state.awaiting ++ state.awaiting_tools, &GenServer.reply(&1, {:error, failure}))
    Failure.close(state.handle, :failed)
    {:noreply, %{state | failure: failure, awaiting: [], awaiting_tools: []}}
  end

  @impl true
  # A caller died in the middle of a call.
  def handle_info({:lane_lost, id, run, checkout}, state) do
    case Checkout.lane(state.handle, id, run) do
      %Lane{} = lane ->
        LaneRecovery.start(
          state.handle,
          lane,
          checkout,
          false,
          "its caller died in the middle of a call"
        )

      nil ->
        Native.queue_forget(checkout)
    end

    {:noreply, state}
  end

  # A run that was replaced has served its last call.
  def handle_info({:lanes_retired, run}, state) do
    with [[lane] | _] <- :ets.match(state.handle.lanes, {{:_, run}, :"$1"}),
         do: Worker.retired(lane.worker)

    {:noreply, state}
  end

  def handle_info(:forget_commands, state) do
    state = %{state | forgetting?: false}
    {:noreply, if(CommandBreaker.forget(state.handle.commands) > 0, do: forget_later(state), else: state)}
  end

  def handle_info(:lanes_at_rest, state), do: {:noreply, answer_drain(state, :ok)}
  def handle_info(:drain_timeout, state), do: {:noreply, answer_drain(state, :timeout)}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    Handle.withdraw(state.handle.name)
    Events.emit({:pool_stopped, state.handle.name})
  end

  # While it grows, there may be others.
  defp all_up?(%{up: up, handle: %{options: %{size: size}}}),
    do: map_size(up) >= size and Enum.all?(0..(size - 1), &is_map_key(up, &1))

  defp answer_awaiting(state) do
    if state.awaiting != [] and all_up?(state) do
      Enum.each(state.awaiting, &GenServer.reply(&1, :ok))
      %{state | awaiting: []}
    else
      state
    end
  end

  defp forget_later(%{forgetting?: true} = state), do: state

  defp forget_later(state) do
    Process.send_after(self(), :forget_commands, CommandBreaker.window_ms() + 1_000)
    %{state | forgetting?: true}
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
end
