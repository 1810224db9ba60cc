defmodule Snakepit.Worker.States do
  @moduledoc false
  # The process of a run: which event is handled in which state (`Snakepit.Worker` has the table).

  @behaviour :gen_statem
  import Snakepit.Worker.Transitions
  alias Snakepit.Wire.ControlSocket
  alias Snakepit.Native
  alias Snakepit.Worker.{Chunks, Conversation, Launcher, Logs, Report, Run, Spec, Start, Stopping, Upkeep}

  # How long a worker that closed a lane may take to die. Callers wait longer for the reason (`Snakepit.Worker.why/2`).
  @dying_ms 2_000
  # How long callers have to read what a worker said before it died.
  @read_out_ms 500

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
        Run.report(run, {:not_ready, why})
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

  # Slots that nobody refers to and chunks of others that are gone, which no frame has reported to the worker.
  def handle_event(:info, :tend, state, run) when state in [:ready, :draining],
    do: next(sent({state, run}, Upkeep.tend(run)))

  def handle_event(:info, _other, _state, _run), do: :keep_state_and_data

  # ---- events: time

  def handle_event({:timeout, :startup}, :late, state, run)
      when state in [:starting, :greeting, :importing] do
    # Its message may just have come.
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
    if why, do: Run.report(run, {:due, why})
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

  def handle_event(:cast, {:noted, {:ended, again?}}, :over, %Run{outcome: outcome} = run) do
    Report.down(run, outcome.words)
    if run.ready_at, do: Report.died(run, outcome.words, again?)
    answer_asking(run, outcome.error.message)
    {:keep_state, %{run | noted?: true, asking: []}}
  end

  def handle_event(:cast, :drain, :ready, run), do: next({:draining, run})
  # It ends by itself, and its callers may still read.
  def handle_event(:cast, :stop, state, _run) when state in [:ending, :over], do: :keep_state_and_data
  def handle_event(:cast, :stop, _state, _run), do: {:stop, :normal}

  def handle_event(:cast, {:resized, size, quota}, state, run) when state not in [:ending, :over] do
    # It may keep the memory that it holds already.
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
  def terminate(reason, :over, run) do
    unless run.noted?, do: Report.down(run, run.outcome.words)
    # Its time is over though the manager, which may be busy, has not noted its end: the callers ask that.
    answer_asking(run, if(reason == :normal, do: :gone, else: :stopping))
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

  defp next({state, run}, actions \\ []), do: {:next_state, state, run, actions}

  defp answer_asking(run, answer), do: Enum.each(run.asking, &:gen_statem.reply(&1, answer))

  defp description(state, run) do
    %{
      status: state,
      os_pid: Launcher.os_pid(run),
      python: run.info[:python],
      held_buffers: Native.worker_held(run.memory)
    }
  end
end
