defmodule Snakepit.Worker.Logs do
  @moduledoc false
  # Reads one run's log socket, and logs what comes. A process of its own: Logger may be slow, and then the socket's buffer
  # is full, the worker drops records, and nobody else waits. It ends when the socket does; what a worker said right before
  # it died is still in there.

  use GenServer
  alias Snakepit.Native
  alias Snakepit.Terminal.Units
  alias Snakepit.Worker.LogRecord
  require Logger

  # As in priv/python/snakepit/logs/channel.py.
  @max_frame 32 * 1024
  # Bytes that are read at once.
  @read 64 * 1024
  # A worker is gone: somebody else holds the socket's other end, if it is open still.
  @rest_ms 2_000
  # For what is in the socket's buffer.
  @await_ms 1_000

  @doc "By the worker's process, whose end ends this one. The descriptor is taken over."
  @spec start_link(non_neg_integer(), LogRecord.who()) :: GenServer.on_start()
  def start_link(fd, who) do
    # It gets a number of its own.
    opened = :socket.open(fd)
    Native.close_fd(fd)

    with {:ok, socket} <- opened,
         :ok <- :socket.setopt(socket, {:otp, :rcvbuf}, @read),
         {:ok, pid} <- GenServer.start_link(__MODULE__, {socket, who}),
         :ok <- :socket.setopt(socket, {:otp, :controlling_process}, pid) do
      GenServer.cast(pid, :read)
      {:ok, pid}
    end
  end

  @doc "The run that records are of."
  @spec who(Snakepit.Worker.Run.t()) :: LogRecord.who()
  def who(run), do: %{pool: run.spec.pool, worker: run.spec.name, os_pid: run.os_pid}

  @doc "The worker is gone: what it said is read, and then this process ends."
  @spec finish(pid()) :: :ok
  def finish(logs), do: GenServer.cast(logs, :finish)

  @doc "Waits until all was read."
  @spec await(pid()) :: :ok
  def await(logs) do
    monitor = Process.monitor(logs)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    after
      @await_ms -> :ok
    end

    Process.demonitor(monitor, [:flush])
    :ok
  end

  @impl true
  def init({socket, who}), do: {:ok, %{socket: socket, who: who, rest: <<>>}}

  @impl true
  def handle_cast(:read, state), do: read(state)

  def handle_cast(:finish, state) do
    Process.send_after(self(), :enough, @rest_ms)
    {:noreply, state}
  end

  @impl true
  def handle_info({:"$socket", _socket, :select, _ref}, state), do: read(state)
  def handle_info(:enough, state), do: {:stop, :normal, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: :socket.close(state.socket)

  # One read for each turn, so that other messages have theirs.
  defp read(state) do
    case :socket.recv(state.socket, 0, [], :nowait) do
      {:ok, bytes} -> frames(%{state | rest: state.rest <> bytes})
      {:select, _info} -> {:noreply, state, if(state.rest == <<>>, do: :hibernate, else: :infinity)}
      {:error, _closed} -> {:stop, :normal, state}
    end
  end

  defp frames(%{rest: <<size::32, _::binary>>} = state) when size > @max_frame, do: broken(state)

  defp frames(%{rest: <<size::32, frame::binary-size(size), rest::binary>>} = state) do
    with {:ok, message} <- Native.unpack(frame, MapSet.new()),
         {:ok, record} <- LogRecord.read(message, state.who, System.system_time(:microsecond)) do
      log(record, state.who)
      frames(%{state | rest: rest})
    else
      _ -> broken(state)
    end
  end

  defp frames(state) do
    GenServer.cast(self(), :read)
    # It would hold all that came with it.
    {:noreply, %{state | rest: :binary.copy(state.rest)}}
  end

  defp log({:record, level, message, metadata}, _who), do: Logger.bare_log(level, message, metadata)

  defp log({:dropped, n}, who) do
    Logger.warning(
      "pool #{inspect(who.pool)}: worker #{who.worker}: #{Units.counted(n, "log record")} of Python " <>
        "#{if n == 1, do: "was", else: "were"} dropped: more came than Logger took",
      Map.to_list(who)
    )
  end

  defp broken(%{who: who} = state) do
    words =
      "pool #{inspect(who.pool)}: worker #{who.worker} sent a log record that cannot be read; no more are"

    Logger.warning(words, Map.to_list(who))
    {:stop, :normal, state}
  end
end
