defmodule Snakepit.Worker do
  @moduledoc false
  # Keeps one worker running: starts its OS process through the companion, shakes hands, owns its sockets, looks after
  # its heart, and starts it again when it ends. Calls do not pass through here; callers use the lanes, which the pool
  # hands out.
  #
  # A worker that is due for recycling starts a *successor*, a process like this one, and goes on until that is ready. The
  # checkout queue then gives out the successor's lanes, and when the last call here is done, this process stops.
  #
  # A worker of a pool that shrinks *leaves*: the checkout queue gives out its lanes no more, and when the last call is done, this
  # process stops. One that is not ready, or that dies meanwhile, is not started again.

  use GenServer
  alias Snakepit.{Backoff, Error, Machine, Native, Pool}
  alias Snakepit.Wire.{ControlSocket, LaneSocket}

  alias Snakepit.Worker.{
    Chunks,
    Conversation,
    Heart,
    Lane,
    Launcher,
    LogLevel,
    Logs,
    Recycling,
    Report,
    Run,
    Stopping,
    Words
  }

  require Logger

  # The companion is started again within moments.
  @companion_ms 100
  # How long a worker that closed a lane may take to die of what it is dying of. Callers wait longer for the reason.
  @dying_ms 2_000
  @why_ms 3_000
  # How long callers have to read what a worker said before it died.
  @read_out_ms 500
  # grpcio takes a while to be imported.
  @grpc_ms 30_000
  # How often a worker looks whether it is due for recycling; at every tenth look, at its memory as well.
  @look_ms 500
  @look_at_memory 10
  # How often a worker asks again whether it may have a successor, while another one has.
  @turn_ms 100
  # After a successor that did not start.
  @next_try_ms 30_000

  # ---- for callers ------------------------------------------------------------------------------------------------

  @typedoc """
  Why it is started: with its pool; to take the place of a worker of the same number once it is ready; or to make the pool
  one of so many workers, of which the process is told that resizes it.
  """
  @type role :: :first | {:successor, pid()} | {:joining, pid(), size :: pos_integer()}

  @spec start_link({Pool.Options.t(), non_neg_integer(), role()}) :: GenServer.on_start()
  def start_link({%Pool.Options{} = options, index, role}),
    do: GenServer.start_link(__MODULE__, {options.name, index, role})

  def child_spec({options, _index, _role} = argument) do
    shutdown = Stopping.most_ms(options.shutdown_timeout) + 1_000
    %{id: __MODULE__, start: {__MODULE__, :start_link, [argument]}, shutdown: shutdown, restart: :transient}
  end

  @doc "Waits until a chunk that a reply refers to has been mapped, or is known not to come."
  @spec await_chunk(Lane.t(), Native.chunk_id()) :: :ok | :error
  def await_chunk(%Lane{worker: worker, epoch: epoch}, id),
    do: call(worker, {:await_chunk, epoch, id}, :error)

  @doc "Sends the worker the descriptors of chunks, unless it has them."
  @spec announce(pid(), [Native.chunk_id()]) :: :ok
  def announce(worker, ids), do: GenServer.cast(worker, {:announce, ids})

  @doc "Sends the worker the descriptors that a request, written for it, says it must be told."
  @spec send_chunks(pid(), [Native.chunk_id()]) :: :ok
  def send_chunks(_worker, []), do: :ok
  def send_chunks(worker, ids), do: GenServer.cast(worker, {:send_chunks, ids})

  @doc "Sends the worker the table by which it chooses the ways of results, unless it has it."
  @spec table(pid(), binary()) :: :ok
  def table(worker, table), do: GenServer.cast(worker, {:table, table})

  @doc "After how long without use the worker gives its shared memory back."
  @spec idle_ms(pid(), non_neg_integer()) :: :ok
  def idle_ms(worker, ms), do: GenServer.cast(worker, {:idle_ms, ms})

  @doc "A gRPC channel to the worker; its server is started when it is first asked for."
  @spec grpc(Lane.t(), timeout()) :: {:ok, reference()} | {:error, String.t() | :gone | :timeout}
  def grpc(%Lane{worker: worker, epoch: epoch}, timeout) do
    GenServer.call(worker, {:grpc, epoch}, min(timeout, @grpc_ms))
  catch
    :exit, {:timeout, _} when timeout > @grpc_ms ->
      {:error, "its gRPC server did not start within #{@grpc_ms} ms"}

    :exit, {:timeout, _} ->
      {:error, :timeout}

    :exit, _ ->
      {:error, :gone}
  end

  @doc "Nobody waits for this call, or one before it on the lane, any more: its tool is ended."
  @spec cancel(Lane.t(), non_neg_integer()) :: :ok
  def cancel(%Lane{worker: worker, epoch: epoch, number: number}, call_id),
    do: cancel(worker, epoch, number, call_id)

  @spec cancel(pid(), epoch :: pos_integer(), lane :: non_neg_integer(), non_neg_integer()) :: :ok
  def cancel(worker, epoch, number, call_id), do: GenServer.cast(worker, {:cancel, epoch, number, call_id})

  @doc "The lane is in an unknown state, or `:closed` by the worker: which is ended and started again."
  @spec discard(Lane.t(), String.t() | :closed) :: :ok
  def discard(%Lane{worker: worker, epoch: epoch}, why), do: GenServer.cast(worker, {:discard, epoch, why})

  @doc """
  Replaces the worker by a new one unless its run began at `as_of` (monotonic ms) or later. Answers when that is ready; an
  error says why it could not be, and the worker goes on. `:gone`: its pool stops. `why`: in words.
  """
  @spec renew(pid(), as_of :: integer(), why :: String.t()) :: :ok | :gone | {:error, Error.t()}
  def renew(worker, as_of, why) do
    GenServer.call(worker, {:renew, as_of, why}, :infinity)
  catch
    :exit, {:shutdown, _} -> :gone
    # It was replaced, or it is started again.
    :exit, _ -> :ok
  end

  @doc "Why a run ended; waits a moment, but not beyond `timeout`, for a run that is just ending."
  @spec why(Lane.t(), timeout()) :: String.t() | :stopping | :gone
  def why(%Lane{worker: worker, epoch: epoch}, timeout),
    do: call(worker, {:why, epoch}, :gone, min(timeout, @why_ms))

  @doc "As `Snakepit.list_workers/1` has it; nil of one that is gone."
  @spec describe(pid()) :: map() | nil
  def describe(worker), do: call(worker, :describe, nil)

  defp call(worker, message, otherwise, timeout \\ 10_000) do
    GenServer.call(worker, message, timeout)
  catch
    :exit, _ -> otherwise
  end

  # ---- the process ------------------------------------------------------------------------------------------------

  @impl true
  def init({pool, index, role}) do
    Process.flag(:trap_exit, true)
    pool = Pool.Handle.fetch!(pool)
    # One that joins sees the pool as it will be.
    pool =
      with {:joining, _, size} <- role,
           true <- index >= pool.options.size,
           do: of_size(pool, size),
           else: (_ -> pool)

    # A process that crashed after its pool had shrunk is not wanted again.
    if index < pool.options.size, do: init(pool, index, role), else: :ignore
  end

  defp init(pool, index, role) do
    state = %{pool: pool, index: index, name: "#{pool.name}-#{index}", run: nil, backoff: Backoff.new()}
    state = Map.merge(state, %{restarts: 0, was_ready: false, ended: %{}, asking: [], last_error: nil})
    # successor: its process, its monitor, and why it is wanted. looked: how often.
    # closing: lanes of runs that are over, by the run, for as long as callers may still read what came by them.
    state = Map.merge(state, %{role: role, successor: nil, looked: 0, not_before: now(), closing: %{}})
    # told: the last failed start that was logged: once, however often it is tried.
    # renewal: who wants it replaced if its run began before a time, and why. leaving?: the pool has fewer workers by now.
    # asked: the function that is to give its next run's variables.
    state = Map.merge(state, %{told: nil, renewal: nil, leaving?: false, asked: nil})
    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state), do: {:noreply, start(state)}

  @impl true
  def handle_call({:await_chunk, epoch, id}, _from, state) do
    # The worker announced the chunk before it sent the reply: what is in the socket by now must be enough.
    state = if current?(state, epoch), do: read(state), else: state
    known = current?(state, epoch) and id in state.run.chunks
    {:reply, if(known, do: :ok, else: :error), state}
  end

  def handle_call({:grpc, epoch}, from, state) do
    cond do
      not current?(state, epoch) -> {:reply, {:error, :gone}, state}
      state.run.grpc -> {:reply, state.run.grpc, state}
      true -> ask_for_grpc(state, from)
    end
  end

  def handle_call({:why, epoch}, from, state) do
    case state.ended do
      %{^epoch => why} ->
        {:reply, why, state}

      _ when state.run != nil and state.run.epoch == epoch ->
        {:noreply, %{state | asking: [{epoch, from} | state.asking]}}

      # So long ago that nobody remembers.
      _ ->
        {:reply, "the worker is gone", state}
    end
  end

  def handle_call({:renew, as_of, why}, from, state),
    do: {:noreply, renew(%{state | renewal: {from, as_of, why}})}

  def handle_call(:describe, _from, state), do: {:reply, description(state), state}

  @impl true
  def handle_cast({:send_chunks, ids}, %{run: %Run{phase: :ready} = run} = state),
    do: {:noreply, sent(state, Chunks.send_all(run, ids))}

  def handle_cast({:announce, ids}, %{run: %Run{phase: :ready} = run} = state),
    do: {:noreply, sent(state, Chunks.announce(run, ids))}

  # A worker that is not ready yet is sent all chunks when it is.
  def handle_cast({:announce, _ids}, state), do: {:noreply, state}

  def handle_cast({:send_chunks, _ids}, state), do: {:noreply, state}

  def handle_cast({:table, table}, %{run: %Run{phase: :ready, table: old}} = state) when table != old,
    do: {:noreply, send_table(state, table)}

  def handle_cast({:table, _table}, state), do: {:noreply, state}

  def handle_cast({:idle_ms, ms}, %{run: %Run{phase: :ready, idle_ms: old} = run} = state) when ms != old,
    do:
      {:noreply, sent(put_run(state, idle_ms: ms), ControlSocket.send_message(run.control, ["idle_ms", ms]))}

  def handle_cast({:idle_ms, _ms}, state), do: {:noreply, state}

  def handle_cast({:cancel, epoch, lane, call_id}, state) do
    # If it cannot be sent, the worker is gone or the grace period ends it.
    if current?(state, epoch), do: ControlSocket.send_message(state.run.control, ["cancel", lane, call_id])
    {:noreply, state}
  end

  def handle_cast({:discard, epoch, why}, state) do
    cond do
      not current?(state, epoch) -> {:noreply, state}
      # The reason may be what it said before.
      why == :closed -> {:noreply, state |> read() |> dying("it closed a lane")}
      # What we end for a caller's sake says nothing of its health.
      true -> {:noreply, state |> put_run(meant?: true) |> finish(why)}
    end
  end

  @impl true
  def handle_info({:companion, id, event}, %{run: %Run{id: id}} = state) do
    {:noreply, companion(event, state)}
  end

  def handle_info({:"$socket", _socket, :select, _ref}, %{run: %Run{phase: :starting}} = state) do
    {:noreply, accept(state)}
  end

  def handle_info({:"$socket", _socket, :select, _ref}, %{run: %Run{}} = state), do: {:noreply, read(state)}

  # Its processes die with the companion, and so with its owner.
  def handle_info({:DOWN, monitor, _, _, _}, %{run: %Run{companion: monitor}} = state),
    do: {:noreply, companion({:exited, :companion_died, ""}, state)}

  def handle_info({:not_dead, id}, %{run: %Run{id: id} = run} = state) do
    Launcher.kill(run)
    {:noreply, put_run(state, failure: run.failure || run.closing)}
  end

  def handle_info({:close_lanes, epoch}, state) do
    {lanes, closing} = Map.pop(state.closing, epoch, [])
    close_lanes(lanes)
    {:noreply, %{state | closing: closing}}
  end

  def handle_info({:startup_timeout, epoch}, state), do: {:noreply, startup_timeout(state, epoch)}
  def handle_info(:restart, %{run: nil, asked: nil} = state), do: {:noreply, start(state)}

  def handle_info({:DOWN, monitor, _, _, _} = message, %{asked: %{monitor: monitor}} = state),
    do: {:noreply, answered(message, state)}

  def handle_info({:env_late, pid} = message, %{asked: %{pid: pid}} = state),
    do: {:noreply, answered(message, state)}

  # What no frame told the worker: slots nobody refers to, and chunks of others that are gone.
  def handle_info(:tend, %{run: %Run{phase: :ready} = run} = state) do
    freed = Native.worker_freed(run.memory)
    free = if freed == [], do: [], else: [["free", freed]]
    drops = for id <- Native.worker_stale(run.memory), do: ["drop", id]

    sent =
      Enum.reduce_while(free ++ drops, :ok, fn message, :ok ->
        with {:error, _} = error <- ControlSocket.send_message(run.control, message),
             do: {:halt, error},
             else: (:ok -> {:cont, :ok})
      end)

    {:noreply, sent(state, sent)}
  end

  def handle_info({:beat, epoch}, state),
    do: {:noreply, if(current?(state, epoch), do: beat(state), else: state)}

  def handle_info({:look, epoch}, state),
    do: {:noreply, if(current?(state, epoch), do: look(state), else: state)}

  # The checkout queue gives out the successor's lanes, and the last call here is done.
  def handle_info({:retired, epoch}, %{run: %Run{epoch: epoch}} = state), do: {:stop, :normal, state}
  # The successor is ready, and no run is left here.
  def handle_info(:succeeded, %{run: nil} = state), do: {:stop, :normal, state}

  def handle_info(:succeeded, state) do
    turn_over(state)
    with {_pid, monitor, _why} <- state.successor, do: Process.demonitor(monitor, [:flush])
    {:noreply, renewed(%{state | successor: :up}, :ok)}
  end

  # The pool has more workers, or fewer.
  def handle_info({:resized, pool} = message, state) do
    # It may have been started after the others were listed.
    with {pid, _monitor, _why} <- state.successor, do: send(pid, message)
    state = %{state | pool: pool}

    if state.index < pool.options.size,
      do: {:noreply, resized(state, pool)},
      else: leave(renewed(%{state | leaving?: true}, :ok))
  end

  def handle_info(:left, state), do: {:stop, :normal, state}
  def handle_info({:failed_successor, error}, state), do: {:stop, {:shutdown, {:not_ready, error}}, state}

  def handle_info({:DOWN, monitor, _, _, _}, %{successor: {_pid, monitor, _why}, leaving?: true} = state) do
    turn_over(state)
    {:noreply, %{state | successor: nil}}
  end

  def handle_info({:DOWN, monitor, _, _, reason}, %{successor: {_pid, monitor, why}} = state) do
    turn_over(state)
    state = %{state | successor: nil}

    state =
      case {state.renewal, reason} do
        # Whoever wanted it says so.
        {{_from, _as_of, ^why}, {:shutdown, {:not_ready, error}}} -> renewed(state, {:error, error})
        _ -> not_succeeded(state, reason, why)
      end

    {:noreply, if(state.run, do: renew(state), else: later(state, 0))}
  end

  def handle_info(:renew, state), do: {:noreply, renew(state)}

  def handle_info({:EXIT, _from, reason}, state) when reason in [:shutdown, :normal], do: {:noreply, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{run: %Run{} = run} = state) do
    Report.stopped(state.name, run)
    Pool.worker_down(state.pool, state.index, run.epoch)
    Stopping.begin(run)

    run = Stopping.await(run, &companion(&1, state), ending(state))
    Run.close(run)
    # This process's end is that of the one that reads them.
    if run.logs, do: Logs.await(run.logs)
    close_lanes([run.lanes | Map.values(state.closing)])
  end

  def terminate(_reason, state) do
    with %{pid: pid} <- state.asked, do: Process.exit(pid, :kill)
    close_lanes(Map.values(state.closing))
  end

  defp ask_for_grpc(state, from) do
    case Conversation.ask_for_grpc(state.run, from) do
      %Run{} = run -> {:noreply, %{state | run: run}}
      # Nobody reads it any more: it is the worker that failed, not the way.
      {:error, why} -> {:reply, {:error, :gone}, finish(state, why)}
    end
  end

  defp ending(%{leaving?: true} = state), do: description(state)
  defp ending(state), do: %{description(state) | status: :stopping}

  # As `Snakepit.list_workers/1` has it.
  defp description(%{run: run} = state) do
    %{
      name: state.name,
      pool: state.pool.name,
      index: state.index,
      status: status(state),
      last_error: state.last_error,
      os_pid: run && Launcher.os_pid(run),
      python: run && run.info[:python],
      tools: if(run && run.phase == :ready, do: Pool.Tools.names(state.pool), else: []),
      restarts: state.restarts,
      held_buffers: if(run, do: Native.worker_held(run.memory), else: 0)
    }
  end

  # ---- resizing ---------------------------------------------------------------------------------------------------

  defp of_size(pool, size), do: %{pool | options: %{pool.options | size: size}}

  defp resized(%{run: %Run{phase: phase}} = state, pool) when phase != :ending do
    quota = Chunks.quota(pool)
    # What it holds already, it may hold.
    state = put_run(state, pool: pool, quota: max(state.run.quota, quota))

    # Before, it is told with its other settings.
    if phase in [:importing, :ready],
      do: sent(state, ControlSocket.send_message(state.run.control, ["resized", pool.options.size, quota])),
      else: state
  end

  defp resized(state, _pool), do: state

  # The checkout queue says when the last call is done, and the end of a run that is ending comes by itself.
  defp leave(%{run: %Run{phase: phase}} = state) when phase in [:ready, :ending], do: {:noreply, state}
  defp leave(state), do: {:stop, :normal, state}

  defp status(%{leaving?: true}), do: :leaving
  defp status(%{run: nil}), do: :waiting
  defp status(%{run: run}), do: run.phase

  # ---- starting ---------------------------------------------------------------------------------------------------

  defp start(state) do
    case Pool.Env.ask(state.pool.options, state.index) do
      {:asked, asked} -> %{state | asked: asked}
      answer -> start(state, answer)
    end
  end

  defp answered(message, %{asked: asked} = state),
    do: start(%{state | asked: nil}, Pool.Env.answer(message, asked))

  defp start(state, options) do
    token = :crypto.strong_rand_bytes(32)

    with {:ok, options} <- options,
         {:ok, program} <- Launcher.program(options),
         {:ok, dir} <- Snakepit.Runtime.ensure(),
         {:ok, control} <- listen(dir),
         own = [{"SNAKEPIT_SOCKET", control.path}, {"SNAKEPIT_TOKEN", Base.encode16(token)}],
         {:ok, id, companion} <- run(control, program, own, options) do
      # Leases are counted by pool and caller, whichever worker they are of.
      {memory, owner} = Native.worker_new(state.pool.arena, options.size * Chunks.quota(state.pool))

      run = %Run{
        pool: state.pool,
        name: state.name,
        index: state.index,
        options: options,
        quota: Chunks.quota(state.pool),
        epoch: owner,
        id: id,
        companion: companion,
        memory: memory,
        control: control,
        token: token,
        started_at: now(),
        idle_ms: options.idle_chunk_ms,
        timer: Process.send_after(self(), {:startup_timeout, owner}, options.startup_timeout)
      }

      accept(%{state | run: run})
    else
      # It ran before, so it may again: a full disk, or a Python that is being installed anew.
      {:error, %Error{} = error} ->
        if state.was_ready, do: state |> not_started(error) |> later(0), else: never(state, error)

      {:error, :gone} ->
        Process.send_after(self(), :restart, @companion_ms)
        state
    end
  end

  defp run(control, program, own, options) do
    {id, monitor} = Launcher.run(program, options, own)
    {:ok, id, monitor}
  catch
    :exit, _ ->
      ControlSocket.close(control)
      {:error, :gone}
  end

  defp listen(dir) do
    with {:error, reason} <- ControlSocket.listen(Snakepit.Runtime.path(dir, "sock")) do
      # Without the socket's own name, so that the same cause has the same words.
      words = "cannot listen for the worker in #{dir}: #{Error.reason_words(reason)}"
      {:error, Error.new(:worker, :socket, words)}
    end
  end

  # A start after the first that failed: its cause is logged once.
  defp not_started(state, %Error{message: words} = error) do
    state = renewed(state, {:error, error})
    Pool.trouble(state.pool, words)
    if state.told != words, do: Report.not_started(state.pool.name, state.name, words)
    %{state | last_error: words, told: words}
  end

  defp accept(%{run: run} = state) do
    case ControlSocket.accept(run.control) do
      :wait -> state
      {:ok, control} -> state |> put_run(control: control, phase: :greeting) |> check_peer()
      {:error, reason} -> finish(state, "accept: #{inspect(reason)}")
    end
  end

  # The companion's word of the pid and the connection itself may come in either order.
  defp check_peer(%{run: %Run{phase: :greeting, os_pid: pid, control: %{peer: %{} = peer}}} = state)
       when is_integer(pid) do
    # A wrapper script may have started the interpreter: then they share the group the companion made.
    if peer.pid == pid or Machine.process_group(peer.pid) == pid,
      do: read(state),
      else: finish(state, "process #{peer.pid} connected in place of the worker, #{pid}")
  end

  defp check_peer(state), do: state

  defp startup_timeout(state, epoch) do
    if current?(state, epoch) and state.run.phase not in [:ready, :ending] do
      # What it says may have come in this moment.
      state = read(state)
      if state.run.phase in [:ready, :ending], do: state, else: finish(state, Report.too_slow(state))
    else
      state
    end
  end

  # ---- what it says -----------------------------------------------------------------------------------------------

  defp read(%{run: %Run{phase: phase}} = state) when phase in [:starting, :ending], do: state

  defp read(%{run: %Run{phase: before}} = state) do
    case Conversation.read(state.run) do
      {:error, why, run} -> finish(%{state | run: run}, why)
      {:ok, %Run{phase: :ready} = run} when before != :ready -> ready(%{state | run: run})
      {:ok, run} -> %{state | run: run}
    end
  end

  defp ready(%{run: run} = state) do
    Process.cancel_timer(run.timer)
    state = sent(state, Chunks.announce(run, Enum.map(Native.arena_chunks(state.pool.arena), &elem(&1, 0))))

    # It may have been given up meanwhile.
    if state.run.phase == :ready, do: up(state), else: state
  end

  defp up(%{run: run} = state) do
    lanes =
      for {%{socket: socket, fd: fd}, number} <- Enum.with_index(run.lanes) do
        %Lane{
          worker: self(),
          epoch: run.epoch,
          name: state.name,
          index: state.index,
          number: number,
          socket: socket,
          fd: fd,
          memory: run.memory,
          zero_copy: "zero_copy" in run.info.capabilities,
          grpc: "grpc" in run.info.capabilities
        }
      end

    # The pool keeps them, one copy for all workers.
    Pool.worker_tools(state.pool, run.tools)
    Pool.worker_up(state.pool, state.index, lanes)
    tell_ready(state.role)
    options = state.pool.options
    Process.send_after(self(), {:beat, run.epoch}, options.heartbeat_interval)
    if Recycling.wanted?(options), do: Process.send_after(self(), {:look, run.epoch}, @look_ms)
    heart = Heart.new(options.heartbeat_interval, options.heartbeat_grace)
    state = %{state | was_ready: true, role: :first, told: nil, not_before: not_before(state)}
    state = put_run(state, heart: heart, ready_at: now(), tools: [])
    Report.up(state.name, state.run, state.restarts)
    renew(state)
  end

  defp tell_ready({:successor, predecessor}), do: send(predecessor, :succeeded)
  defp tell_ready({:joining, resizer, _size}), do: send(resizer, {:joined, self()})
  defp tell_ready(:first), do: :ok

  defp send_table(%{run: run} = state, table) do
    # In MessagePack what is no str is bin.
    sent(
      put_run(state, table: table),
      ControlSocket.send_message(run.control, ["table", Snakepit.bytes(table)])
    )
  end

  # ---- heart and age ----------------------------------------------------------------------------------------------

  # An answer may have come while this process, or all of the VM, had no turn.
  defp beat(state), do: state |> read() |> judge()

  defp judge(%{run: %Run{phase: :ending}} = state), do: state

  defp judge(%{run: run} = state) do
    Process.send_after(self(), {:beat, run.epoch}, run.heart.interval)
    process = if run.heart.asked_at, do: Machine.process_state(run.control.peer.pid)

    case Heart.beat(run.heart, now(), process) do
      {:ping, n, heart} ->
        state = level_told(put_run(state, heart: heart))
        sent(state, ControlSocket.send_message(run.control, ["ping", n]))

      {:wait, heart} ->
        put_run(state, heart: heart)

      {:dead, why} ->
        finish(state, why)
    end
  end

  # What Logger drops, the worker need not send. Nobody tells of a change, and so it is looked for.
  defp level_told(%{run: %Run{logs: nil}} = state), do: state

  defp level_told(%{run: run} = state) do
    case LogLevel.wanted(state.pool.options.log_level) do
      same when same == run.log_level ->
        state

      level ->
        # Should that not be sent, the ping will not be, either.
        ControlSocket.send_message(run.control, ["log_level", level])
        put_run(state, log_level: level)
    end
  end

  defp look(%{run: run} = state) do
    Process.send_after(self(), {:look, run.epoch}, @look_ms)

    with true <- state.successor == nil and not state.leaving? and now() >= state.not_before,
         why when is_binary(why) <- Recycling.due(state.pool.options, vitals(state)),
         true <- its_turn?(state) do
      Logger.info("[#{state.name}] is replaced: #{why}")
      succeed(state, why)
    else
      _ -> %{state | looked: state.looked + 1}
    end
  end

  defp vitals(%{run: run} = state) do
    memory? = state.pool.options.memory_threshold_mb != nil and rem(state.looked, @look_at_memory) == 0

    %{
      age_ms: now() - run.started_at,
      calls: Native.queue_served(state.pool.queue, state.index),
      pss: if(memory?, do: Machine.pss(run.control.peer.pid))
    }
  end

  # One successor of a pool at a time: workers that started together would all be due together.
  defp its_turn?(state),
    do: match?({:ok, _}, Registry.register(Snakepit.Registry, {:recycled, state.pool.name}, nil))

  defp turn_over(state), do: Registry.unregister(Snakepit.Registry, {:recycled, state.pool.name})

  defp succeed(state, why) do
    case Pool.Supervisor.start_worker(state.pool.options, state.index, {:successor, self()}) do
      {:ok, pid} ->
        %{state | successor: {pid, Process.monitor(pid), why}}

      {:error, _stopping} ->
        turn_over(state)
        %{state | not_before: now() + @next_try_ms}
    end
  end

  defp not_succeeded(state, reason, why) do
    with {:shutdown, {:not_ready, error}} <- reason, do: Logger.warning(error.message)
    Logger.warning("[#{state.name}] its successor did not start; it goes on, though #{why}")
    %{state | not_before: now() + @next_try_ms}
  end

  # A run that was not ready yet is waited for, and so is a successor that is under way.
  defp renew(%{leaving?: true} = state), do: renewed(state, :ok)

  defp renew(%{renewal: {_from, as_of, why}, run: %Run{phase: :ready} = run, successor: nil} = state) do
    cond do
      run.started_at >= as_of ->
        renewed(state, :ok)

      its_turn?(state) ->
        state = succeed(state, why)
        # The pool is stopping.
        if state.successor, do: state, else: renewed(state, :ok)

      true ->
        Process.send_after(self(), :renew, @turn_ms)
        state
    end
  end

  # It is being replaced.
  defp renew(%{renewal: {_, _, _}, successor: :up} = state), do: renewed(state, :ok)
  defp renew(state), do: state

  defp renewed(%{renewal: {from, _as_of, _why}} = state, answer) do
    GenServer.reply(from, answer)
    %{state | renewal: nil}
  end

  defp renewed(state, _answer), do: state

  # A threshold that its modules alone exceed would have it replaced for ever, and each of its successors.
  defp not_before(%{pool: %{options: %{memory_threshold_mb: mb}}} = state) when is_integer(mb) do
    pss = Machine.pss(state.run.control.peer.pid) || 0

    if Recycling.exceeds?(state.pool.options, pss) do
      Logger.warning(
        "[#{state.name}] holds #{div(pss, 1024 * 1024)} MiB before its first call: :memory_threshold_mb is #{mb}"
      )

      now() + @next_try_ms
    else
      state.not_before
    end
  end

  defp not_before(state), do: state.not_before

  defp sent(state, :ok), do: state

  # It is dead, and the companion about to say of what.
  defp sent(state, {:error, reason}) when reason in [:epipe, :econnreset, :closed],
    do: dying(state, "it closed its control socket")

  defp sent(state, {:error, reason}), do: finish(state, "the control socket: #{Error.reason_words(reason)}")

  # ---- ending -----------------------------------------------------------------------------------------------------

  defp companion({:started, pid}, state), do: state |> put_run(os_pid: pid) |> check_peer()

  defp companion({:output, stream, line}, %{run: run} = state) do
    metadata = [pool: state.pool.name, worker: state.name, os_pid: run.os_pid, stream: stream]
    Logger.info(fn -> "[#{state.name} #{stream}] #{Words.printable(line)}" end, metadata)
    state
  end

  defp companion({:start_failed, why}, state), do: ended(state, "the interpreter did not start: #{why}", "")

  defp companion({:exited, status, tail}, %{run: %Run{phase: phase}} = state) do
    # What it said last is still in the socket: a failed import says so and exits.
    state = if phase in [:greeting, :importing], do: read(state), else: state
    state |> put_run(status: status) |> ended(Words.exit(status), tail)
  end

  # The worker can no longer be trusted: no more calls, and its process is killed. `why` is words or an error.
  defp finish(%{run: %Run{phase: :ending}} = state, _why), do: state

  defp finish(%{run: run} = state, why) do
    state = down(state)
    Launcher.kill(run)
    put_run(state, phase: :ending, failure: run.failure || why)
  end

  # It closed a socket, most likely because it is dying: the companion is about to say of what. `why`: if it does not.
  defp dying(%{run: %Run{phase: :ending}} = state, _why), do: state

  defp dying(%{run: run} = state, why) do
    Process.send_after(self(), {:not_dead, run.id}, @dying_ms)
    state |> down() |> put_run(phase: :ending, closing: why)
  end

  # No more calls. What it ran is noted before its memory is given up.
  defp down(%{run: %Run{ran: nil} = run} = state) do
    Pool.worker_down(state.pool, state.index, run.epoch)
    put_run(state, ran: if(run.ready_at, do: ran(state), else: []))
  end

  defp down(state), do: state

  # A lane that has no call may have had one whose reply nobody read.
  defp ran(%{run: run, index: index} = state) do
    idle = Native.queue_without_call(state.pool.queue, index, run.epoch)

    for {lane, command, correlation_id, ms} <- Native.worker_unanswered(run.memory),
        lane not in idle,
        do: %{command: command, correlation_id: correlation_id, ms: ms}
  end

  # Its process is gone, and all it held with it.
  defp ended(state, how, tail) do
    %{run: run} = state = down(state)
    Run.close(run)

    # Its ends are closed, and so a caller reads what it said last, and then that it is gone. Closing ours now would throw
    # that away.
    Process.send_after(self(), {:close_lanes, run.epoch}, @read_out_ms)
    state = put_in(state.closing[run.epoch], run.lanes)
    error = failure(state, run.failure || how, tail)
    # Counted before its callers are told: their next call knows.
    at_once? = counted(state, words(run.failure, how))
    state = reported(state, error, how)

    {answer, asking} = Enum.split_with(state.asking, fn {epoch, _} -> epoch == run.epoch end)
    Enum.each(answer, fn {_, from} -> GenServer.reply(from, error.message) end)
    state = %{state | run: nil, asking: asking, ended: remember(state.ended, run.epoch, error.message)}
    state = %{state | last_error: error.message}

    cond do
      state.leaving? ->
        # Callers may still read what came before.
        Process.send_after(self(), :left, @read_out_ms)
        state

      not state.was_ready ->
        never(state, error)

      # Its place is taken, and its last call over.
      state.successor == :up ->
        send(self(), :succeeded)
        state

      # It will be ready before another could be; if it is not, its end says so.
      state.successor ->
        state

      at_once? ->
        send(self(), :restart)
        %{state | restarts: state.restarts + 1}

      true ->
        later(state, now() - run.started_at)
    end
  end

  # Whether it is started again without a wait: what bounds the loop is the command's breaker, or the caller's deadline.
  defp counted(%{run: %Run{ready_at: nil}, was_ready: false}, _how), do: false

  defp counted(%{run: run} = state, how) do
    # With the companion every worker ends, whatever it runs.
    commands =
      if run.status == :companion_died,
        do: [],
        else: run.ran |> Enum.sort_by(& &1.ms) |> Enum.map(& &1.command)

    lived = if run.ready_at, do: now() - run.ready_at, else: 0
    meant? = run.meant? or state.successor == :up
    how_it_ended = if meant?, do: :meant, else: {:died, commands, how}
    Pool.run_over(state.pool, state.index, lived, how_it_ended) == :blamed or (meant? and run.ready_at != nil)
  end

  # A first start that fails, a successor's too, is told to those who asked for it.
  defp reported(%{run: run, was_ready: was_ready?} = state, error, how) do
    words = words(run.failure, how)
    Report.down(state.name, run, words)

    cond do
      run.ready_at ->
        Report.died(state.name, run, words)
        Pool.trouble(state.pool, error.message)
        state

      was_ready? ->
        not_started(state, error)

      true ->
        state
    end
  end

  defp words(nil, how), do: how
  defp words(%Error{message: message}, _how), do: message
  defp words(words, _how), do: words

  defp close_lanes(lanes), do: lanes |> List.flatten() |> Enum.each(&LaneSocket.close/1)

  defp later(state, ran_ms) do
    {wait, backoff} = Backoff.next(state.backoff, ran_ms, :rand.uniform())
    Process.send_after(self(), :restart, wait)
    %{state | backoff: backoff, restarts: state.restarts + 1}
  end

  # A worker that was never ready is not started again: what is wrong would be wrong again.
  defp never(%{role: {:successor, predecessor}} = state, error) do
    state = %{state | run: nil, last_error: error.message}

    if Process.alive?(predecessor) do
      send(self(), {:failed_successor, error})
      state
    else
      # Then it is the only one.
      Logger.warning(error.message)
      later(state, 0)
    end
  end

  # Who resizes the pool ends this process.
  defp never(%{role: {:joining, resizer, _size}} = state, error) do
    send(resizer, {:not_joined, self(), %{error | pool: state.pool.name, worker: state.name}})
    %{state | run: nil, last_error: error.message}
  end

  defp never(state, error) do
    state = renewed(state, {:error, error})
    Pool.worker_failed(state.pool, state.index, %{error | pool: state.pool.name, worker: state.name})
    %{state | run: nil, last_error: error.message}
  end

  defp failure(%{run: run}, %Error{} = error, tail) do
    # What it printed may tell why it was not ready.
    said = said(tail)
    error = if error.reason == :startup_timeout, do: Report.with_output(error, said), else: error
    if run.ready_at, do: error, else: Report.with_origin(error, run.options)
  end

  defp failure(%{run: run} = state, how, tail) do
    said = said(tail)
    # What a worker said before it was ready tells why it was not.
    how = if run.ready_at == nil and run.doing, do: "#{how}, while it #{Report.busy_with(run)}", else: how
    words = Words.end_of(state.pool.name, state.name, how, if(run.ready_at, do: "", else: said))
    error = Error.new(:worker, :exited, words, details: %{stderr: said})
    if run.ready_at, do: error, else: Report.with_origin(error, run.options)
  end

  defp said(tail), do: tail |> Words.printable() |> String.trim()

  # Callers ask within moments: the last few runs are enough.
  defp remember(ended, epoch, why) when map_size(ended) < 8, do: Map.put(ended, epoch, why)
  defp remember(_ended, epoch, why), do: %{epoch => why}

  # ---- helpers ----------------------------------------------------------------------------------------------------

  defp current?(%{run: %Run{epoch: epoch, phase: phase}}, epoch), do: phase != :ending
  defp current?(_state, _epoch), do: false

  defp put_run(state, fields), do: %{state | run: struct!(state.run, fields)}

  defp now, do: System.monotonic_time(:millisecond)
end
