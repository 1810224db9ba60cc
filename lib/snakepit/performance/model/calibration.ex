defmodule Snakepit.Performance.Model.Calibration do
  @moduledoc false
  # Measures the ways of a pool on this machine: a command that does nothing, with payloads of a few sizes, in both
  # directions, by each way in turn, on lanes that nobody waits for; and shared memory that has to be made first.

  alias Snakepit.{Native, Observation, Performance, Pool, Stats, Telemetry, Transfer, Worker}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.Probe
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
  # Fresh memory, which is dearer, is measured after the waves, up to so many bytes.
  @cold_rounds 3
  @cold_after 4 * @mib
  @base_rounds 40
  # A calibration that was kept is tried at these sizes, and may be so far off.
  @looks [{[64 * @kib, @mib], 5}]
  @off 2.0
  @budget_ms 300
  # How long is waited, in all, for lanes that are busy with calls.
  @max_wait_ms 10_000

  @type summary :: %{
          probes: non_neg_integer(),
          ready?: boolean(),
          ms: non_neg_integer(),
          base_ns: non_neg_integer(),
          crossover: %{Performance.direction() => tuple() | nil}
        }

  @doc """
  Measures, and anchors the pool's model to what was found. Options: `:budget_ms` of probes' time (#{@budget_ms}); `:ways`,
  by default `ways/1` of the pool; `:max_wait_ms`, how long is waited in all
  for lanes that are busy; `:progress`, a function of the share done.
  """
  @spec run(Handle.t(), keyword()) ::
          {:ok, summary()} | {:error, :busy | :nothing_to_compare | Snakepit.Error.t()}
  def run(%Handle{performance: %Model{} = model} = handle, opts \\ []) do
    ways = opts[:ways] || ways(handle.options.transfers)

    with [_, _ | _] <- ways,
         {:ok, state} <- state(handle, opts),
         # Whatever it takes: nothing is known without it.
         {:ok, state} <- measure(state, base_plan(), fn _state -> true end),
         base = base(state.samples),
         {:ok, state} <- measure(state, plan(handle, ways), &(&1.left > 0)) do
      learn(model, base, Enum.reverse(state.samples))

      summary = %{
        probes: length(state.samples),
        ready?: ready?(model, ways),
        ms: div(state.budget - state.left, 1_000_000),
        base_ns: base.ns,
        crossover: Map.new([:request, :reply], &{&1, Model.crossover(handle.performance, &1, :binary)})
      }

      emit(handle, :measured, summary)
      {:ok, summary}
    else
      ways when is_list(ways) -> failed(handle, :nothing_to_compare)
      {:error, reason} -> failed(handle, reason)
    end
  end

  @doc """
  Whether some probes take about what the pool's model says, which was read from a file: on a machine that was busy when
  it was measured, or that is another one by now, it would mislead from the start. True if nobody can tell now.
  """
  @spec holds?(Handle.t()) :: boolean()
  def holds?(%Handle{performance: %Model{} = model} = handle) do
    ways = ways(handle.options.transfers)

    with {:ok, state} <- state(handle, max_wait_ms: 0),
         {:ok, %{samples: samples}} <-
           measure(state, fitting(handle, warm(@looks, ways)), fn _state -> true end) do
      agree?(samples, &Model.predict(model, Map.put(&1, :type, :binary)))
    else
      {:error, _busy} -> true
    end
  end

  @doc """
  The model that was read from a file is kept if it `holds?/1`, with this result of the calibration, and forgotten else.
  """
  @spec checked(Handle.t(), result :: atom()) :: :ok | :none
  def checked(%Handle{performance: model} = handle, result) do
    if holds?(handle) do
      emit(handle, result, %{})
    else
      emit(handle, :outdated, %{})
      Model.forget(model)
      :none
    end
  end

  @doc """
  Whether predictions agree with probes. A prediction disagrees if it is more than #{round(@off)} times shorter than the
  shortest probe of its kind, or more than #{round(@off)} times longer than the longest. The longest but one counts as the
  longest where there are three or more, because a single probe may be stopped for any time.
  """
  @spec agree?([map()], (map() -> float())) :: boolean()
  def agree?(samples, predict) do
    samples
    |> Enum.group_by(&Map.take(&1, [:direction, :way, :size]), & &1.ns)
    |> Enum.all?(fn {probe, ns} ->
      [shortest | _] = sorted = Enum.sort(ns)
      longest = Enum.at(sorted, if(length(sorted) > 2, do: -2, else: -1))
      predicted = predict.(probe)
      predicted >= shortest / @off and predicted <= longest * @off
    end)
  end

  @doc "Those of a pool's ways that are measured by themselves: gRPC, which has to be started, only where a pool has no other."
  @spec ways([Transfer.way()]) :: [Transfer.way()]
  def ways(transfers), do: if(:inline in transfers, do: transfers -- [:grpc], else: transfers)

  defp state(handle, opts) do
    budget = (opts[:budget_ms] || @budget_ms) * 1_000_000

    with {:ok, workers} <- workers(handle) do
      {:ok,
       %{
         handle: handle,
         pids: for(%{os_pid: pid} <- workers, do: pid),
         budget: budget,
         left: budget,
         max_wait: opts[:max_wait_ms] || @max_wait_ms,
         progress: opts[:progress] || fn _share -> :ok end,
         samples: []
       }}
    end
  end

  defp failed(handle, reason) do
    emit(handle, reason, %{})
    {:error, reason}
  end

  @doc "Tells that a pool was calibrated, or why not."
  @spec emit(Handle.t(), result :: term(), summary() | %{}) :: :ok
  def emit(handle, result, summary) do
    metadata = %{pool: handle.name, result: result, crossover: summary[:crossover]}
    measurements = %{probes: summary[:probes] || 0, duration_ms: summary[:ms] || 0}
    Telemetry.execute([:snakepit, :performance, :calibration], measurements, metadata)
  end

  defp ready?(model, ways) do
    lines =
      for direction <- [:request, :reply],
          way <- ways,
          do: Model.line(model, %{direction: direction, way: way, type: :binary, size: 64 * @kib})

    Enum.all?(lines, & &1.ready)
  end

  defp workers(handle) do
    case handle.name |> Snakepit.Pool.Supervisor.described() |> Enum.filter(&(&1.status == :ready)) do
      [] -> {:error, :busy}
      workers -> {:ok, workers}
    end
  end

  # ---- what is measured -------------------------------------------------------------------------------------------

  # A plan is a list of {counts?, direction, way, size, warm?}.
  defp base_plan, do: for(n <- 0..@base_rounds, do: {n > 0, :request, :inline, 0, true})

  # Ways in turn, so that what the machine does meanwhile meets all of them. The first of a kind makes memory, and says
  # nothing of those to come.
  defp plan(handle, ways) do
    {before, later} = Enum.split_with(@waves, fn {sizes, _} -> hd(sizes) <= @cold_after end)
    cold = if :zero_copy in ways, do: cold(handle.options.chunk_size), else: []
    fitting(handle, warm(before, ways) ++ cold ++ warm(later, ways))
  end

  # Times of a size that the arena can hardly hold are not the usual ones.
  defp fitting(handle, probes) do
    largest = div(Worker.Chunks.quota(handle), 4)
    for {_, _, _, size, _} = probe <- probes, size <= largest, do: probe
  end

  defp warm(waves, ways) do
    for {sizes, rounds} <- waves,
        size <- sizes,
        direction <- [:request, :reply],
        round <- 0..rounds,
        way <- ways,
        do: {round > 0, direction, way, size, true}
  end

  # A small size makes a whole chunk, a large one a chunk of its own size. Results never wait for fresh memory: a worker
  # that has none at hand takes another way.
  defp cold(chunk) do
    for _ <- 1..@cold_rounds,
        size <- [max(div(chunk, 16), 4 * @kib), chunk, 2 * chunk],
        do: {true, :request, :zero_copy, size, false}
  end

  defp measure(state, plan, go_on?) do
    Enum.reduce_while(plan, {:ok, state}, fn probe, {:ok, state} ->
      state.progress.(1.0 - max(state.left, 0) / state.budget)

      with true <- go_on?.(state),
           {:ok, state} <- probe(state, probe) do
        {:cont, {:ok, state}}
      else
        false -> {:halt, {:ok, state}}
        error -> {:halt, error}
      end
    end)
  end

  defp probe(%{handle: handle} = state, probe) do
    case Native.queue_counts(handle.queue) do
      {idle, _busy, 0} when idle > 0 ->
        measured(state, probe)

      _busy when state.max_wait > 0 ->
        receive do
        after
          10 -> probe(%{state | max_wait: state.max_wait - 10}, probe)
        end

      _busy ->
        {:error, :busy}
    end
  end

  defp measured(state, {counts?, direction, way, size, warm?}) do
    # A probe without data goes as calls without data do.
    forced = if size > 0, do: way
    unless warm?, do: Pool.Arena.drop_idle(state.handle)
    # The result of the probe before must not keep the memory that this one may need.
    :erlang.garbage_collect()
    before = cpu(state.pids)

    with {:ok, seen} <- Probe.run(state.handle, direction, payload(size), size, forced, timeout: 5_000) do
      # A worker that has no memory at hand takes another way than it was asked for.
      taken = if direction == :request, do: seen.request_way, else: seen.reply_way

      sample = %{
        direction: direction,
        way: if(forced, do: taken, else: way),
        size: size,
        warm: not seen.cold,
        ns: Observation.transfer_ns(seen),
        cpu: cpu(state.pids) - before
      }

      # Warm or cold as it was meant; others may have taken what was at hand.
      counts? = counts? and warm? == sample.warm

      {:ok,
       %{
         state
         | left: state.left - seen.total_ns,
           samples: if(counts?, do: [sample | state.samples], else: state.samples)
       }}
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

  # ---- what is learned from it ------------------------------------------------------------------------------------

  # The time of a call that carries nothing.
  defp base(samples),
    do: %{
      ns: samples |> Enum.map(& &1.ns) |> Stats.median() |> round(),
      cpu: samples |> Enum.map(& &1.cpu) |> Stats.median()
    }

  defp learn(model, base, samples) do
    {empty, samples} = Enum.split_with(samples, &(&1.size == 0))
    for %{ns: ns} <- empty, do: Model.calibrate_empty(model, ns, base.ns)
    for sample <- samples, do: Model.calibrate(model, Map.put(sample, :type, :binary), sample.ns, base.ns)
    warm = Enum.filter(samples, & &1.warm)

    for {transfer, group} <- Enum.group_by(warm, &Map.take(&1, [:direction, :way, :size])) do
      cpu = Stats.median(Enum.map(group, & &1.cpu)) - base.cpu / 2
      Model.calibrate_cpu(model, transfer, max(cpu, 1))
    end

    Model.anchor(model)
    Model.compile(model)
  end
end
