defmodule Snakepit.Performance.Calibration do
  @moduledoc false
  # Measures the ways of a pool on this machine: a command that does nothing, with payloads of a few sizes, in both
  # directions, by each way in turn, on lanes that nobody waits for.

  alias Snakepit.{Machine, Native, Observation, Performance, Stats, Telemetry, Transfer, Worker}
  alias Snakepit.Performance.Probe
  alias Snakepit.Pool.Handle

  @kib 1024
  @mib 1024 * 1024
  # Sizes, and how often each is measured, in this order: on a busy machine the time may not be enough for all, and the
  # small ones are where ways differ least.
  @waves [
    {[4 * @kib, 16 * @kib, 64 * @kib, 256 * @kib], 25},
    {[@mib], 20},
    {[4 * @mib], 8},
    {[16 * @mib], 4}
  ]
  @budget_ms 300
  # How long is waited, in all, for lanes that are busy with calls.
  @patience_ms 10_000
  # As the model has it (brain/line.rs, READY).
  @enough 20

  @type summary :: %{
          probes: non_neg_integer(),
          ready?: boolean(),
          ms: non_neg_integer(),
          base_ns: non_neg_integer(),
          crossover: %{Performance.direction() => tuple() | nil}
        }

  @doc """
  Measures, and anchors the pool's model to what was found. Options: `:budget_ms` of probes' time (#{@budget_ms}); `:ways`,
  by default those of the pool that need nothing to be started (all but gRPC); `:patience_ms`, how long is waited in all
  for lanes that are busy; `:progress`, a function of the share done.
  """
  @spec run(Handle.t(), keyword()) ::
          {:ok, summary()} | {:error, :busy | :nothing_to_compare | Snakepit.Error.t()}
  def run(%Handle{brain: brain} = handle, opts \\ []) when brain != nil do
    ways = opts[:ways] || handle.options.transfers -- [:grpc]
    budget = opts[:budget_ms] || @budget_ms
    progress = opts[:progress] || fn _share -> :ok end

    with [_, _ | _] <- ways,
         {:ok, workers} <- workers(handle),
         pids = for(%{os_pid: pid} <- workers, do: pid),
         state = %{
           handle: handle,
           pids: pids,
           left: budget * 1_000_000,
           patience: opts[:patience_ms] || @patience_ms,
           probes: 0
         },
         {:ok, base, state} <- base(state),
         {:ok, samples, state} <- waves(state, ways, budget, progress) do
      learn(brain, base, samples)

      summary = %{
        probes: state.probes,
        ready?: Enum.all?(samples_of(brain, ways), &(&1 >= @enough)),
        ms: budget - div(state.left, 1_000_000),
        base_ns: base.ns,
        crossover: Map.new([:request, :reply], &{&1, Performance.crossover(handle, &1, :binary)})
      }

      tell(handle, :measured, summary)
      {:ok, summary}
    else
      ways when is_list(ways) -> failed(handle, :nothing_to_compare)
      {:error, reason} -> failed(handle, reason)
    end
  end

  defp failed(handle, reason) do
    tell(handle, reason, %{})
    {:error, reason}
  end

  defp tell(handle, result, summary) do
    metadata = %{pool: handle.name, result: result, crossover: summary[:crossover]}
    measurements = %{probes: summary[:probes] || 0, duration_ms: summary[:ms] || 0}
    Telemetry.execute([:snakepit, :performance, :calibration], measurements, metadata)
  end

  defp samples_of(brain, ways) do
    for direction <- [0, 1], way <- ways do
      {_, _, samples} =
        Native.brain_line(brain, direction, Transfer.number(way), Performance.number(:binary), true)

      samples
    end
  end

  defp workers(handle) do
    case Snakepit.list_workers(handle.name) |> Enum.filter(&(&1.status == :ready)) do
      [] -> {:error, :busy}
      workers -> {:ok, workers}
    end
  end

  # What a call takes that carries nothing.
  defp base(state) do
    with {:ok, samples, state} <- several(state, 40, []) do
      {:ok,
       %{ns: round(Stats.median(Enum.map(samples, & &1.ns))), cpu: Stats.median(Enum.map(samples, & &1.cpu))},
       state}
    end
  end

  defp several(state, 0, samples), do: {:ok, samples, state}

  defp several(state, n, samples) do
    with {:ok, sample, state} <- probe(state, :request, :inline, 0),
         do: several(state, n - 1, [sample | samples])
  end

  # Sizes in turn, ways within a size, so that what the machine does meanwhile meets all of them. The first of a kind
  # makes memory, and says nothing of those to come.
  defp waves(state, ways, budget, progress) do
    # What an arena could hardly hold says nothing of usual times.
    largest = div(Worker.Chunks.quota(state.handle), 4)

    plan =
      for {sizes, rounds} <- @waves,
          round <- 0..rounds,
          size <- sizes,
          size <= largest,
          direction <- [:request, :reply],
          way <- ways,
          do: {round > 0, direction, way, size}

    Enum.reduce_while(plan, {:ok, [], state}, fn {counts?, direction, way, size}, {:ok, samples, state} ->
      progress.(1.0 - max(state.left, 0) / (budget * 1_000_000))

      with true <- state.left > 0,
           {:ok, sample, state} <- probe(state, direction, way, size) do
        {:cont, {:ok, if(counts?, do: [sample | samples], else: samples), state}}
      else
        false -> {:halt, {:ok, samples, state}}
        error -> {:halt, error}
      end
    end)
  end

  defp probe(%{handle: handle} = state, direction, way, size) do
    case Native.desk_counts(handle.desk) do
      {idle, _busy, 0} when idle > 0 ->
        measured(state, direction, way, size)

      _busy when state.patience > 0 ->
        receive do
        after
          10 -> probe(%{state | patience: state.patience - 10}, direction, way, size)
        end

      _busy ->
        {:error, :busy}
    end
  end

  defp measured(state, direction, way, size) do
    # What carries nothing goes as calls do that carry nothing.
    forced = if size > 0, do: way
    before = cpu(state.pids)

    with {:ok, seen} <- Probe.run(state.handle, direction, payload(size), size, forced, timeout: 5_000) do
      ns = Observation.transfer_ns(seen)
      sample = %{direction: direction, way: way, size: size, ns: ns, cpu: cpu(state.pids) - before}
      {:ok, sample, %{state | left: state.left - seen.total_ns, probes: state.probes + 1}}
    end
  end

  # CPU time of both sides: which worker gets a probe is not known before. Other work is in it, so medians are taken.
  defp cpu(workers),
    do: [String.to_integer(System.pid()) | workers] |> Enum.map(&(Native.cpu_time(&1) || 0)) |> Enum.sum()

  # Kept, so that its pages are warm, as those of data are that somebody just made.
  defp payload(0), do: nil

  defp payload(size) do
    with nil <- Process.get({__MODULE__, size}) do
      payload = Probe.payload(:request, :binary, size)
      Process.put({__MODULE__, size}, payload)
      payload
    end
  end

  defp learn(brain, base, samples) do
    kind = Performance.number(:binary)
    samples = Enum.reverse(samples)

    for %{direction: direction, way: way, size: size, ns: ns} <- samples do
      Native.brain_calibrate(
        brain,
        Performance.number(direction),
        Transfer.number(way),
        kind,
        true,
        size,
        ns * 1.0,
        base.ns * 1.0
      )
    end

    for {{direction, way, size}, group} <- Enum.group_by(samples, &{&1.direction, &1.way, &1.size}) do
      cpu = Stats.median(Enum.map(group, & &1.cpu)) - base.cpu / 2
      number = Performance.number(direction)
      Native.brain_calibrate_cpu(brain, number, Transfer.number(way), size, max(cpu * 1.0, 1.0))
    end

    Native.brain_anchor(brain)
    Native.brain_compile(brain)
  end

  # ---- files ------------------------------------------------------------------------------------------------------

  @doc "Where this pool's calibration is kept, and what must be the same for it to be used again."
  @spec file(Handle.t(), Performance.Settings.t()) :: {Path.t(), fingerprint :: binary()}
  def file(handle, settings) do
    dir = settings.calibration_dir || :filename.basedir(:user_cache, "snakepit") |> to_string()
    machine = Machine.describe() |> Map.drop([:date]) |> Enum.sort()
    python = handle.name |> Snakepit.list_workers() |> Enum.find_value(& &1.python)
    o = handle.options
    pool = [python, o.transfers, o.inline_limit, o.chunk_size, o.worker_profile, Enum.sort(o.limits)]
    fingerprint = :crypto.hash(:sha256, :erlang.term_to_binary({1, machine, pool}, minor_version: 2))

    {Path.join(dir, "calibration-#{Base.encode16(binary_part(fingerprint, 0, 8), case: :lower)}"),
     fingerprint}
  end

  @magic "snakepit calibration 1\n"

  @doc "Keeps what the pool's model knows."
  @spec store(Handle.t(), Performance.Settings.t()) :: {:ok, Path.t()} | {:error, File.posix()}
  def store(handle, settings) do
    {path, fingerprint} = file(handle, settings)
    part = "#{path}.#{System.pid()}.#{System.unique_integer([:positive])}"

    # Whole or not at all, whoever else writes it now.
    with :ok <- File.mkdir_p(Path.dirname(path)),
         model = Native.brain_export(handle.brain),
         sum = :crypto.hash(:sha256, [fingerprint, model]),
         :ok <- File.write(part, [@magic, fingerprint, sum, model]),
         :ok <- File.rename(part, path) do
      {:ok, path}
    end
  end

  @doc "Takes over what was kept; another machine's, another version's or a broken file is passed over."
  @spec load(Handle.t(), Performance.Settings.t()) :: :ok | :none
  def load(handle, settings) do
    {path, fingerprint} = file(handle, settings)

    with {:ok, %{size: size}} when size < @mib <- File.stat(path),
         {:ok, <<@magic, ^fingerprint::binary-size(32), sum::binary-size(32), model::binary>>} <-
           File.read(path),
         ^sum <- :crypto.hash(:sha256, [fingerprint, model]),
         true <- Native.brain_import(handle.brain, model) do
      tell(handle, :loaded, %{})
      :ok
    else
      _ -> :none
    end
  end
end
