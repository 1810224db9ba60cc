defmodule Snakepit.Pool.Manager do
  @moduledoc false
  # Starts a pool's workers, one process for each run of each, and starts the next when one ends. It hears of a run by
  # `t:Snakepit.Worker.event/0`s, asks `Snakepit.Pool.Slot` what follows, and does that. It remembers why the last runs ended,
  # for callers that ask when the run's own process is gone.
  #
  # It may call the pool's process, which never calls this one.

  use GenServer
  alias Snakepit.{Error, Pool, Worker}
  alias Snakepit.Pool.{Env, Handle, Listing, Options, Slot, Workers, WorkerSpec}
  alias Snakepit.Worker.{Chunks, Lane, Report}
  require Logger

  # Per worker. Callers ask within moments.
  @remembered 8
  # Warnings of one pool, each of which is kept to be logged once.
  @most_warnings 200

  # ---- for the pool's other processes -----------------------------------------------------------------------------

  @spec start_link(atom()) :: GenServer.on_start()
  def start_link(pool), do: GenServer.start_link(__MODULE__, pool, name: Handle.name(:manager, pool))

  @typedoc "One that changes the size of the pool: it is sent `{:joined, ref, index}` or `{:not_joined, ref, index, error}`."
  @type joiner :: {pid(), reference()}

  @doc "Starts workers up to this size. The pool's own size stays until `resized/2`."
  @spec grow(atom(), size :: pos_integer(), joiner()) :: :ok
  def grow(pool, size, joiner), do: call(pool, {:grow, size, joiner})

  @doc """
  The pool has so many workers from now on; those above leave. Answers with the workers that leave without having been ready:
  they end now.
  """
  @spec resized(atom(), size :: pos_integer()) :: [pid()]
  def resized(pool, size), do: call(pool, {:resized, size})

  @doc """
  Replaces a worker by a new one unless its run began at `as_of` (monotonic ms) or later. Answers when that is ready; an
  error says why it could not be, and the worker goes on. `:gone`: the pool stops. `why`: in words.
  """
  @spec renew(atom(), index :: non_neg_integer(), as_of :: integer(), why :: String.t()) ::
          :ok | :gone | {:error, Error.t()}
  def renew(pool, index, as_of, why) do
    call(pool, {:renew, index, as_of, why})
  catch
    :exit, _ -> :gone
  end

  @doc """
  Why the lane's worker ended, in words. Waits a moment, but not beyond `timeout`, for a run that is just ending. `:gone`: nobody
  knows; `:stopping`: the worker is being stopped, or its pool.
  """
  @spec why(Handle.t(), Lane.t(), timeout()) :: String.t() | :stopping | :gone
  def why(%Handle{name: pool}, %Lane{run: run} = lane, timeout) do
    with :gone <- Worker.why(lane, timeout), do: call(pool, {:why, run})
  catch
    # It ends before its pool is withdrawn.
    :exit, _ -> :stopping
  end

  @doc "The workers as `Snakepit.list_workers/1` has them. The manager does not wait for a worker: who calls does."
  @spec described(Handle.t()) :: [map()]
  def described(%Handle{} = handle) do
    Listing.described(call(handle.name, :rows), handle)
  catch
    :exit, _ -> []
  end

  defp call(pool, request), do: GenServer.call(Handle.name(:manager, pool), request, :infinity)

  # ---- the process ------------------------------------------------------------------------------------------------

  @impl true
  def init(pool) do
    Process.flag(:trap_exit, true)
    handle = Handle.fetch!(pool)

    # slots: by index. runs: by the worker's process. asked: functions of `env:` that were asked for a run's variables.
    # reasons: {run, why it ended}, the latest first. warned: hashes of warnings.
    state = %{handle: handle, size: handle.options.size, slots: %{}, runs: %{}, asked: %{}, reasons: []}
    state = Map.put(state, :warned, MapSet.new())
    {:ok, Enum.reduce(0..(state.size - 1), state, &add(&2, &1, nil))}
  end

  @impl true
  def handle_call({:grow, size, joiner}, _from, state) do
    :ok = Pool.make_room(state.handle, size)
    new = state.handle.options.size..(size - 1)
    {:reply, :ok, Enum.reduce(new, %{state | size: size}, &add(&2, &1, joiner))}
  end

  def handle_call({:resized, size}, _from, state) do
    {:ok, handle} = Pool.resized(state.handle, size)
    state = %{state | handle: handle, size: size}
    {stay, leave} = Enum.split_with(state.slots, fn {index, _slot} -> index < size end)

    never_ready =
      for {pid, run} <- state.runs,
          {index, slot} <- leave,
          run.index == index and run.departing == nil and not Slot.serving?(slot, run.id),
          do: pid

    state = Enum.reduce(leave, state, fn {index, _slot}, state -> leave(state, index) end)
    quota = Chunks.quota(handle)

    for {pid, run} <- state.runs, {index, _slot} <- stay, run.index == index and run.departing == nil do
      Worker.resized(pid, size, quota)
    end

    {:reply, never_ready, state}
  end

  def handle_call({:renew, index, as_of, why}, from, state) do
    if is_map_key(state.slots, index),
      do: {:noreply, step(state, index, {:renew, from, as_of, why})},
      else: {:reply, :ok, state}
  end

  def handle_call({:why, run}, _from, state) do
    case List.keyfind(state.reasons, run, 0) do
      {_run, why} -> {:reply, why, state}
      nil -> {:reply, :gone, state}
    end
  end

  def handle_call(:rows, _from, state),
    do: {:reply, Listing.rows(state.handle.name, state.slots, state.runs), state}

  @impl true
  def handle_info({:worker, pid, event}, state) do
    case state.runs do
      %{^pid => run} -> {:noreply, event(event, pid, run, state)}
      _ -> {:noreply, state}
    end
  end

  def handle_info({:start, index, id}, state), do: {:noreply, begin(state, index, id)}

  def handle_info({:DOWN, monitor, :process, pid, reason} = message, state) do
    case state do
      %{runs: %{^pid => run}} ->
        {:noreply, gone(run, reason, %{state | runs: Map.delete(state.runs, pid)})}

      _ ->
        {:noreply, answered(message, &(&1.monitor == monitor), state)}
    end
  end

  def handle_info({:env_late, pid} = message, state),
    do: {:noreply, answered(message, &(&1.pid == pid), state)}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: for({_key, asked} <- state.asked, do: Process.exit(asked.pid, :kill))

  # ---- slots ------------------------------------------------------------------------------------------------------

  defp add(state, index, joiner) do
    {slot, actions} = Slot.new(joiner)
    act(%{state | slots: Map.put(state.slots, index, slot)}, index, actions)
  end

  defp step(state, index, event) do
    case state.slots do
      %{^index => slot} ->
        {slot, actions} = Slot.handle(slot, event, facts(state))
        state |> put_slot(index, slot) |> act(index, actions) |> turn()

      _ ->
        state
    end
  end

  defp put_slot(state, index, slot), do: %{state | slots: Map.put(state.slots, index, slot)}

  # One successor of a pool at a time: workers that were started together would all be due together.
  defp facts(state),
    do: %{
      now: now(),
      random: :rand.uniform(),
      turn?: not Enum.any?(state.slots, fn {_, s} -> s.successor end)
    }

  # Those that wait to be replaced.
  defp turn(state) do
    waits? = fn {_, slot} -> slot.renewals != [] and slot.successor == nil and slot.run[:ready?] == true end

    with true <- facts(state).turn?,
         {index, _slot} <- Enum.find(state.slots, waits?),
         do: step(state, index, :turn),
         else: (_ -> state)
  end

  defp leave(state, index) do
    {_slot, actions} = Slot.handle(state.slots[index], :leave, facts(state))
    state = act(state, index, actions)
    turn(%{state | slots: Map.delete(state.slots, index)})
  end

  defp act(state, index, actions), do: Enum.reduce(actions, state, &act(&1, &2, index, &2.slots[index]))

  defp act({:start, id, 0}, state, index, _slot), do: begin(state, index, id)

  defp act({:start, id, wait}, state, index, _slot) do
    Process.send_after(self(), {:start, index, id}, wait)
    state
  end

  defp act({:depart, id}, state, index, slot) do
    departing = if index < state.size, do: :replaced, else: :leaving
    depart(state, index, id, slot, departing, &Worker.drain/1)
  end

  defp act({:stop, id}, state, index, slot) do
    {asked, all} = Map.pop(state.asked, {index, id})
    if asked, do: Process.exit(asked.pid, :kill)
    depart(%{state | asked: all}, index, id, slot, :leaving, &Worker.stop/1)
  end

  defp act({:answer, from, answer}, state, _index, _slot), do: done(GenServer.reply(from, answer), state)
  defp act({:joined, {pid, ref}}, state, index, _slot), do: done(send(pid, {:joined, ref, index}), state)

  defp act({:not_joined, {pid, ref}, error}, state, index, _slot),
    do: done(send(pid, {:not_joined, ref, index, of_worker(error, state, index)}), state)

  defp act({:failed, error}, state, index, _slot),
    do: done(Pool.worker_failed(state.handle, index, of_worker(error, state, index)), state)

  defp act({:trouble, words}, state, _index, _slot), do: done(Pool.trouble(state.handle, words), state)

  defp act({:log, what}, state, index, _slot),
    do: done(log(what, name(state, index), state.handle.name), state)

  defp done(_result, state), do: state

  defp log({:replaced, why}, name, _pool), do: Logger.info("[#{name}] is replaced: #{why}")
  defp log({:not_started, words}, name, pool), do: Report.not_started(pool, name, words)

  defp log({:no_successor, error, why}, name, _pool) do
    Logger.warning(error.message)
    Logger.warning("[#{name}] its successor did not start; it goes on, though #{why}")
  end

  defp of_worker(error, state, index), do: %{error | pool: state.handle.name, worker: name(state, index)}
  defp name(state, index), do: WorkerSpec.worker(state.handle.name, index)

  # The run is none of its slot's any more, and ends in its own time.
  defp depart(state, index, id, slot, departing, fun) do
    case Enum.find(state.runs, fn {_pid, run} -> run.index == index and run.id == id and not run.over? end) do
      {pid, run} ->
        fun.(pid)
        run = Map.merge(run, %{departing: departing, restarts: slot.restarts, last_error: slot.last_error})
        put_in(state.runs[pid], run)

      # It was not started yet, or its process ended in this moment.
      nil ->
        state
    end
  end

  # ---- starting a run ---------------------------------------------------------------------------------------------

  defp begin(state, index, id) do
    with %{^index => slot} <- state.slots, true <- Slot.wants?(slot, id) do
      case Env.ask(options(state), index) do
        {:asked, asked} -> put_in(state.asked[{index, id}], asked)
        answer -> start(state, index, id, answer)
      end
    else
      _ -> state
    end
  end

  # While the pool grows, its workers see it as it will be.
  defp options(state), do: %{state.handle.options | size: state.size}

  defp answered(message, asked?, state) do
    case Enum.find(state.asked, fn {_key, asked} -> asked?.(asked) end) do
      {{index, id} = key, asked} ->
        start(%{state | asked: Map.delete(state.asked, key)}, index, id, Env.answer(message, asked))

      nil ->
        state
    end
  end

  defp start(state, index, id, {:error, error}), do: step(state, index, {:not_ready, id, error})

  defp start(state, index, id, {:ok, %Options{} = options}) do
    # It may have been resized while the function was asked.
    options = %{options | size: state.size}
    spec = WorkerSpec.new(state.handle, options, index, state.slots[index].restarts, self())

    case Workers.start(state.handle.name, spec) do
      {:ok, pid} ->
        run = %{index: index, id: id, monitor: Process.monitor(pid), number: nil, over?: false}
        run = Map.merge(run, %{started_at: now(), departing: nil, restarts: 0, last_error: nil})
        put_in(state.runs[pid], run)

      {:error, reason} ->
        words = "pool #{inspect(state.handle.name)}: worker #{spec.name} did not start: #{inspect(reason)}"
        step(state, index, {:not_ready, id, Error.new(:pool, :not_started, words)})
    end
  end

  # ---- what a run says --------------------------------------------------------------------------------------------

  defp event({:ready, ready}, pid, run, state) do
    [%{run: number} | _] = ready.lanes
    state = put_in(state.runs[pid].number, number)

    if run.departing do
      # It left in this moment.
      Worker.stop(pid)
      state
    else
      Pool.worker_tools(state.handle, ready.tools)
      Pool.worker_up(state.handle, run.index, ready.lanes)
      state = step(state, run.index, {:ready, run.id, ready.started_at})
      Worker.noted(pid, :ready)
      state
    end
  end

  defp event({:due, why}, _pid, run, state), do: concerning(run, state, {:due, run.id, why})

  defp event(:down, _pid, run, state) do
    Pool.worker_down(state.handle, run.index, run.number)
    state
  end

  defp event({:warning, words}, _pid, _run, state) do
    hash = :erlang.phash2(words)

    if hash in state.warned or MapSet.size(state.warned) >= @most_warnings do
      state
    else
      Report.warned(state.handle.name, words)
      %{state | warned: MapSet.put(state.warned, hash)}
    end
  end

  defp event({:not_ready, why}, pid, run, state),
    do: concerning(run, put_in(state.runs[pid].over?, true), {:not_ready, run.id, why})

  # It is counted before its callers hear of it, so that their next call knows.
  defp event({:ended, outcome}, pid, run, state) do
    at_once? = counted(outcome, run, state)
    state = remember(put_in(state.runs[pid].over?, true), run.number, outcome.error.message)
    Worker.noted(pid, {:ended, run.departing == nil})
    ended = outcome |> Map.take([:error, :ready?, :ran_ms]) |> Map.put(:at_once?, at_once?)
    concerning(run, state, {:ended, run.id, ended})
  end

  defp concerning(%{departing: nil} = run, state, event), do: step(state, run.index, event)
  defp concerning(_departing, state, _event), do: state

  # Whether nothing speaks against starting another at once: a command's breaker, or a caller's deadline, bounds the loop.
  defp counted(outcome, run, state) do
    meant? = outcome.meant? or run.departing == :replaced
    how = if meant?, do: :meant, else: {:died, outcome.commands, outcome.words}

    # The first start of all counts for nothing.
    counts? = outcome.ready? or match?(%{ever_ready?: true}, state.slots[run.index])
    blamed = if counts?, do: Pool.run_over(state.handle, run.index, outcome.lived_ms, how)
    blamed == :blamed or (meant? and outcome.ready?)
  end

  defp remember(state, nil, _why), do: state

  defp remember(state, number, why),
    do: %{state | reasons: Enum.take([{number, why} | state.reasons], @remembered * max(state.size, 1))}

  # Its process ended. If it did not say that its run is over, it was killed, or failed: the OS process goes with it.
  defp gone(%{over?: true}, _reason, state), do: state

  defp gone(%{departing: departing} = run, _reason, state) when departing != nil do
    if run.number, do: Pool.worker_down(state.handle, run.index, run.number)
    state
  end

  defp gone(run, reason, state) do
    if run.number, do: Pool.worker_down(state.handle, run.index, run.number)
    name = name(state, run.index)

    words =
      "pool #{inspect(state.handle.name)}: worker #{name}: its process ended: #{Exception.format_exit(reason)}"

    error = Error.new(:worker, :exited, words)
    ended = %{error: error, ready?: run.number != nil, ran_ms: now() - run.started_at, at_once?: false}
    state |> remember(run.number, words) |> step(run.index, {:ended, run.id, ended})
  end

  defp now, do: System.monotonic_time(:millisecond)
end
