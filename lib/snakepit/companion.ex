defmodule Snakepit.Companion do
  @moduledoc false
  # Owner of the companion, the port program that starts the workers and outlives them
  # (native/snakepit_companion). No call's bytes pass through it.
  #
  # A process that starts one gets `{:companion, id, event}` messages about it, the last of them
  # `{:exited, status, stderr_tail}`; when that process dies, what it started is killed. If the companion itself dies,
  # so do its workers: once they are gone their owners get a message, and a new companion is opened. If this process dies,
  # nobody is left to send them a message: they monitor it.
  #
  # Only the VM ends the companion and what it started: by its word, or by its own end. Signals that a terminal, a
  # service manager or a shell sends to all processes at once do nothing there.

  use GenServer
  alias Snakepit.{Backoff, Native, Python}
  alias Snakepit.Terminal.Units
  require Logger

  # Less than the callers of `run/3` wait.
  @longest_wait_ms 2_000

  @type id :: pos_integer()
  @type event ::
          {:started, os_pid :: pos_integer()}
          | {:start_failed, String.t()}
          | {:output, :stdout | :stderr, binary()}
          | {:exited, status() | :companion_died, stderr_tail :: binary()}
  @typedoc """
  `:out_of_memory`: the kernel killed it because memory ran out, which is certain where it had a limit of its own, of
  so many bytes.
  """
  @type status :: Snakepit.Native.exit_status()

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc """
  Starts an OS process that belongs to the caller, with `env:`, `unset_env:`, `cwd:` and `limits:`.

  Its environment is the VM's, as it was when the first of them was started and without what only concerns Erlang.
  """
  @spec run(String.t(), [String.t()], keyword()) :: id()
  def run(program, args, opts) do
    GenServer.call(__MODULE__, {:run, program, args, opts})
  end

  @doc "It was asked to end: KILL if it has not after `grace_ms`. The rest of its group is ended after it."
  @spec stop(id(), non_neg_integer()) :: :ok
  def stop(id, grace_ms), do: GenServer.cast(__MODULE__, {:stop, id, grace_ms})

  @doc """
  KILL. The rest of its process group gets TERM, and KILL a moment later: Python's resource trackers, say, first
  remove what it left in /dev/shm. Then it has `:exited`.
  """
  @spec kill(id()) :: :ok
  def kill(id), do: GenServer.cast(__MODULE__, {:kill, id})

  @impl true
  def init(_opts) do
    Process.flag(:trap_exit, true)
    {:ok, %{port: nil, owners: %{}, spoke?: false, backoff: Backoff.new()}}
  end

  # Opened when it is first needed: where all pools are fake (Snakepit.Test), it never is.
  @impl true
  def handle_call(request, from, %{port: nil} = state),
    do: handle_call(request, from, %{state | port: open()})

  def handle_call({:run, program, args, opts}, {owner, _}, state) do
    # Never used twice in this VM: an id of an earlier companion must not stop a process of this one.
    id = System.unique_integer([:positive])
    env = opts[:env] || []
    frame = Native.companion_start(id, program, args, env, opts[:unset_env] || [], opts[:cwd], limits(opts))
    command(state.port, frame)
    owners = Map.put(state.owners, id, {owner, Process.monitor(owner)})
    {:reply, id, %{state | owners: owners}}
  end

  @impl true
  def handle_cast({:stop, id, grace_ms}, state) do
    if is_map_key(state.owners, id), do: command(state.port, Native.companion_stop(id, grace_ms))
    {:noreply, state}
  end

  def handle_cast({:kill, id}, state) do
    if is_map_key(state.owners, id), do: command(state.port, Native.companion_kill(id))
    {:noreply, state}
  end

  @impl true
  def handle_info({port, {:data, frame}}, %{port: port} = state) do
    {:noreply, frame |> Native.companion_event() |> event(%{state | spoke?: true})}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    Logger.error(
      "Snakepit's companion exited with status #{status}; its workers are gone and are started again"
    )

    {:noreply, reopen(state)}
  end

  def handle_info({:EXIT, port, reason}, %{port: port} = state) do
    Logger.error("Snakepit's companion is gone (#{inspect(reason)}); its workers are started again")
    {:noreply, reopen(state)}
  end

  def handle_info({:DOWN, _ref, :process, owner, _reason}, state) do
    for {id, {^owner, _}} <- state.owners, do: command(state.port, Native.companion_kill(id))
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp limits(opts),
    do: Map.merge(%{memory: nil, open_files: nil, nice: nil, cpus: nil}, Map.new(opts[:limits] || []))

  # Cleaned here, not per process: nothing the companion starts, nor the companion itself, ever sees the VM's secrets.
  defp open do
    path = Path.join(:code.priv_dir(:snakepit), "native/snakepit_companion")
    unset = for name <- Python.not_for_workers(System.get_env()), do: {String.to_charlist(name), false}
    Port.open({:spawn_executable, path}, [:binary, :exit_status, packet: 4, env: unset])
  end

  # The workers are gone: their memory may be used again. Its end is not reported to the port before nobody has its pipe,
  # which the companion's two processes, whichever was killed, hold until all is dead.
  defp reopen(state) do
    for {id, {owner, ref}} <- state.owners do
      Process.demonitor(ref, [:flush])
      send(owner, {:companion, id, {:exited, :companion_died, ""}})
    end

    # One that ends before it ever spoke is not opened in a loop; who wants to start a worker waits meanwhile.
    {wait, backoff} =
      if state.spoke?,
        do: {0, Backoff.new()},
        else: Backoff.next(state.backoff, 0, :rand.uniform())

    receive do
    after
      min(wait, @longest_wait_ms) -> %{state | port: open(), owners: %{}, spoke?: false, backoff: backoff}
    end
  end

  defp event({:output, id, stream, line, _truncated}, state), do: forward(state, id, {:output, stream, line})
  defp event({:started, id, pid}, state), do: forward(state, id, {:started, pid})

  defp event({:start_failed, id, reason}, state),
    do: state |> forward(id, {:start_failed, reason}) |> forget(id)

  defp event({:exited, id, status, tail}, state),
    do: state |> forward(id, {:exited, status, tail}) |> forget(id)

  defp event({:dropped, id, lines}, state),
    do:
      forward(
        state,
        id,
        {:output, :stderr, "(#{Units.counted(lines, "line of output was", "lines of output were")} dropped)"}
      )

  defp event({:bad_frame, reason}, state) do
    Logger.error("Snakepit's companion and the VM do not understand each other: #{reason}")
    state
  end

  defp forward(state, id, event) do
    with %{^id => {owner, _}} <- state.owners, do: send(owner, {:companion, id, event})
    state
  end

  defp forget(state, id) do
    {entry, owners} = Map.pop(state.owners, id)
    with {_, ref} <- entry, do: Process.demonitor(ref, [:flush])
    %{state | owners: owners}
  end

  defp command(port, frame) do
    Port.command(port, frame)
  rescue
    # The port closed a moment ago; its exit message is on the way and deals with everything.
    ArgumentError -> false
  end
end
