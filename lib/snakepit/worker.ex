defmodule Snakepit.Worker do
  @moduledoc false
  # One run of one worker: this process lives as long as the OS process that it starts, and a moment longer. It shakes hands,
  # owns the sockets and checks the heartbeat. Calls do not pass through it; callers use the lanes, which the pool gives out.
  #
  # | state       | the run                                             | goes on when                               | to          |
  # |-------------|-----------------------------------------------------|--------------------------------------------|-------------|
  # | `starting`  | its process was started, and has not connected      | it connects                                | `greeting`  |
  # | `greeting`  | it connected, and has not said hello                | its hello is right                         | `importing` |
  # | `importing` | it imports its modules, runs hooks and warm-up calls | it says that it is ready                   | `ready`     |
  # | `ready`     | its lanes are given out to callers                  | the owner drains it                        | `draining`  |
  # | `draining`  | no new calls; those that run may finish             | the owner says that the last one is over   | (stops)     |
  # | `ending`    | no calls; its process was killed, or is dying       | the launcher says that the process is gone | `over`      |
  # | `over`      | its resources are released but for the lanes        | callers had time to read and ask why       | (stops)     |
  #
  # Any state before `ending` goes to `ending` when the worker breaks the protocol, closes a socket or its heartbeat fails, when
  # it is not ready in time, or when a caller discards it; and to `over` when its process is gone. A run that is stopped
  # (by its owner or its supervisor) ends in `terminate/3`: it is asked to stop, and waited for.
  #
  # What happened is sent to the owner as `{:worker, pid, event}`. The owner answers `:ready` and `:ended` by `noted/2` once it
  # has acted upon them: only then the run's events are emitted, and callers hear why it ended.

  @behaviour :gen_statem
  alias Snakepit.{Bytes, Error, Native, Tool}
  alias Snakepit.Wire.ControlSocket

  alias Snakepit.Worker.{
    Chunks,
    Conversation,
    Heart,
    Lane,
    Launcher,
    Logs,
    Outcome,
    Report,
    Run,
    Spec,
    Start,
    Stopping,
    Upkeep,
    Words
  }

  require Logger

  # How long a worker that closed a lane may take to die. Callers wait longer for the reason.
  @dying_ms 2_000
  @why_ms 3_000
  # How long callers have to read what a worker said before it died.
  @read_out_ms 500
  # Importing grpcio takes a while.
  @grpc_ms 30_000

  @type state :: :starting | :greeting | :importing | :ready | :draining | :ending | :over

  @typedoc """
  What the owner is sent:

  - `:ready`: its lanes may be used. `started_at`: monotonic ms.
  - `:due`: its pool's options want it replaced, and why.
  - `:warning`: it warns of a tool.
  - `:down`: its lanes must not be used any more.
  - `:not_ready`: it could not be started, and has no process.
  - `:ended`: its process is gone.
  """
  @type event ::
          {:ready, %{lanes: [Lane.t(), ...], tools: [Tool.t()], started_at: integer()}}
          | {:due, why :: String.t()}
          | {:warning, String.t()}
          | :down
          | {:not_ready, Error.t() | :companion_gone}
          | {:ended, Outcome.t()}

  # ---- for the owner ----------------------------------------------------------------------------------------------

  def child_spec(%Spec{} = spec) do
    shutdown = Stopping.most_ms(spec.options.shutdown_timeout) + 1_000
    %{id: __MODULE__, start: {__MODULE__, :start_link, [spec]}, shutdown: shutdown, restart: :temporary}
  end

  @spec start_link(Spec.t()) :: :gen_statem.start_ret()
  def start_link(%Spec{} = spec), do: :gen_statem.start_link(__MODULE__, spec, [])

  @doc "The owner has acted upon what it was sent."
  @spec noted(pid(), :ready | :ended) :: :ok
  def noted(worker, what), do: :gen_statem.cast(worker, {:noted, what})

  @doc "Its lanes are not given out any more. `retired/1` follows when the last call is over."
  @spec drain(pid()) :: :ok
  def drain(worker), do: :gen_statem.cast(worker, :drain)

  @doc "No call runs on it, and none will: it stops."
  @spec retired(pid()) :: :ok
  def retired(worker), do: :gen_statem.cast(worker, :stop)

  @doc "It is not wanted any more, though it was never ready: it stops."
  @spec stop(pid()) :: :ok
  def stop(worker), do: :gen_statem.cast(worker, :stop)

  @doc "Its pool has so many workers, each of which may have so many bytes of its own."
  @spec resized(pid(), size :: pos_integer(), quota :: pos_integer()) :: :ok
  def resized(worker, size, quota), do: :gen_statem.cast(worker, {:resized, size, quota})

  @doc "Its state, OS process, version of Python and buffers that it holds; nil if it is gone."
  @spec describe(pid()) :: map() | nil
  def describe(worker), do: call(worker, :describe, 10_000, nil)

  # ---- for callers ------------------------------------------------------------------------------------------------

  @doc """
  Waits until a chunk that a reply refers to has been mapped. The worker announces a chunk before it sends the reply: a chunk
  that is `:unknown` was never announced. `:gone`: the worker is.
  """
  @spec await_chunk(Lane.t(), Native.chunk_id(), timeout()) :: :ok | {:error, :unknown | :gone | :timeout}
  def await_chunk(%Lane{worker: worker}, id, timeout), do: call(worker, {:await_chunk, id}, timeout)

  @doc "Sends the worker the descriptors of chunks, unless it has them."
  @spec announce(pid(), [Native.chunk_id()]) :: :ok
  def announce(worker, ids), do: :gen_statem.cast(worker, {:announce, ids})

  @doc "Sends the worker the descriptors that a request needs which was written for it."
  @spec send_chunks(pid(), [Native.chunk_id()]) :: :ok
  def send_chunks(_worker, []), do: :ok
  def send_chunks(worker, ids), do: :gen_statem.cast(worker, {:send_chunks, ids})

  @doc "Sends the worker the table by which it chooses the ways of results, unless it has it."
  @spec table(pid(), binary()) :: :ok
  def table(worker, table), do: :gen_statem.cast(worker, {:table, table})

  @doc "After how long without use the worker gives its shared memory back."
  @spec idle_ms(pid(), non_neg_integer()) :: :ok
  def idle_ms(worker, ms), do: :gen_statem.cast(worker, {:idle_ms, ms})

  @doc "A gRPC channel to the worker; its server is started when it is first asked for."
  @spec grpc(Lane.t(), timeout()) :: {:ok, reference()} | {:error, String.t() | :gone | :timeout}
  def grpc(%Lane{worker: worker}, timeout) do
    with {:error, :timeout} when timeout > @grpc_ms <- call(worker, :grpc, min(timeout, @grpc_ms)),
         do: {:error, "its gRPC server did not start within #{@grpc_ms} ms"}
  end

  @doc "Nobody waits for this call of the lane, or one before it, any more: its tool is ended."
  @spec cancel(Lane.t(), non_neg_integer()) :: :ok
  def cancel(%Lane{worker: worker, number: number}, call_id), do: cancel(worker, number, call_id)

  @spec cancel(pid(), lane :: non_neg_integer(), non_neg_integer()) :: :ok
  def cancel(worker, number, call_id), do: :gen_statem.cast(worker, {:cancel, number, call_id})

  @doc "The lane is in an unknown state, or the worker `:closed` it: the worker is ended."
  @spec discard(Lane.t(), String.t() | :closed) :: :ok
  def discard(%Lane{worker: worker}, why), do: :gen_statem.cast(worker, {:discard, why})

  @doc """
  Why the run ended, in words. Waits for the end of one that is just ending, but not beyond `timeout`. `:gone`: this process
  ended; `:stopping`: it is being stopped.
  """
  @spec why(Lane.t(), timeout()) :: String.t() | :stopping | :gone
  def why(%Lane{worker: worker}, timeout), do: call(worker, :why, min(timeout, @why_ms), :gone)

  defp call(worker, request, timeout) do
    :gen_statem.call(worker, request, timeout)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    :exit, _ -> {:error, :gone}
  end

  defp call(worker, request, timeout, otherwise) do
    with {:error, _} <- call(worker, request, timeout), do: otherwise
  end

  # ---- the process ------------------------------------------------------------------------------------------------

  @doc "For the modules of this folder: an event of the run."
  @spec report(Run.t(), event()) :: :ok
  def report(%Run{spec: spec}, event) do
    send(spec.owner, {:worker, self(), event})
    :ok
  end

  @impl true
  def callback_mode, do: [:handle_event_function, :state_enter]

  @impl true
  def init(%Spec{} = spec) do
    Process.flag(:trap_exit, true)
    {:ok, :starting, Start.new(spec), {:next_event, :internal, :begin}}
  end

  @impl true
  def handle_event(:enter, _from, :starting, run),
    do: {:keep_state_and_data, {{:timeout, :startup}, run.spec.options.startup_timeout, :late}}

  def handle_event(:enter, _from, :ready, run) do
    look = if Upkeep.looks?(run), do: [{{:timeout, :look}, Upkeep.look_ms(), :due?}], else: []
    beat = {{:timeout, :beat}, run.spec.options.heartbeat_interval, :alive?}
    {:keep_state_and_data, [{{:timeout, :startup}, :infinity, :late}, beat | look]}
  end

  # It closed a socket, most likely because it is dying: the launcher is about to say how.
  def handle_event(:enter, _from, :ending, %Run{failure: nil}),
    do: {:keep_state_and_data, {:state_timeout, @dying_ms, :not_dead}}

  def handle_event(:enter, _from, :over, _run),
    do: {:keep_state_and_data, {:state_timeout, @read_out_ms, :read_out}}

  def handle_event(:enter, _from, _state, _run), do: :keep_state_and_data

  def handle_event(:internal, :begin, :starting, run) do
    case Start.begin(run) do
      {:ok, run} ->
        next(accept(run))

      {:error, why} ->
        report(run, {:not_ready, why})
        {:stop, :normal}
    end
  end

  # ---- events: its process and sockets

  def handle_event(:info, {:companion, id, event}, state, %Run{id: id} = run),
    do: next(launched(event, state, run))

  # Its process dies with the companion, and so with the process that owns that.
  def handle_event(:info, {:DOWN, monitor, _, _, _}, state, %Run{monitor: monitor} = run),
    do: next(launched({:exited, :companion_died, ""}, state, run))

  def handle_event(:info, {:"$socket", _, :select, _}, :starting, run), do: next(accept(run))
  def handle_event(:info, {:"$socket", _, :select, _}, state, run), do: next(read(state, run))

  # Slots that nobody refers to and chunks of others that are gone, which no frame told the worker.
  def handle_event(:info, :tend, state, run) when state in [:ready, :draining],
    do: next(sent({state, run}, Upkeep.tend(run)))

  def handle_event(:info, _other, _state, _run), do: :keep_state_and_data

  # ---- events: time

  def handle_event({:timeout, :startup}, :late, state, run)
      when state in [:starting, :greeting, :importing] do
    # What it says may have come in this moment.
    case read(state, run) do
      {state, run} when state in [:starting, :greeting, :importing] ->
        next(finish({state, run}, Report.too_slow(state, run)))

      other ->
        next(other)
    end
  end

  # An answer may have come while this process, or all of the VM, had no turn.
  def handle_event({:timeout, :beat}, :alive?, state, run) when state in [:ready, :draining],
    do: state |> read(run) |> beat() |> next({{:timeout, :beat}, run.heart.interval, :alive?})

  def handle_event({:timeout, :look}, :due?, :ready, run) do
    {why, run} = Upkeep.due(run)
    if why, do: report(run, {:due, why})
    next({:ready, run}, {{:timeout, :look}, Upkeep.look_ms(), :due?})
  end

  def handle_event({:timeout, _name}, _content, _state, _run), do: :keep_state_and_data

  def handle_event(:state_timeout, :not_dead, :ending, run) do
    Launcher.kill(run)
    next({:ending, %{run | failure: run.closing}})
  end

  def handle_event(:state_timeout, :read_out, :over, _run), do: {:stop, :normal}

  # ---- events: the owner

  def handle_event(:cast, {:noted, :ready}, _state, run) do
    Report.up(run)
    :keep_state_and_data
  end

  def handle_event(:cast, {:noted, :ended}, :over, %Run{outcome: outcome} = run) do
    Report.down(run, outcome.words)
    if run.ready_at, do: Report.died(run, outcome.words)
    answer_asking(run, outcome.error.message)
    {:keep_state, %{run | noted?: true, asking: []}}
  end

  def handle_event(:cast, :drain, :ready, run), do: next({:draining, run})
  # It ends by itself, and its callers may still read.
  def handle_event(:cast, :stop, state, _run) when state in [:ending, :over], do: :keep_state_and_data
  def handle_event(:cast, :stop, _state, _run), do: {:stop, :normal}

  def handle_event(:cast, {:resized, size, quota}, state, run) when state not in [:ending, :over] do
    # What it holds already, it may hold.
    run = %{run | size: size, quota: max(run.quota, quota)}

    # Before that, it gets the size with its other settings.
    if state in [:importing, :ready, :draining],
      do: next(sent({state, run}, ControlSocket.send_message(run.control, ["resized", size, quota]))),
      else: next({state, run})
  end

  # ---- events: callers

  def handle_event(:cast, {:discard, why}, state, run) when state in [:ready, :draining] do
    case why do
      # The reason may be what it said before.
      :closed -> state |> read(run) |> dying("it closed a lane") |> next()
      # An end for a caller's sake says nothing of its health.
      words -> {state, %{run | meant?: true}} |> finish(words) |> next()
    end
  end

  # If it cannot be sent, the worker is gone or the grace period ends it.
  def handle_event(:cast, {:cancel, lane, call_id}, state, run) when state in [:ready, :draining] do
    ControlSocket.send_message(run.control, ["cancel", lane, call_id])
    :keep_state_and_data
  end

  def handle_event(:cast, request, state, run) when state in [:ready, :draining] do
    case request do
      {:send_chunks, ids} -> next(sent({state, run}, Chunks.send_all(run, ids)))
      {:announce, ids} -> next(sent({state, run}, Chunks.announce(run, ids)))
      {:table, table} -> next(send_table({state, run}, table))
      {:idle_ms, ms} -> next(send_idle_ms({state, run}, ms))
      _no_news -> :keep_state_and_data
    end
  end

  # A worker that is not ready yet is sent all of these when it is; one that is gone needs none.
  def handle_event(:cast, _request, _state, _run), do: :keep_state_and_data

  def handle_event({:call, from}, {:await_chunk, id}, state, run) when state in [:ready, :draining] do
    # The worker announced the chunk before it sent the reply: it must be in the socket by now.
    {state, run} = read(state, run)

    answer =
      cond do
        state == :ending -> {:error, :gone}
        id in run.chunks -> :ok
        true -> {:error, :unknown}
      end

    next({state, run}, {:reply, from, answer})
  end

  def handle_event({:call, from}, :grpc, state, run) when state in [:ready, :draining] do
    with nil <- run.grpc,
         %Run{} = run <- Conversation.ask_for_grpc(run, from) do
      next({state, run})
    else
      # It is the worker that failed, not the way.
      {:error, why} -> next(finish({state, run}, why), {:reply, from, {:error, :gone}})
      channel -> {:keep_state_and_data, {:reply, from, channel}}
    end
  end

  def handle_event({:call, from}, :why, :over, %Run{noted?: true, outcome: outcome}),
    do: {:keep_state_and_data, {:reply, from, outcome.error.message}}

  def handle_event({:call, from}, :why, _state, run), do: {:keep_state, %{run | asking: [from | run.asking]}}

  def handle_event({:call, from}, :describe, state, run),
    do: {:keep_state_and_data, {:reply, from, description(state, run)}}

  def handle_event({:call, from}, _request, _state, _run),
    do: {:keep_state_and_data, {:reply, from, {:error, :gone}}}

  @impl true
  # Its resources were released when it ended.
  def terminate(_reason, :over, run) do
    unless run.noted?, do: Report.down(run, run.outcome.words)
    answer_asking(run, :stopping)
    Run.close_lanes(run)
  end

  # It was never started.
  def terminate(_reason, _state, %Run{id: nil} = run), do: Run.release(run)

  def terminate(_reason, state, run) do
    answer_asking(run, :stopping)
    run = down(run)
    Report.stopped(run)
    Stopping.begin(state, run)
    stopping = description(:stopping, run)
    run = Stopping.await(state, run, &launched(&1, state, run), stopping)
    Run.release(run)
    # The end of this process ends the one that reads the logs.
    if run.logs, do: Logs.await(run.logs)
    Run.close_lanes(run)
  end

  # ---- transitions: each takes and gives a state and the run ------------------------------------------------------

  defp next({state, run}, actions \\ []), do: {:next_state, state, run, actions}

  defp accept(run) do
    case ControlSocket.accept(run.control) do
      :wait -> {:starting, run}
      {:ok, control} -> check_peer(:greeting, %{run | control: control})
      {:error, reason} -> finish({:starting, run}, "accept: #{inspect(reason)}")
    end
  end

  # The launcher's word of the pid and the connection itself may come in either order.
  defp check_peer(:greeting, run) do
    case Start.peer(run) do
      :ok -> read(:greeting, run)
      :unknown -> {:greeting, run}
      {:error, why} -> finish({:greeting, run}, why)
    end
  end

  defp check_peer(state, run), do: {state, run}

  defp read(state, run) when state in [:starting, :ending, :over], do: {state, run}

  defp read(state, run) do
    case Conversation.read(state, run) do
      {:error, why, run} -> finish({state, run}, why)
      {:ok, :ready, run} when state != :ready -> ready(run)
      {:ok, state, run} -> {state, run}
    end
  end

  # All that it must know is sent before its lanes are used.
  defp ready(run) do
    chunks = for {id, _size} <- Native.arena_chunks(run.spec.arena), do: id
    at = sent({:ready, run}, Chunks.announce(run, chunks))
    with {:ready, run} <- at, do: {:ready, up(run)}
  end

  defp up(%Run{spec: spec} = run) do
    heart = Heart.new(spec.options.heartbeat_interval, spec.options.heartbeat_grace)
    run = Upkeep.begin(%{run | heart: heart, ready_at: now()})
    lanes = run.lanes |> Enum.with_index() |> Enum.map(&lane(&1, run))
    report(run, {:ready, %{lanes: lanes, tools: run.tools, started_at: run.started_at}})
    # The pool keeps them, one copy for all workers.
    %{run | tools: []}
  end

  defp lane({%{socket: socket, fd: fd}, number}, run) do
    %Lane{
      worker: self(),
      epoch: run.number,
      name: run.spec.name,
      index: run.spec.index,
      number: number,
      socket: socket,
      fd: fd,
      memory: run.memory,
      zero_copy: "zero_copy" in run.info.capabilities,
      grpc: "grpc" in run.info.capabilities
    }
  end

  defp send_table({state, %Run{table: table} = run}, table), do: {state, run}

  # In MessagePack what is no str is bin.
  defp send_table({state, run}, table) when state in [:ready, :draining] do
    message = ["table", %Bytes{data: table}]
    sent({state, %{run | table: table}}, ControlSocket.send_message(run.control, message))
  end

  defp send_table(at, _table), do: at

  defp send_idle_ms({state, %Run{idle_ms: ms} = run}, ms), do: {state, run}

  defp send_idle_ms({state, run}, ms),
    do: sent({state, %{run | idle_ms: ms}}, ControlSocket.send_message(run.control, ["idle_ms", ms]))

  defp beat({state, run}) when state in [:ready, :draining] do
    case Upkeep.beat(run) do
      {:dead, why} -> finish({state, run}, why)
      {sent, run} -> sent({state, run}, sent)
    end
  end

  defp beat(at), do: at

  defp launched({:started, pid}, state, run), do: check_peer(state, %{run | os_pid: pid})

  defp launched({:output, stream, line}, state, %Run{spec: spec} = run) do
    metadata = [pool: spec.pool, worker: spec.name, os_pid: run.os_pid, stream: stream]
    Logger.info(fn -> "[#{spec.name} #{stream}] #{Words.printable(line)}" end, metadata)
    {state, run}
  end

  defp launched({:start_failed, why}, _state, run), do: over(run, "the interpreter did not start: #{why}", "")

  defp launched({:exited, status, tail}, state, run) do
    # What it said last is still in the socket: a failed import says so and exits.
    {_state, run} = if state in [:greeting, :importing], do: read(state, run), else: {state, run}
    over(%{run | status: status}, Words.exit(status), tail)
  end

  defp sent(at, :ok), do: at

  # It is dead, and the launcher about to say how.
  defp sent(at, {:error, reason}) when reason in [:epipe, :econnreset, :closed],
    do: dying(at, "it closed its control socket")

  defp sent(at, {:error, reason}), do: finish(at, "the control socket: #{Error.reason_words(reason)}")

  # The worker can no longer be trusted: its process is killed. `why`: words or an error.
  defp finish({state, run}, _why) when state in [:ending, :over], do: {state, run}

  defp finish({_state, run}, why) do
    run = down(run)
    Launcher.kill(run)
    {:ending, %{run | failure: why}}
  end

  # `why`: in case that it is not dying.
  defp dying({state, run}, _why) when state in [:ending, :over], do: {state, run}
  defp dying({_state, run}, why), do: {:ending, %{down(run) | closing: why}}

  # No more calls. The calls that it ran are noted before its memory is released.
  defp down(%Run{ran: nil, ready_at: nil} = run), do: %{run | ran: []}

  defp down(%Run{ran: nil, spec: spec} = run) do
    Native.queue_down(spec.queue, spec.index, run.number)
    report(run, :down)
    # A lane without a call may have had one whose reply nobody read.
    idle = Native.queue_without_call(spec.queue, spec.index, run.number)

    ran =
      for {lane, command, correlation_id, ms} <- Native.worker_unanswered(run.memory),
          lane not in idle,
          do: %{command: command, correlation_id: correlation_id, ms: ms}

    %{run | ran: ran}
  end

  defp down(run), do: run

  # Its process is gone. Its ends of the lanes are closed, and so a caller reads what it said last, and then that it is gone:
  # closing this end now would throw that away.
  defp over(run, how, tail) do
    run = down(run)
    outcome = Outcome.new(run, how, tail, now())
    Run.release(run)
    report(run, {:ended, outcome})
    {:over, %{run | outcome: outcome, grpc_waiting: []}}
  end

  defp answer_asking(run, answer), do: Enum.each(run.asking, &:gen_statem.reply(&1, answer))

  defp description(state, run) do
    %{
      status: state,
      os_pid: Launcher.os_pid(run),
      python: run.info[:python],
      held_buffers: Native.worker_held(run.memory)
    }
  end

  defp now, do: System.monotonic_time(:millisecond)
end
