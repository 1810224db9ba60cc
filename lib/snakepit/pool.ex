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
  alias Snakepit.{Breaker, Error, Native, Telemetry, Transfer, Worker}

  alias Snakepit.Pool.{
    CommandBreaker,
    Events,
    Handle,
    LaneRecovery,
    Manager,
    Options,
    Resizer,
    Session,
    Tools
  }

  alias Snakepit.Terminal.Units
  alias Snakepit.Worker.Lane
  require Logger

  @typep epoch :: pos_integer()
  @type checkout :: {:ok, Lane.t(), Native.checkout()} | {:error, Error.t()}

  # Codes a closed checkout queue gives its callers; they ask the pool's process for the words.
  @failed 1
  @stopping 2
  @dying 3
  # As the backoff of workers has it.
  @young_ms 30_000

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
      {:error, error} -> {:error, mendable(error)}
      tools -> {:ok, tools}
    end
  end

  # What a caller wants: a lane at the latest at `deadline` (monotonic ms), of the worker of this session, or of any
  # (nil); `prefer?`: any other will do when that one is busy. `cancellation`: what ends the wait early, nil where nobody
  # can; a lane that was handed over in that moment is answered all the same.
  @typep want :: {
           deadline :: integer() | :infinity,
           session :: String.t() | nil,
           prefer? :: boolean(),
           Native.cancellation() | nil
         }

  @doc false
  @spec checkout(
          Handle.t(),
          integer() | :infinity,
          String.t() | nil,
          boolean(),
          Native.cancellation() | nil
        ) :: checkout()
  def checkout(%Handle{} = handle, deadline, session, prefer?, cancellation \\ nil),
    do: take(handle, {deadline, session, prefer?, cancellation}, nil)

  # `place`: of a caller that was in line already, for a worker that left.
  @spec take(Handle.t(), want(), term()) :: checkout()
  defp take(%Handle{queue: queue} = handle, {deadline, session, prefer?, cancellation} = want, place) do
    # Made and received in one body, so that a long mailbox costs nothing (see Wire.LaneSocket).
    ref = make_ref()

    case ask(queue, worker(session, handle), prefer?, ref, place) do
      {:wait, key} when cancellation != nil ->
        collect_forgotten()
        since = System.monotonic_time()

        got =
          if Native.cancel_wait(cancellation, ref) do
            got =
              receive do
                {:snakepit_lane, ^ref, answer} -> {:answer, answer}
                {:snakepit_cancelled, ^ref} -> :cancelled
              after
                wait_ms(deadline) -> :timeout
              end

            # If it is cancelled in this very moment, the message comes.
            if got != :cancelled and not Native.cancel_waited(cancellation) do
              receive do
                {:snakepit_cancelled, ^ref} -> if(got == :timeout, do: :cancelled, else: got)
              end
            else
              got
            end
          else
            :cancelled
          end

        got =
          if is_atom(got) and not Native.queue_cancel(queue, key) do
            receive do
              {:snakepit_lane, ^ref, answer} -> {:answer, answer}
            end
          else
            got
          end

        case got do
          {:answer, answer} ->
            waited(handle, answer, since)
            handed(handle, answer, want)

          :timeout ->
            ms = System.convert_time_unit(System.monotonic_time() - since, :native, :millisecond)
            waited(handle, :timeout, since)
            {:error, waited_in_vain(handle, ms)}

          :cancelled ->
            waited(handle, :cancelled, since)
            {:error, error(handle, :cancelled, :cancelled, "the call was cancelled while it waited")}
        end

      {:wait, key} ->
        collect_forgotten()
        since = System.monotonic_time()

        receive do
          {:snakepit_lane, ^ref, answer} ->
            waited(handle, answer, since)
            handed(handle, answer, want)
        after
          wait_ms(deadline) ->
            if Native.queue_cancel(queue, key) do
              ms = System.convert_time_unit(System.monotonic_time() - since, :native, :millisecond)
              waited(handle, :timeout, since)
              {:error, waited_in_vain(handle, ms)}
            else
              # A lane was handed over in this moment: its message is there.
              receive do
                {:snakepit_lane, ^ref, answer} ->
                  waited(handle, answer, since)
                  handed(handle, answer, want)
              end
            end
        end

      answer ->
        answered(handle, answer, want)
    end
  end

  @doc false
  # In the dictionary of a process that has suspended a stream.
  @spec suspended() :: atom()
  def suspended, do: :snakepit_suspended_stream

  # A caller that sleeps does not collect its garbage. If that holds the lane of a stream, it would wait for itself.
  defp collect_forgotten do
    if Process.get(suspended()), do: :erlang.garbage_collect()
    :ok
  end

  @compile {:inline, ask: 5, worker: 2}
  defp ask(queue, worker, prefer?, ref, nil), do: Native.queue_checkout(queue, worker, prefer?, ref)

  defp ask(queue, worker, prefer?, ref, place),
    do: Native.queue_checkout_again(queue, worker, prefer?, ref, place)

  defp worker(nil, _handle), do: -1
  defp worker(session, handle), do: Session.worker(session, handle.options.size)

  @queued [:snakepit, :pool, :queue]

  # It waits on, for another worker.
  defp waited(_handle, {:moved, _place}, _since), do: :ok

  defp waited(handle, answer, since) do
    if Telemetry.listened_to?(@queued) do
      ns = System.convert_time_unit(System.monotonic_time() - since, :native, :nanosecond)

      result =
        case answer do
          {:ok, _, _, _} -> :served
          {:closed, _} -> :closed
          ended -> ended
        end

      Telemetry.execute(@queued, %{wait_ns: ns}, %{pool: handle.name, result: result})
    end
  end

  defp handed(handle, {:ok, _, _, checkout} = answer, want) do
    Native.queue_take(checkout)
    answered(handle, answer, want)
  end

  defp handed(handle, {:moved, place}, want), do: moved(handle, want, place)
  defp handed(handle, answer, want), do: answered(handle, answer, want)

  defp answered(handle, {:ok, id, epoch, checkout}, want) do
    case lane(handle, id, epoch) do
      %Lane{} = lane ->
        {:ok, lane, checkout}

      nil ->
        # Its worker went down in this moment.
        Native.queue_forget(checkout)
        take(handle, want, nil)
    end
  end

  defp answered(handle, :full, _want) do
    {_idle, busy, queued} = Native.queue_counts(handle.queue)
    Telemetry.execute([:snakepit, :pool, :saturated], %{busy: busy, queued: queued}, %{pool: handle.name})
    {:error, saturated(handle)}
  end

  defp answered(handle, :moved, want), do: moved(handle, want, nil)
  defp answered(handle, {:closed, @dying}, _want), do: {:error, dying(handle)}

  defp answered(handle, {:closed, _code}, _want) do
    with {:ok, nil} <- safely(handle, fn -> {:ok, GenServer.call(handle.pool, :failure)} end) do
      {:error, stopping(handle)}
    else
      {:ok, error} -> {:error, mendable(error)}
      {:error, error} -> {:error, error}
    end
  end

  # Its worker left when the pool shrank: the session has another one.
  defp moved(%{queue: queue} = handle, want, place) do
    case Handle.fetch(handle.name) do
      {:ok, %{queue: ^queue} = handle} -> take(handle, want, place)
      _another_pool -> {:error, stopping(handle)}
    end
  end

  @doc false
  # What to do about a pool that is there but could not start.
  @spec mendable(Error.t()) :: Error.t()
  def mendable(%Error{reason: reason} = error) when reason in [:stopped, :not_ready], do: error

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
  @spec checkin(Native.checkout()) :: :ok
  def checkin(checkout), do: Native.queue_checkin(checkout)

  @doc false
  # The lane may be in the middle of a call: it is not used again.
  @spec discard(Handle.t(), Native.checkout(), Lane.t(), String.t() | :closed) :: :ok
  def discard(%Handle{queue: queue}, checkout, lane, why) do
    # At once, so that the caller's next call does not meet the same worker.
    Native.queue_down(queue, lane.index, lane.epoch)
    Native.queue_forget(checkout)
    Worker.discard(lane, why)
  end

  @doc false
  # Why the lane's worker ended; waits a moment, but not beyond `timeout`, for a run that is just ending. `:gone`: nobody
  # knows, or the pool has stopped; `:stopping`: it is being stopped.
  @spec why(Handle.t(), Lane.t(), timeout()) :: String.t() | :stopping | :gone
  def why(%Handle{name: name}, %Lane{epoch: run} = lane, timeout) do
    with :gone <- Worker.why(lane, timeout), do: Manager.why(name, run)
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
  def close(%Handle{queue: queue}), do: Native.queue_close(queue, @stopping)

  defp safely(handle, fun) do
    fun.()
  catch
    :exit, {:timeout, _} ->
      {:error, error(handle, :timeout, :not_ready, "pool #{inspect(handle.name)} is not ready yet")}

    :exit, _ ->
      {:error, error(handle, :pool, :stopped, "pool #{inspect(handle.name)} has stopped")}
  end

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
      {:ok, error} -> {:error, mendable(error)}
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

  # ---- for workers ------------------------------------------------------------------------------------------------

  @doc false
  @spec worker_up(Handle.t(), non_neg_integer(), [Lane.t()]) :: :ok
  def worker_up(%Handle{pool: pool}, index, lanes), do: GenServer.cast(pool, {:worker_up, index, lanes})

  @doc false
  # What its tools are, if that is news. Before `worker_up/3`.
  @spec worker_tools(Handle.t(), [Snakepit.Tool.t()]) :: :ok
  def worker_tools(%Handle{pool: pool} = handle, tools) do
    if Tools.all(handle) == Enum.sort_by(tools, & &1.name),
      do: :ok,
      else: GenServer.cast(pool, {:tools, tools})
  end

  @doc false
  @spec worker_down(Handle.t(), non_neg_integer(), epoch()) :: :ok
  def worker_down(%Handle{pool: pool}, index, epoch), do: GenServer.cast(pool, {:worker_down, index, epoch})

  @typedoc """
  How a run ended: of itself while these commands ran (none: idle, or before it was ready), or as somebody wanted.
  """
  @type end_of_run :: {:died, commands :: [String.t()], how :: String.t()} | :meant

  @doc false
  # After `worker_down/3`, once it is known how the run ended, and before its callers are told. `lived_ms`: since it was
  # ready. Answers whether a command is blamed: then the worker is started again at once.
  @spec run_over(Handle.t(), non_neg_integer(), lived_ms :: non_neg_integer(), end_of_run()) ::
          :blamed | :not_blamed
  def run_over(%Handle{pool: pool}, index, lived_ms, how_it_ended) do
    GenServer.call(pool, {:run_over, index, lived_ms, how_it_ended})
  catch
    # The pool is stopping, or starts again.
    :exit, _ -> :not_blamed
  end

  @doc false
  # Why a worker ended, or did not start: told to callers while none is up.
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
  # A run counts as dead once, and as one that lived when it was up for long.
  @spec run_ended(Breaker.t(), non_neg_integer(), lived_ms :: integer(), now :: integer()) :: :ok
  def run_ended(breaker, index, lived_ms, _now) when lived_ms >= @young_ms, do: Breaker.reset(breaker, index)
  def run_ended(breaker, index, _lived_ms, now), do: Breaker.record(breaker, index, :failure, nil, now)

  @doc false
  @spec worker_breaker() :: map()
  defdelegate worker_breaker, to: Handle

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
    handle = options |> Resizer.resized() |> Handle.new()
    Handle.publish(handle)
    Events.emit({:pool_started, options.name})

    # up: index => epoch of the run whose lanes may be used. room: how many may be up: more than the size while it grows.
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
    # First: whoever is told that its worker left looks for another by the new size.
    Handle.publish(handle)
    Native.queue_resize(handle.queue, size)
    up = Map.filter(state.up, fn {index, _epoch} -> index < size end)
    {:reply, {:ok, handle}, answer_awaiting(%{state | handle: handle, room: size, up: up})}
  end

  def handle_call({:run_over, index, lived_ms, how_it_ended}, _from, state) do
    # A worker that leaves has no breaker any more.
    index = if index < state.room, do: index
    blamed? = state.draining == nil and over(state.handle, index, lived_ms, how_it_ended)
    if all_dying?(state), do: Native.queue_suspend(state.handle.queue, @dying)
    {:reply, if(blamed?, do: :blamed, else: :not_blamed), if(blamed?, do: forget_later(state), else: state)}
  end

  def handle_call({:reset_command, command}, _from, state),
    do: {:reply, CommandBreaker.reset(state.handle.commands, command), state}

  def handle_call({:drain, timeout}, from, state) do
    Process.send_after(self(), :drain_timeout, timeout)
    Native.queue_close(state.handle.queue, @stopping)
    {:noreply, %{state | draining: from}}
  end

  @impl true
  # A run that is up already is replaced by this one: it is told when its last call is done.
  def handle_cast({:worker_up, index, [%Lane{worker: worker} | _]}, %{room: room} = state)
      when index >= room do
    # It left in this moment.
    Worker.retired(worker)
    {:noreply, state}
  end

  def handle_cast({:worker_up, index, [%Lane{epoch: epoch, worker: worker} | _] = lanes}, state) do
    per_worker = length(lanes)
    for lane <- lanes, do: :ets.insert(state.handle.lanes, {{index * per_worker + lane.number, epoch}, lane})
    Events.emit({:worker_up, state.handle.name, worker})
    Native.queue_up(state.handle.queue, index, epoch)
    :ets.delete(state.handle.trouble, :last)
    Events.emit({:worker_up, state.handle.name, worker})
    {:noreply, answer_awaiting(%{state | up: Map.put(state.up, index, epoch)})}
  end

  def handle_cast({:tools, tools}, state) do
    Tools.put(state.handle.tools, tools)
    Enum.each(state.awaiting_tools, &GenServer.reply(&1, :ok))
    {:noreply, %{state | awaiting_tools: []}}
  end

  def handle_cast({:worker_down, index, epoch}, state) do
    Native.queue_down(state.handle.queue, index, epoch)
    :ets.match_delete(state.handle.lanes, {{:_, epoch}, :_})
    {:noreply, if(state.up[index] == epoch, do: %{state | up: Map.delete(state.up, index)}, else: state)}
  end

  def handle_cast({:trouble, words}, state) do
    if state.up == %{}, do: :ets.insert(state.handle.trouble, {:last, words})
    {:noreply, state}
  end

  def handle_cast({:worker_failed, _index, error}, state) do
    failure = state.failure || error
    Enum.each(state.awaiting ++ state.awaiting_tools, &GenServer.reply(&1, {:error, failure}))
    Native.queue_close(state.handle.queue, @failed)
    {:noreply, %{state | failure: failure, awaiting: [], awaiting_tools: []}}
  end

  @impl true
  # A caller died in the middle of a call.
  def handle_info({:lane_lost, id, epoch, checkout}, state) do
    case lane(state.handle, id, epoch) do
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
  def handle_info({:lanes_retired, epoch}, state) do
    with [[lane] | _] <- :ets.match(state.handle.lanes, {{:_, epoch}, :"$1"}),
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

  # Whether a command is blamed.
  defp over(_handle, _index, _lived_ms, :meant), do: false

  defp over(handle, index, lived_ms, {:died, commands, how}) do
    # Probes run no tool.
    commands = Enum.reject(commands, &(&1 == Transfer.probe_command()))

    case commands != [] and CommandBreaker.died(handle.commands, commands, how) do
      {[_ | _], opened} ->
        if index && lived_ms >= @young_ms, do: Breaker.reset(handle.workers_breaker, index)
        Enum.each(opened, &opened(handle, &1))
        true

      # Nothing ran, or so many commands end workers that no row is left.
      _nobody ->
        if index, do: run_ended(handle.workers_breaker, index, lived_ms, now())
        false
    end
  end

  defp opened(handle, command) do
    %{^command => facts} = CommandBreaker.explain(handle.commands)

    Logger.warning(
      "pool #{inspect(handle.name)}: the calls of #{inspect(command)} ended #{facts.deaths} workers (the last: " <>
        "#{facts.last}); it is refused for #{facts.retry_in_ms} ms, then tried by one call at a time"
    )

    Telemetry.execute(
      [:snakepit, :pool, :command_refused],
      %{deaths: facts.deaths, retry_in_ms: facts.retry_in_ms},
      %{pool: handle.name, command: command, last: facts.last}
    )
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

  # ---- words ------------------------------------------------------------------------------------------------------

  defp saturated(handle) do
    lanes = handle.options.size * Options.lanes(handle.options)
    waiting = handle.options.max_queue

    words =
      "pool #{inspect(handle.name)} is saturated: #{Units.counted(lanes, "call runs", "calls run")} (:size), " <>
        "#{Units.counted(waiting, "caller waits", "callers wait")} (:max_queue)"

    error(handle, :pool, :pool_saturated, words <> why_none_is_up(handle))
  end

  @doc false
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

  defp now, do: System.monotonic_time(:millisecond)

  @doc false
  # Of a call that ran.
  @spec stopped(Handle.t()) :: Error.t()
  def stopped(handle),
    do: error(handle, :pool, :stopping, "pool #{inspect(handle.name)} stopped before the call ended")

  defp stopping(handle), do: error(handle, :pool, :stopping, "pool #{inspect(handle.name)} is stopping")

  defp error(handle, category, reason, message), do: Error.new(category, reason, message, pool: handle.name)
end
