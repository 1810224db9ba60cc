defmodule Snakepit.Test.Worker do
  @moduledoc false
  # A process in place of a worker's OS process: it connects to the same control socket, says the same words
  # (native/PROTOCOL.md), and hands over lanes of the same kind.
  #
  # So a fake pool is a real pool from its supervisor to the lanes: queue, deadlines, cancellation, streams, recovery
  # and telemetry are not imitated. The other way, to answer in Snakepit.Call, would have been shorter and would have
  # had to imitate all of that. It costs 0.1 ms a call.

  @behaviour Snakepit.Worker.Launcher

  use GenServer
  alias Snakepit.{Native, Pool, Runtime}
  alias Snakepit.Test.{Lane, Tool}
  alias Snakepit.Wire.ControlSocket
  require Logger

  @version Mix.Project.config()[:version]

  # ---- as its launcher --------------------------------------------------------------------------------------------

  @impl Snakepit.Worker.Launcher
  def run(%Pool.Options{} = options, env) do
    id = System.unique_integer([:positive])
    {:ok, pid} = GenServer.start(__MODULE__, {id, self(), options, Map.new(env)}, name: name(id))
    {id, Process.monitor(pid)}
  end

  @impl Snakepit.Worker.Launcher
  def stop(id, _grace_ms), do: GenServer.cast(name(id), {:exit, {:status, 0}})

  @impl Snakepit.Worker.Launcher
  def kill(id), do: GenServer.cast(name(id), {:exit, {:signal, 9}})

  @doc "The process that calls, and those it works for, for `Snakepit.Test.Stubs`. To be read in this VM."
  @spec caller() :: Snakepit.Bytes.t()
  def caller do
    parent =
      case Process.info(self(), :parent) do
        {:parent, pid} when is_pid(pid) -> [pid]
        _none -> []
      end

    chain = Process.get(:"$callers", []) ++ Process.get(:"$ancestors", []) ++ parent
    [self() | chain] |> Enum.uniq() |> :erlang.term_to_binary() |> Snakepit.bytes()
  end

  @doc "The fake workers of a pool; those with a running call first."
  @spec of_pool(atom()) :: [pid()]
  def of_pool(pool) do
    Snakepit.Registry
    |> Registry.select([{{{:fake_worker_of, pool, :_}, :"$1", :_}, [], [:"$1"]}])
    |> Enum.sort_by(&if(busy?(&1), do: 0, else: 1))
  end

  defp busy?(worker) do
    GenServer.call(worker, :busy?)
  catch
    :exit, _ -> false
  end

  @doc "Ends a fake worker as by SIGKILL."
  @spec crash(pid()) :: :ok
  def crash(worker), do: GenServer.cast(worker, {:exit, {:signal, 9}})

  defp name(id), do: Pool.Handle.name(:fake_worker, id)

  # ---- the process ------------------------------------------------------------------------------------------------

  @impl GenServer
  def init({id, owner, options, env}) do
    Process.flag(:trap_exit, true)
    {:ok, _} = Registry.register(Snakepit.Registry, {:fake_worker_of, options.name, id}, nil)
    # Only for the decoder, which counts the slots that a worker holds. Its arena stays empty.
    {arena, _} = Native.arena_new(options.chunk_size, options.chunk_size)
    {memory, _} = Native.worker_new(arena, options.chunk_size)
    {_launcher, %{tools: tools}} = options.fake

    state = %{
      id: id,
      owner: owner,
      owner_monitor: Process.monitor(owner),
      options: options,
      tools: tools,
      memory: memory,
      sessions: :ets.new(:snakepit_test_sessions, [:set, :public]),
      control: nil,
      lanes: []
    }

    {:ok, state, {:continue, {:connect, env}}}
  end

  @impl GenServer
  def handle_continue({:connect, %{"SNAKEPIT_SOCKET" => path, "SNAKEPIT_TOKEN" => token}}, state) do
    report(state, {:started, String.to_integer(System.pid())})
    {:ok, socket} = :socket.open(:local, :stream)
    :ok = :socket.connect(socket, %{family: :local, path: path})

    hello = %{
      protocol: 1,
      version: @version,
      token: token |> Base.decode16!() |> Snakepit.bytes(),
      pid: String.to_integer(System.pid()),
      python: "none (Snakepit.Test)",
      capabilities: ["inline", "zero_copy"]
    }

    read(say(%{state | control: %ControlSocket{socket: socket}}, ["hello", hello]))
  end

  @impl GenServer
  def handle_call(:busy?, _from, state), do: {:reply, Enum.any?(state.lanes, &(runs(&1) != [])), state}

  @impl GenServer
  def handle_cast({:exit, status}, state), do: exit_with(state, status)

  @impl GenServer
  def handle_info({:"$socket", _socket, :select, _ref}, state), do: read(state)
  def handle_info({:released, tokens}, state), do: {:noreply, say(state, ["released", tokens])}

  # No process is left that could get a message.
  def handle_info({:DOWN, monitor, _, _, _}, %{owner_monitor: monitor} = state), do: gone(state)

  def handle_info({:EXIT, lane, reason}, %{lanes: lanes} = state) do
    if lane in lanes and reason != :normal do
      pool = inspect(state.options.name)
      Logger.error("pool #{pool}: a fake worker failed: #{Exception.format_exit(reason)}")
      exit_with(state, {:status, 1})
    else
      {:noreply, state}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  # ---- messages of the pool -----------------------------------------------------------------------------------------

  defp read(state) do
    case ControlSocket.receive_all(state.control) do
      {:ok, messages, control} ->
        {:noreply, Enum.reduce(messages, without_fds(%{state | control: control}), &obey/2)}

      _over ->
        gone(state)
    end
  end

  # Chunks of the pool are read in this VM by their own descriptors.
  defp without_fds(%{control: control} = state) do
    for fd <- control.fds, is_integer(fd), do: Native.close_fd(fd)
    %{state | control: %{control | fds: []}}
  end

  defp obey(["welcome", %{"lanes" => count}], state) do
    {:ok, dir} = Runtime.ensure()
    path = Runtime.path(dir, "lane")
    {:ok, listening} = :socket.open(:local, :stream)
    :ok = :socket.bind(listening, %{family: :local, path: path})
    :ok = :socket.listen(listening, count)
    settings = state |> Map.take([:memory, :tools, :sessions]) |> Map.merge(%{path: path, worker: self()})
    settings = Map.put(settings, :pool, state.options.name)
    {lanes, ends} = 1..count |> Enum.map(fn _ -> lane(settings, listening) end) |> Enum.unzip()
    fds = for socket <- ends, {:ok, fd} = :socket.getopt(socket, {:otp, :fd}), do: fd
    state = %{state | lanes: lanes}
    :ok = ControlSocket.send_message(state.control, ["lanes", count], fds)
    Enum.each([listening | ends], &:socket.close/1)
    File.rm(path)

    say(state, [
      "ready",
      %{tools: for({_name, tool} <- Enum.sort(state.tools), do: Tool.described(tool, "Snakepit.Test"))}
    ])
  end

  defp obey(["ping", n], state), do: say(state, ["pong", n])

  defp obey(["cancel", lane, call_id], state) do
    with pid when is_pid(pid) <- Enum.at(state.lanes, lane), do: Lane.cancel(pid, call_id)
    state
  end

  defp obey(["stop"], state) do
    GenServer.cast(self(), {:exit, {:status, 0}})
    state
  end

  defp obey(_about_memory, state), do: state

  # The lane, and the pool's end of it.
  defp lane(settings, listening) do
    {:ok, lane} = Lane.start_link(settings)
    {:ok, socket} = :socket.accept(listening)
    {lane, socket}
  end

  # If it cannot be sent, the pool closed its end, which the next read shows.
  defp say(state, message) do
    ControlSocket.send_message(state.control, message)
    state
  end

  # ---- its end ----------------------------------------------------------------------------------------------------

  # A failure here is reported as a crash of the worker, not of the companion.
  @impl GenServer
  def terminate(:normal, _state), do: :ok
  def terminate(_reason, state), do: report(state, {:exited, {:status, 1}, ""})

  # All that it runs ends before its owner gets the message.
  defp exit_with(state, status) do
    end_lanes(state)
    if state.control, do: ControlSocket.close(state.control)
    report(state, {:exited, status, ""})
    {:stop, :normal, %{state | lanes: []}}
  end

  defp gone(state) do
    end_lanes(state)
    {:stop, :normal, %{state | lanes: []}}
  end

  defp end_lanes(state) do
    pids = Enum.flat_map(state.lanes, &[&1 | runs(&1)])
    monitors = Enum.map(pids, &Process.monitor/1)
    Enum.each(pids, &Process.exit(&1, :kill))

    for monitor <- monitors do
      receive do
        {:DOWN, ^monitor, _, _, _} -> :ok
      end
    end
  end

  # The processes of its functions. A function that traps exits does not die with its lane.
  defp runs(lane) do
    case Process.info(lane, :links) do
      {:links, links} -> for pid <- links, is_pid(pid), pid != self(), do: pid
      nil -> []
    end
  end

  defp report(state, event), do: send(state.owner, {:companion, state.id, event})
end
