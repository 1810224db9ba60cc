defmodule Snakepit.Pool.Arena do
  @moduledoc false
  # Tends a pool's shared memory: prepares chunks before they are needed, gives idle ones back, announces that to the workers, and
  # asks processes that hold much of it to collect. Allocation itself is in the library and passes by this process.

  use GenServer
  alias Snakepit.{Breaker, Error, Native}
  alias Snakepit.Pool.Handle
  require Logger

  @tend_ms 500
  @collect_ms 100

  @spec start_link(atom()) :: GenServer.on_start()
  def start_link(pool), do: GenServer.start_link(__MODULE__, pool, name: Handle.name(:arena, pool))

  @doc """
  Prepares memory for buffers of these lengths, for the next call: this one went another way. Whether that worked is recorded
  in the breaker of shared memory, whose `probe` the call may have had.
  """
  @spec warm(Handle.t(), [non_neg_integer()], Breaker.probe() | nil) :: :ok
  def warm(%Handle{arena_maintenance: maintenance}, lengths, probe),
    do: GenServer.cast(maintenance, {:warm, lengths, probe})

  @doc "Memory is scarce, or no longer: while it is, idle chunks are given back at once, and none is made ahead."
  @spec scarce(Handle.t(), boolean()) :: :ok
  def scarce(%Handle{arena_maintenance: maintenance}, scarce?),
    do: GenServer.cast(maintenance, {:scarce, scarce?})

  @doc "Gives idle chunks back now, so that the next call finds none: to measure what fresh memory costs."
  @spec drop_idle(Handle.t()) :: :ok
  def drop_idle(%Handle{arena_maintenance: maintenance}), do: GenServer.call(maintenance, :drop_idle)

  @doc "A worker had no room for a reply: whoever holds most is made to collect."
  @spec starved(Handle.t()) :: :ok
  def starved(%Handle{arena_maintenance: maintenance}), do: GenServer.cast(maintenance, :starved)

  @doc "The same bytes, living in the pool's arena. The caller pays for memory that is not there yet."
  @spec share(Handle.t(), binary()) :: {:ok, binary()} | {:error, Error.t()}
  def share(%Handle{} = handle, data) do
    with {:error, why} <- Native.arena_share(handle.arena, data),
         do: {:error, no_room(handle, byte_size(data), why)}
  end

  @doc "The error of a call that must have `bytes` of the pool's memory, and why it cannot."
  @spec no_room(Handle.t(), non_neg_integer(), term()) :: Error.t()
  def no_room(%Handle{name: name}, bytes, {:quota, held, half}) do
    words =
      if bytes > half,
        do: "#{bytes} bytes are more than pool #{inspect(name)} may hold for arguments, #{half}",
        else:
          "no shared memory for #{bytes} B: #{held} of the #{half} that pool #{inspect(name)} may hold for arguments are held"

    Error.new(:transfer, :quota, words <> " (half of its :memory_quota)", pool: name)
  end

  def no_room(%Handle{name: name}, bytes, why) do
    words = "no shared memory for #{bytes} B: #{no_room_words(why)}"
    Error.new(:transfer, :no_memory, words, pool: name)
  end

  defp no_room_words(:taken), do: "other calls took it as fast as it was made"
  defp no_room_words(:closed), do: "the pool was stopped"
  defp no_room_words(:too_large), do: "no chunk is that large"
  defp no_room_words({:errno, what}), do: what
  defp no_room_words(other), do: inspect(other)

  @impl true
  def init(pool) do
    handle = Handle.fetch!(pool)
    Process.send_after(self(), :tend, @tend_ms)
    # logged: why the system refused memory, for each cause that was logged.
    state = %{handle: handle, collected: nil, scarce?: false, logged: MapSet.new()}
    if :zero_copy in handle.options.transfers, do: {:ok, state, {:continue, :first}}, else: {:ok, state}
  end

  @impl true
  def handle_continue(:first, state) do
    {:noreply, announce(state, Native.arena_ensure(state.handle.arena, [1]))}
  end

  @impl true
  def handle_call(:drop_idle, _from, state) do
    Native.arena_tend(state.handle.arena, 0)
    for pid <- workers(state), do: send(pid, :tend)
    {:reply, :ok, state}
  end

  @impl true
  def handle_cast({:warm, lengths, probe}, state) do
    # Where several callers asked for the same, the first one's chunk serves the others.
    made = Native.arena_ensure(state.handle.arena, lengths)
    Breaker.record(state.handle.breaker, :zero_copy, made(made, lengths), probe)
    {:noreply, announce(state, made)}
  end

  def handle_cast({:scarce, scarce?}, %{scarce?: scarce?} = state), do: {:noreply, state}
  def handle_cast({:scarce, scarce?}, state), do: {:noreply, tend(%{state | scarce?: scarce?})}

  def handle_cast(:starved, state) do
    now = System.monotonic_time(:millisecond)

    if state.collected == nil or now - state.collected >= @collect_ms do
      if pid = holder(Native.arena_leases(state.handle.arena)),
        do: :erlang.garbage_collect(pid, type: :major, async: make_ref())

      {:noreply, %{state | collected: now}}
    else
      {:noreply, state}
    end
  end

  @impl true
  def handle_info(:tend, state) do
    Process.send_after(self(), :tend, @tend_ms)
    {:noreply, tend(state)}
  end

  # The answer of a collection asked for above.
  def handle_info({:garbage_collect, _ref, _result}, state), do: {:noreply, state}
  def handle_info(_other, state), do: {:noreply, state}

  defp tend(%{handle: handle} = state) do
    idle_ms = if state.scarce?, do: 0, else: handle.options.idle_chunk_ms
    spare? = Native.arena_tend(handle.arena, idle_ms)

    state =
      if spare? and not state.scarce?,
        do: announce(state, Native.arena_grow(handle.arena)),
        else: state

    for pid <- workers(state), do: send(pid, :tend)
    state
  end

  defp made({:ok, _ids}, _lengths), do: :ok
  # A size that can never have room says nothing of the others.
  defp made({:error, {:quota, _held, quota}}, lengths),
    do: if(Enum.sum(lengths) > quota, do: :void, else: :failure)

  defp made({:error, {:errno, _what}}, _lengths), do: :failure
  defp made({:error, why}, _lengths) when why in [:too_large, :closed], do: :void

  # A lease is counted for the process that called. One that is dead (a task) passed its results on, and who has them
  # now is not known. Only where no living one holds any: whoever refers to most bytes of any binaries.
  defp holder([]), do: nil

  defp holder(leases) do
    case Enum.find(leases, fn {pid, _bytes} -> Process.alive?(pid) end) do
      {pid, _bytes} -> pid
      nil -> Enum.max_by(Process.list(), &binary_bytes/1)
    end
  end

  defp binary_bytes(pid) do
    case Process.info(pid, :binary) do
      {:binary, binaries} -> for {_, bytes, _} <- binaries, reduce: 0, do: (sum -> sum + bytes)
      nil -> 0
    end
  end

  defp announce(state, {:ok, ids}) do
    for pid <- workers(state), do: Snakepit.Worker.announce(pid, ids)
    state
  end

  # The system refuses: calls go another way, and each cause is logged once.
  defp announce(state, {:error, {:errno, why}}) do
    unless why in state.logged do
      pool = inspect(state.handle.name)
      Logger.warning("pool #{pool}: no shared memory can be made, calls go another way: #{why}")
    end

    %{state | logged: MapSet.put(state.logged, why)}
  end

  # No room within the quota.
  defp announce(state, {:error, _refused}), do: state

  defp workers(state), do: Snakepit.Pool.Workers.all(state.handle.name)
end
