defmodule Snakepit.Worker.Transitions do
  @moduledoc false
  # The changes of a run when its worker says something, or something is sent to it. Each function gives the state
  # (`Snakepit.Worker`) and the run after it.

  alias Snakepit.{Bytes, Companion, Error, Native}
  alias Snakepit.Wire.ControlSocket

  alias Snakepit.Worker.{
    Chunks,
    Conversation,
    Heart,
    Lane,
    Launcher,
    Outcome,
    Report,
    Run,
    Start,
    Upkeep,
    Words
  }

  @type state :: Snakepit.Worker.state()
  @type at :: {state(), Run.t()}

  @doc "The worker connects, or has not yet."
  @spec accept(Run.t()) :: at()
  def accept(run) do
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

  @doc "Reads its messages, and acts upon them."
  @spec read(state(), Run.t()) :: at()
  def read(state, run) when state in [:starting, :ending, :over], do: {state, run}

  def read(state, run) do
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
    Run.report(run, {:ready, %{lanes: lanes, tools: run.tools, started_at: run.started_at}})
    # The pool keeps them, one copy for all workers.
    %{run | tools: []}
  end

  defp lane({%{socket: socket, fd: fd}, number}, run) do
    %Lane{
      worker: self(),
      run: run.number,
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

  @doc "Sends the table by which it chooses the ways of results, unless it has it."
  @spec send_table(at(), binary()) :: at()
  def send_table({state, %Run{table: table} = run}, table), do: {state, run}

  # In MessagePack what is no str is bin.
  def send_table({state, run}, table) when state in [:ready, :draining] do
    message = ["table", %Bytes{data: table}]
    sent({state, %{run | table: table}}, ControlSocket.send_message(run.control, message))
  end

  def send_table(at, _table), do: at

  @doc "Sends after how long it gives memory back, unless it knows."
  @spec send_idle_ms(at(), non_neg_integer()) :: at()
  def send_idle_ms({state, %Run{idle_ms: ms} = run}, ms), do: {state, run}

  def send_idle_ms({state, run}, ms),
    do: sent({state, %{run | idle_ms: ms}}, ControlSocket.send_message(run.control, ["idle_ms", ms]))

  @doc "Asks whether it is alive, or gives it up."
  @spec beat(at()) :: at()
  def beat({state, run}) when state in [:ready, :draining] do
    case Upkeep.beat(run) do
      {:dead, why} -> finish({state, run}, why)
      {sent, run} -> sent({state, run}, sent)
    end
  end

  def beat(at), do: at

  @doc "After an event of its launcher."
  @spec launched(Companion.event(), state(), Run.t()) :: at()
  def launched({:started, pid}, state, run), do: check_peer(state, %{run | os_pid: pid})

  def launched({:output, stream, line}, state, run) do
    Report.printed(run, stream, line)
    {state, run}
  end

  def launched({:start_failed, why}, _state, run), do: over(run, "the interpreter did not start: #{why}", "")

  def launched({:exited, status, tail}, state, run) do
    # Its last words are still in the socket: a failed import says so and exits.
    {_state, run} = if state in [:greeting, :importing], do: read(state, run), else: {state, run}
    over(%{run | status: status}, Words.exit(status), tail)
  end

  @doc "After something was sent, or could not be."
  @spec sent(at(), :ok | {:error, term()}) :: at()
  def sent(at, :ok), do: at

  # It is dead, and the launcher about to say how.
  def sent(at, {:error, reason}) when reason in [:epipe, :econnreset, :closed],
    do: dying(at, "it closed its control socket")

  def sent(at, {:error, reason}), do: finish(at, "the control socket: #{Error.reason_words(reason)}")

  @doc "The worker can no longer be trusted: its process is killed. `why`: words or an error."
  @spec finish(at(), String.t() | Error.t()) :: at()
  def finish({state, run}, _why) when state in [:ending, :over], do: {state, run}

  def finish({_state, run}, why) do
    run = down(run)
    Launcher.kill(run)
    {:ending, %{run | failure: why}}
  end

  @doc "It closed a socket, and is most likely dying. `why`: in case that it is not."
  @spec dying(at(), String.t()) :: at()
  def dying({state, run}, _why) when state in [:ending, :over], do: {state, run}
  def dying({_state, run}, why), do: {:ending, %{down(run) | closing: why}}

  @doc "No more calls. The calls that it ran are noted before its memory is released."
  @spec down(Run.t()) :: Run.t()
  def down(%Run{ran: nil, ready_at: nil} = run), do: %{run | ran: []}

  def down(%Run{ran: nil, spec: spec} = run) do
    Native.queue_down(spec.queue, spec.index, run.number)
    Run.report(run, :down)
    # A lane without a call may have had one whose reply nobody read.
    idle = Native.queue_without_call(spec.queue, spec.index, run.number)

    ran =
      for {lane, command, correlation_id, ms} <- Native.worker_unanswered(run.memory),
          lane not in idle,
          do: %{command: command, correlation_id: correlation_id, ms: ms}

    %{run | ran: ran}
  end

  def down(run), do: run

  # Its process is gone. Its ends of the lanes are closed, and so a caller reads what it said last, and then that it is gone:
  # closing this end now would throw that away.
  defp over(run, how, tail) do
    run = down(run)
    outcome = Outcome.new(run, how, tail, now())
    Run.release(run)
    Run.report(run, {:ended, outcome})
    {:over, %{run | outcome: outcome, grpc_waiting: []}}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
