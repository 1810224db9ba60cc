defmodule Snakepit.Test.Lane do
  @moduledoc false
  # One lane of a fake worker: reads requests, runs fake tools, writes replies, as lane.py and calls.py do.

  alias Snakepit.Native
  alias Snakepit.Test.{Frame, Run, Stubs, Tool, Words}

  # `:socket.recv/2` makes room for as much as it is asked for.
  @most 1024 * 1024

  @type settings :: %{
          path: Path.t(),
          worker: pid(),
          pool: atom(),
          tools: %{String.t() => Tool.t()},
          memory: Native.worker(),
          sessions: :ets.table()
        }

  @doc "Starts a lane that is connected to the socket at `path`."
  @spec start_link(settings()) :: {:ok, pid()}
  def start_link(settings), do: :proc_lib.start_link(__MODULE__, :init, [settings])

  @doc false
  def init(%{path: path} = settings) do
    Process.flag(:trap_exit, true)
    {:ok, socket} = :socket.open(:local, :stream)
    :ok = :socket.connect(socket, %{family: :local, path: path})
    :proc_lib.init_ack({:ok, self()})
    # seen: the last call that came.
    loop(Map.merge(settings, %{socket: socket, seen: 0}))
  end

  @doc "This call, or one before it, is ended if it runs."
  @spec cancel(pid(), non_neg_integer()) :: :ok
  def cancel(lane, call_id) do
    send(lane, {:cancel, call_id})
    :ok
  end

  # Its other end is closed by the worker's process, which then ends this one.
  defp loop(state) do
    with {:ok, <<size::32>>} <- read(state.socket, 4, []),
         {:ok, frame} <- read(state.socket, size, []) do
      frame |> Frame.read() |> serve(state)
    else
      {:error, _closed} -> :ok
    end
  end

  defp read(_socket, 0, parts), do: {:ok, parts |> Enum.reverse() |> IO.iodata_to_binary()}

  defp read(socket, left, parts) do
    with {:ok, part} <- :socket.recv(socket, min(left, @most)),
         do: read(socket, left - byte_size(part), [part | parts])
  end

  # No call runs any more, and no reply had tokens.
  defp serve(%{kind: :synchronize} = request, state) do
    {:ok, envelope} = Native.pack([state.seen, false])
    answer(Frame.reply(request, :result, envelope, 0), state)
  end

  defp serve(request, state) do
    if request.tokens != [], do: send(state.worker, {:released, request.tokens})
    state = %{state | seen: request.id}

    with {:ok, command, args, kinds, caller} <- Frame.decode(request, state.memory),
         {:ok, tool} <- tool(command, caller, state),
         {:ok, args} <- Tool.check(tool, args, kinds) do
      Stubs.called(state.pool, command, args, caller.chain)
      context = Map.merge(caller, Map.take(state, [:worker, :sessions]))
      run(Run.start_link(request, tool, args, context), request, state)
    else
      {:error, %{} = error} -> answer(Frame.reply(request, :error, error, 0), state)
    end
  end

  defp tool(command, caller, state) do
    case Stubs.find(state.pool, command, caller.chain) || state.tools[command] do
      nil -> {:error, unknown(command, state)}
      tool -> {:ok, tool}
    end
  end

  defp unknown(command, %{pool: pool, tools: tools}) do
    known = tools |> Map.keys() |> Enum.sort()
    command = String.slice(command, 0, 200)

    suggestion =
      case {Words.did_you_mean(command, known), known} do
        {"", []} -> "; it has none: Snakepit.Test.stub/3, or tools: of the pool"
        {"", known} -> "; it has #{Words.some_of(known)}"
        {near, _} -> near
      end

    "validation"
    |> Frame.refusal(
      :unknown_command,
      "pool #{inspect(pool)} has no tool #{Words.repr(command)}#{suggestion}",
      nil,
      nil
    )
    |> Map.put("details", %{"nearest" => Words.nearest(command, known)})
  end

  # Until the call is over. Messages of earlier calls are skipped.
  defp run(pid, %{id: id} = request, state) do
    receive do
      {^pid, :item, frame} ->
        with :ok <- :socket.send(state.socket, frame) do
          send(pid, {:go_on, pid})
          run(pid, request, state)
        else
          _closed -> stop(pid)
        end

      {^pid, :over, frame} ->
        gone(pid)
        answer(frame, state)

      {:cancel, call_id} when call_id >= id ->
        stop(pid)
        words = "nobody waits for this call's result any more"
        answer(Frame.reply(request, :error, Run.error("snakepit.Cancelled", words, []), 0), state)

      # Killed, or with something it was linked to.
      {:EXIT, ^pid, reason} ->
        answer(Frame.reply(request, :error, Run.error("exit", Exception.format_exit(reason), []), 0), state)

      {:EXIT, _worker, _reason} ->
        stop(pid)
    end
  end

  defp answer(frame, state) do
    with :ok <- :socket.send(state.socket, frame), do: state |> at_rest() |> loop()
  end

  # Cancellations that came after the end of their calls, and exits of processes that functions left.
  defp at_rest(state) do
    receive do
      {:cancel, _call_id} -> at_rest(state)
    after
      0 -> state
    end
  end

  defp stop(pid) do
    Process.exit(pid, :kill)
    gone(pid)
  end

  defp gone(pid) do
    receive do
      {:EXIT, ^pid, _reason} -> :ok
    end
  end
end
