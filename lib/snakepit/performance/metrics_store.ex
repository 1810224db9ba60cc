defmodule Snakepit.Performance.MetricsStore do
  @moduledoc """
  What calls took, in tables anybody may read.

  | table | kind | rows |
  |---|---|---|
  | `:performance_metrics` | ordered set | `{{unix_us, pool, n}, %{timestamp:, pool:, metrics: %TransferMetrics{}, explored?:, propensity:}}`: of each pool the latest calls, at most 100 of a second |
  | `:performance_aggregates` | set | `{{pool, seconds, time_bucket}, %{pool:, time_bucket:, count:, sum_latency:, sum_throughput:, p50_latency:, p95_latency:, p99_latency:, …}}`: series of `seconds` 1, `aggregation_interval_seconds` and 3600 |
  | `:ml_models` | set | `{{pool, :lines}, %{model: :lines, version:, crossover:, lines:}}` (nanoseconds, nanoseconds a byte and samples, by direction and way, of bytes), and what transfers usually take, `{{pool, :baselines}, _, _}`; of pools that run |

  A `time_bucket` is Unix seconds, where it begins. Latencies are microseconds. Beside the specification's fields an
  aggregate has `p999_latency`, `failed`, `sum_bytes`, and `histogram`, from which percentiles of several rows together are
  read; `sum_throughput` is megabytes a second over the time transfers took.
  `propensity` is how likely the way was that was chosen for the call's arguments, as exploration draws it.

  Nothing is written on the way of a call: once a second `Snakepit.Performance.Model.Learning` hands over what it drained. The
  tables belong to the application, so that they outlive this process. Rows go by age (seconds after an hour,
  single calls after a day, all others after `metrics_retention_hours`), and the oldest single calls when these take more than
  20 MiB.
  """

  use GenServer
  alias Snakepit.{Performance, Telemetry, Transfer}
  alias Snakepit.Performance.{Model, Regression, ResourceMonitor, Settings, TransferMetrics}
  alias Snakepit.Performance.Model.{Histogram, Row}
  alias Snakepit.Pool.Handle
  require Logger

  @metrics :performance_metrics
  @aggregates :performance_aggregates
  @models :ml_models
  # The key of a counter, which outlives the tables.
  @refused {__MODULE__, :refused}

  @hour 3_600
  # All pools together.
  @most_bytes 20 * 1024 * 1024
  @sweep_ms 10_000

  @doc """
  Makes the tables, which live as long as the process that calls this, and the counter of what was refused. The application
  calls this before any other process of Snakepit runs, so there is no race for either.
  """
  @spec create() :: :ok
  def create do
    for {name, kind} <- [{@metrics, :ordered_set}, {@aggregates, :set}, {@models, :set}],
        :ets.whereis(name) == :undefined do
      :ets.new(name, [kind, :public, :named_table, read_concurrency: true])
    end

    if :persistent_term.get(@refused, nil) == nil, do: :persistent_term.put(@refused, :counters.new(1, []))
    :ok
  end

  @doc "Counts metrics that were refused (`Snakepit.Performance.Analyzer.record_metrics/2`)."
  @spec count_refused() :: :ok
  def count_refused, do: :counters.add(:persistent_term.get(@refused), 1, 1)

  @doc "How many metrics were refused since this VM started."
  @spec refused() :: non_neg_integer()
  def refused, do: :counters.get(:persistent_term.get(@refused), 1)

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "The calls of a pool that were drained just now."
  @spec add(Handle.t(), [Row.t()]) :: :ok
  def add(%Handle{} = handle, rows), do: GenServer.cast(__MODULE__, {:add, handle, rows})

  @doc "One transfer's metrics, that somebody else measured."
  @spec put(TransferMetrics.t()) :: :ok
  def put(%TransferMetrics{} = metrics) do
    insert(metrics, {false, 1.0})
    :ok
  end

  @doc "The usual and the latest times of a pool's transfers."
  @spec baselines(atom()) :: %{Regression.key() => Regression.t()}
  def baselines(pool) do
    case :ets.lookup(@models, {pool, :baselines}) do
      [{_, _cost_model, baselines}] -> baselines
      [] -> %{}
    end
  rescue
    ArgumentError -> %{}
  end

  @doc "The size of the tables in bytes."
  @spec bytes() :: non_neg_integer()
  def bytes, do: [@metrics, @aggregates, @models] |> Enum.map(&bytes/1) |> Enum.sum()

  defp bytes(table), do: :ets.info(table, :memory) * :erlang.system_info(:wordsize)

  @doc "All that was added so far is in the tables when this returns."
  @spec flush() :: :ok
  def flush, do: GenServer.call(__MODULE__, :flush)

  @doc "A pool's aggregates of so many seconds each, oldest first, from and to Unix seconds."
  @spec series(atom(), pos_integer(), {integer(), integer()}) :: [map()]
  def series(pool, seconds, {from, to}) do
    @aggregates
    |> :ets.select([
      {{{pool, seconds, :"$1"}, :"$2"}, [{:>=, :"$1", from}, {:"=<", :"$1", to}], [:"$2"]}
    ])
    |> Enum.sort_by(& &1.time_bucket)
  rescue
    ArgumentError -> []
  end

  @doc "Whether rows of single seconds are still kept for this time (Unix seconds)."
  @spec seconds?(integer(), now :: integer()) :: boolean()
  def seconds?(time, now \\ System.os_time(:second)), do: time >= now - @hour

  @doc "A pool's latest transfers, newest first."
  @spec latest(atom(), pos_integer()) :: [TransferMetrics.t()]
  def latest(pool, count) do
    Stream.unfold(:ets.last(@metrics), fn
      :"$end_of_table" -> nil
      key -> {key, :ets.prev(@metrics, key)}
    end)
    |> Stream.filter(&match?({_, ^pool, _}, &1))
    |> Stream.flat_map(&:ets.lookup(@metrics, &1))
    |> Stream.map(fn {_, %{metrics: metrics}} -> metrics end)
    |> Enum.take(count)
  rescue
    ArgumentError -> []
  end

  @doc "Aggregates, keeps and compares by other settings from now on."
  @spec apply_settings(Settings.t()) :: :ok
  def apply_settings(settings), do: GenServer.cast(__MODULE__, {:settings, settings})

  # ---- the process ------------------------------------------------------------------------------------------------

  @impl true
  def init(opts) do
    create()
    Process.send_after(self(), :sweep, @sweep_ms)
    # buckets: of each pool and width, the cost model and the one that runs.
    {:ok, %{settings: opts[:settings] || Settings.current(), buckets: %{}}}
  end

  @impl true
  def handle_cast({:add, handle, rows}, state) do
    now = System.os_time(:microsecond)
    machine = ResourceMonitor.now()
    for row <- rows, do: row |> metrics(handle, now, machine) |> insert({row.explored, row.propensity})
    if rows != [] and state.settings.regression_detection_enabled, do: compare(rows, handle, state.settings)
    state = aggregate(state, handle, div(now, 1_000_000))
    model(handle)
    {:noreply, state}
  end

  def handle_cast({:settings, settings}, state), do: {:noreply, %{state | settings: settings}}

  @impl true
  def handle_call(:flush, _from, state), do: {:reply, :ok, state}

  @impl true
  def handle_info(:sweep, state) do
    Process.send_after(self(), :sweep, @sweep_ms)
    sweep(state.settings)
    names = MapSet.new(Handle.names())
    forget_stopped(names)
    {:noreply, %{state | buckets: Map.filter(state.buckets, fn {{name, _}, _} -> name in names end)}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp insert(%TransferMetrics{timestamp: timestamp, pool: pool} = metrics, {explored?, propensity}) do
    us = DateTime.to_unix(timestamp, :microsecond)
    row = %{timestamp: us, pool: pool, metrics: metrics, explored?: explored?, propensity: propensity}
    :ets.insert(@metrics, {{us, pool, :erlang.unique_integer([:monotonic])}, row})
  end

  defp microseconds(%Row{ns: ns}), do: max(div(ns, 1000), 1)

  defp metrics(%Row{ns: ns, predicted_ns: predicted} = row, handle, now, machine) do
    %{way: way, data_type: type, size: size} = row
    us = microseconds(row)

    %TransferMetrics{
      transfer_id: Integer.to_string(:erlang.unique_integer([:positive]), 36),
      timestamp: DateTime.from_unix!(now, :microsecond),
      pool: handle.name,
      method: way,
      data_size: size,
      data_type: type,
      format: Performance.format(type),
      compression: false,
      latency_us: us,
      throughput_mbps: size / us,
      memory_used: if(way == :grpc, do: 3, else: 1) * size,
      predicted_latency_us: div(predicted, 1000),
      prediction_error: abs(ns - predicted) / max(ns, 1),
      system_load: machine.cpu,
      available_memory: machine.available_memory
    }
  end

  # ---- regressions ------------------------------------------------------------------------------------------------

  # Kept in the table, so that the baselines outlive this process.
  defp compare(rows, handle, settings) do
    {baselines, changed} =
      rows
      |> Enum.filter(&comparable?/1)
      |> Enum.reduce({baselines_of(handle), MapSet.new()}, fn row, {all, changed} ->
        key = Regression.key(row.direction, row.way, row.data_type, row.size)
        add = &Regression.add(&1, microseconds(row))
        {Map.update(all, key, add.(Regression.new()), add), MapSet.put(changed, key)}
      end)

    judged =
      Enum.reduce(changed, baselines, fn key, all ->
        {verdict, judged} = Regression.judge(all[key], settings.regression_threshold_percent / 100)
        if verdict in [:begins, :ends], do: announce(handle, verdict, Regression.describe(key, judged))
        %{all | key => judged}
      end)

    :ets.insert(@models, {{handle.name, :baselines}, handle.performance.ref, judged})
  end

  # A call that went well, in warm memory, with one direction that says what it costs.
  defp comparable?(%Row{request_bytes: request, reply_bytes: reply} = row),
    do: row.ok and row.warm and 4 * min(request, reply) <= max(max(request, reply), 256)

  # A pool that was started anew may be quite another.
  defp baselines_of(%{name: name, performance: %{ref: ref}}) do
    case :ets.lookup(@models, {name, :baselines}) do
      [{_, ^ref, baselines}] -> baselines
      _ -> %{}
    end
  end

  defp announce(handle, verdict, found) do
    {low, high} = found.data_size

    if verdict == :begins,
      do:
        Logger.info(
          "pool #{inspect(handle.name)}: #{found.direction} of #{low} to #{high} bytes (#{found.data_type}) by #{found.method}: #{found.recent_us} µs, " <>
            "before #{found.baseline_us} µs (#{found.change_percent} % more)"
        )

    measurements = Map.take(found, [:baseline_us, :recent_us, :change_percent])

    metadata =
      Map.merge(
        %{pool: handle.name, state: verdict},
        Map.take(found, [:direction, :method, :data_type, :data_size])
      )

    Telemetry.execute([:snakepit, :performance, :regression], measurements, metadata)
  end

  # ---- series -----------------------------------------------------------------------------------------------------

  defp widths(settings), do: [{0, 1}, {1, settings.aggregation_interval_seconds}, {2, @hour}]

  # A window in the library is cleared when its bucket is over; what it held then is that bucket's last word.
  defp aggregate(state, handle, now) do
    Enum.reduce(widths(state.settings), state, fn {window, seconds}, state ->
      bucket = now - rem(now, seconds)

      running =
        case state.buckets[{handle.name, window}] do
          {cost_model, running} when cost_model == handle.performance.ref -> running
          # A pool that was started anew has a cost model whose windows are empty.
          {_another, _} -> bucket
          # This process was: what the window holds began with the latest bucket.
          nil -> latest_bucket(handle.name, seconds, bucket)
        end

      over? = running != bucket
      put_aggregate(handle, seconds, running, Model.window(handle.performance, window, over?))
      put_in(state.buckets[{handle.name, window}], {handle.performance.ref, bucket})
    end)
  end

  defp latest_bucket(pool, seconds, bucket) do
    case series(pool, seconds, {bucket - seconds, bucket}) do
      [] -> bucket
      series -> List.last(series).time_bucket
    end
  end

  defp put_aggregate(_handle, _seconds, _bucket, {0, _, _, _, _}), do: :ok

  defp put_aggregate(handle, seconds, bucket, {count, failed, ns, bytes, histogram}) do
    [p50, p95, p99, p999] =
      histogram |> Histogram.percentiles([0.5, 0.95, 0.99, 0.999]) |> Enum.map(&div(&1, 1000))

    :ets.insert(
      @aggregates,
      {{handle.name, seconds, bucket},
       %{
         pool: handle.name,
         time_bucket: bucket,
         count: count,
         failed: failed,
         sum_latency: div(ns, 1000),
         sum_throughput: if(ns > 0, do: bytes * 1000 / ns, else: 0.0),
         sum_bytes: bytes,
         p50_latency: p50,
         p95_latency: p95,
         p99_latency: p99,
         p999_latency: p999,
         histogram: histogram
       }}
    )
  end

  # Where the lines cross is worked out only when they are others.
  defp model(handle) do
    %{version: version} = Model.counts(handle.performance)

    unless match?([{_, %{version: ^version}}], :ets.lookup(@models, {handle.name, :lines})) do
      crossover = Map.new([:request, :reply], &{&1, Model.crossover(handle.performance, &1, :binary)})

      :ets.insert(
        @models,
        {{handle.name, :lines},
         %{version: version, crossover: crossover, model: :lines, lines: lines(handle)}}
      )
    end
  end

  defp lines(handle) do
    for direction <- [:request, :reply], way <- Transfer.ways(), into: %{} do
      transfer = %{direction: direction, way: way, type: :binary, size: 1024 * 1024}
      line = Model.line(handle.performance, transfer)
      {{direction, way}, {line.fixed_ns, line.ns_per_byte, line.samples}}
    end
  end

  # ---- retention --------------------------------------------------------------------------------------------------

  @doc false
  @spec sweep(Settings.t(), now :: integer()) :: :ok
  def sweep(settings, now \\ System.os_time(:second)) do
    oldest = now - settings.metrics_retention_hours * @hour
    day = (now - 24 * @hour) * 1_000_000
    :ets.select_delete(@metrics, [{{{:"$1", :_, :_}, :_}, [{:<, :"$1", day}], [true]}])

    :ets.select_delete(@aggregates, [
      {{{:_, 1, :"$1"}, :_}, [{:<, :"$1", now - @hour}], [true]},
      {{{:_, :_, :"$1"}, :_}, [{:<, :"$1", oldest}], [true]}
    ])

    too_many()
  end

  # The rows of pools that are gone.
  defp forget_stopped(names) do
    keys =
      :ets.select(
        @models,
        for(row <- [{{:"$1", :_}, :_}, {{:"$1", :_}, :_, :_}], do: {row, [], [{:element, 1, :"$_"}]})
      )

    for {pool, _what} = key <- keys, pool not in names, do: :ets.delete(@models, key)
  end

  # The oldest go first, some hundreds at a time: the table's size is not known row by row.
  defp too_many do
    if bytes(@metrics) > @most_bytes do
      for _ <- 1..200, :ets.info(@metrics, :size) > 0, do: :ets.delete(@metrics, :ets.first(@metrics))
      if :ets.info(@metrics, :size) > 0, do: too_many()
    end

    :ok
  end
end
