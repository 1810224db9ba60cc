defmodule Snakepit.Performance.ResourceMonitor do
  @moduledoc """
  What the machine has left, sampled ten times a second, for whoever asks: a reader takes it from atomics and waits for
  nobody.

  Memory pressure begins when more than `memory_pressure_threshold` of the memory is used (of the cgroup's limit if there is
  one), CPU pressure when the cores are busy for more than `cpu_pressure_threshold`. Every pool's cost model is logged at once:
  under CPU pressure it favours the way that burns less CPU, under memory pressure the one that holds less. Under memory
  pressure idle shared memory is given back, too, by the pools and by their workers.
  """

  use GenServer
  alias Snakepit.{Machine, Native, Pool, Worker}
  alias Snakepit.Performance.{Model, Settings}
  alias Snakepit.Performance.Model.Pressure
  alias Snakepit.Pool.Handle
  require Logger

  @tick_ms 100
  # Reading a process's Pss takes the kernel a while.
  @pss_ticks 50
  @fields [
    :memory_used,
    :available_memory,
    :cpu,
    :memory_psi,
    :cpu_psi,
    :run_queue,
    :worker_pss,
    :arena_bytes,
    :pressure
  ]
  @index @fields |> Enum.with_index(1) |> Map.new()
  @key __MODULE__
  # A shortage of less than ten seconds, as at every start, is not logged.
  @lasting_ticks 100
  # Shares are kept in millionths; what could not be read, as this.
  @unknown -1

  @typedoc """
  Shares in 0..1 (`memory_used`, `cpu`), percent of the last ten seconds that somebody waited (`*_psi`, the kernel's pressure
  stall information), bytes, and numbers; `nil` for what cannot be read here. `worker_pss` is of all workers, `arena_bytes` of
  all pools' memory for arguments; both are up to five seconds old.
  """
  @type t :: %{
          memory_used: float() | nil,
          available_memory: non_neg_integer() | nil,
          cpu: float() | nil,
          memory_psi: float() | nil,
          cpu_psi: float() | nil,
          run_queue: non_neg_integer() | nil,
          worker_pss: non_neg_integer() | nil,
          arena_bytes: non_neg_integer() | nil,
          memory_pressure?: boolean(),
          cpu_pressure?: boolean()
        }

  @doc "The latest sample."
  @spec now() :: t()
  def now do
    case :persistent_term.get(@key, nil) do
      nil ->
        Map.merge(Map.new(@fields -- [:pressure], &{&1, nil}), %{
          memory_pressure?: false,
          cpu_pressure?: false
        })

      ref ->
        read(ref)
    end
  end

  defp read(ref) do
    get = fn field -> with @unknown <- :atomics.get(ref, @index[field]), do: nil end
    share = fn field -> with n when is_integer(n) <- get.(field), do: n / 1_000_000 end
    bits = get.(:pressure) || 0

    %{
      memory_used: share.(:memory_used),
      available_memory: get.(:available_memory),
      cpu: share.(:cpu),
      memory_psi: share.(:memory_psi),
      cpu_psi: share.(:cpu_psi),
      run_queue: get.(:run_queue),
      worker_pss: get.(:worker_pss),
      arena_bytes: get.(:arena_bytes),
      memory_pressure?: memory?(bits),
      cpu_pressure?: cpu?(bits)
    }
  end

  @doc false
  # For tests: `sample:`, a function of the state's last CPU times; `act:`, a function of bits; `publish: false`.
  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts \\ []) do
    GenServer.start_link(__MODULE__, opts, if(opts[:publish] == false, do: [], else: [name: __MODULE__]))
  end

  @impl true
  def init(opts) do
    settings = opts[:settings] || Settings.current()
    ref = :atomics.new(length(@fields), signed: true)
    for i <- 1..length(@fields), do: :atomics.put(ref, i, @unknown)
    # Readers of the last one's atomics go on reading them until the next look.
    unless opts[:publish] == false, do: :persistent_term.put(@key, ref)

    state = %{
      ref: ref,
      pressure: Pressure.new(settings.memory_pressure_threshold, settings.cpu_pressure_threshold),
      bits: nil,
      # since: the tick at which the bits became what they are; logged: what the log says is scarce.
      since: 0,
      logged: 0,
      cpu_times: nil,
      ticks: 0,
      sample: opts[:sample] || (&sample/1),
      act: opts[:act] || (&act/1)
    }

    {:ok, tick(state)}
  end

  @doc "Goes by other thresholds from now on."
  @spec apply_settings(Settings.t()) :: :ok
  def apply_settings(settings), do: GenServer.cast(__MODULE__, {:settings, settings})

  @impl true
  def handle_cast({:settings, settings}, state) do
    thresholds = %{
      memory_threshold: settings.memory_pressure_threshold,
      cpu_threshold: settings.cpu_pressure_threshold
    }

    {:noreply, %{state | pressure: struct!(state.pressure, thresholds)}}
  end

  @impl true
  def handle_info(:tick, state), do: {:noreply, tick(state)}
  def handle_info(_other, state), do: {:noreply, state}

  defp tick(state) do
    Process.send_after(self(), :tick, @tick_ms)
    seen = state.sample.(state.cpu_times)
    pressure = Pressure.update(state.pressure, seen.memory_used, seen.cpu)
    bits = Pressure.bits(pressure)
    put(state.ref, :memory_used, millionths(seen.memory_used))
    put(state.ref, :available_memory, seen.available_memory)
    put(state.ref, :cpu, millionths(pressure.cpu))
    put(state.ref, :memory_psi, millionths(seen.memory_psi))
    put(state.ref, :cpu_psi, millionths(seen.cpu_psi))
    put(state.ref, :run_queue, seen.run_queue)
    put(state.ref, :pressure, bits)
    if rem(state.ticks, @pss_ticks) == 0, do: slow(state.ref)
    # Again and again while it lasts: there may be pools that were not there before.
    if bits != state.bits or (bits != 0 and rem(state.ticks, 10) == 0), do: state.act.(bits)
    since = if bits == state.bits, do: state.since, else: state.ticks
    logged = if state.ticks - since >= @lasting_ticks, do: log(state.logged, bits), else: state.logged

    %{
      state
      | pressure: pressure,
        bits: bits,
        since: since,
        logged: logged,
        cpu_times: seen.cpu_times,
        ticks: state.ticks + 1
    }
  end

  defp put(ref, field, value), do: :atomics.put(ref, @index[field], value || @unknown)
  defp millionths(nil), do: nil
  defp millionths(share), do: round(share * 1_000_000)

  # ---- samples ----------------------------------------------------------------------------------------------------

  defp sample(before) do
    {used, available} = Machine.memory_use() || {nil, nil}
    times = Machine.cpu_times()

    %{
      memory_used: used,
      available_memory: available,
      cpu: busy(before, times),
      cpu_times: times,
      memory_psi: Machine.stalled("memory"),
      cpu_psi: Machine.stalled("cpu"),
      run_queue: :erlang.statistics(:total_run_queue_lengths)
    }
  end

  defp busy({busy0, all0}, {busy1, all1}) when all1 > all0, do: (busy1 - busy0) / (all1 - all0)
  defp busy(_before, _now), do: nil

  # Beside the tick: the kernel may take milliseconds for each process.
  defp slow(ref) do
    Task.Supervisor.start_child(Snakepit.Performance.Tasks, fn ->
      pids =
        for pool <- Handle.names(),
            %{os_pid: pid} <- Pool.Supervisor.described(pool),
            is_integer(pid),
            do: pid

      put(ref, :worker_pss, pids |> Enum.map(&(Machine.pss(&1) || 0)) |> Enum.sum())

      held =
        for name <- Handle.names(),
            {:ok, handle} <- [Handle.fetch(name)],
            do: Native.arena_usage(handle.arena).held_bytes

      put(ref, :arena_bytes, Enum.sum(held))
    end)
  catch
    :exit, _stopping -> :ok
  end

  # ---- what is done about it --------------------------------------------------------------------------------------

  defp act(bits) do
    scarce? = memory?(bits)

    for name <- Handle.names(), {:ok, handle} <- [Handle.fetch(name)] do
      Pool.Arena.scarce(handle, scarce?)
      idle_ms = if scarce?, do: 0, else: handle.options.idle_chunk_ms
      for worker <- Pool.workers_of(handle), do: Worker.idle_ms(worker, idle_ms)

      if Model.enabled?(handle.performance) and Model.set_load(handle.performance, cpu?(bits), memory?(bits)),
        do: Pool.Events.emit({:load_changed, name})
    end
  end

  defp cpu?(bits), do: Bitwise.band(bits, 1) != 0
  defp memory?(bits), do: Bitwise.band(bits, 2) != 0

  defp log(bits, bits), do: bits

  defp log(_before, bits) do
    words =
      if bits == 0, do: "nothing is scarce any more", else: "scarce: #{Enum.join(scarce(bits), " and ")}"

    Logger.debug("snakepit: #{words}")
    bits
  end

  defp scarce(bits), do: for({true, name} <- [{cpu?(bits), "CPU"}, {memory?(bits), "memory"}], do: name)
end
