defmodule Snakepit.Performance.Model.Learning do
  @moduledoc false
  # Tends the pools' cost models: has each calibrated once, lets it learn from the calls of the last second, has ways probed
  # that they did not take, compiles its table, and sends it to the workers. Calls do not wait for this process, and go on
  # without it. The models keep what was learned.

  use GenServer
  alias Snakepit.{Pool, Worker}
  alias Snakepit.Performance.{MetricsStore, Model, ResourceMonitor}
  alias Snakepit.Performance.Model.{Calibration, Prober, Probing, Saved}
  alias Snakepit.Pool.{Events, Handle}
  require Logger

  @tick_ms 1_000
  # Calls that are learned from before the table is made anew.
  @worth_compiling 20
  # So many of a pool's latest calls are kept one by one.
  @most_rows 100
  # How often what a pool learned is kept for its next run, besides at its end.
  @save_ms 300_000

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "Waits until the pool is calibrated, or cannot be."
  @spec await_calibrated(atom(), timeout()) :: :ok
  def await_calibrated(pool, timeout \\ 30_000), do: GenServer.call(__MODULE__, {:await, pool}, timeout)

  @doc "Learns from all calls that were recorded, now; what they took is in the tables of `MetricsStore` then."
  @spec learn_now(atom()) :: :ok
  def learn_now(pool) do
    GenServer.call(__MODULE__, {:learn, pool})
    MetricsStore.flush()
  catch
    # One of them has just died; the next second makes up for it.
    :exit, _ -> :ok
  end

  @doc "Forgets what the pool learned, also what is kept of it, and has it calibrated anew."
  @spec clear(atom()) :: :ok | {:error, :calibrating | :stopped}
  def clear(pool) do
    GenServer.call(__MODULE__, {:clear, pool})
  catch
    :exit, _ -> {:error, :stopped}
  end

  @doc "Costs have moved: the ways that calls do not take are probed at once, more than usual."
  @spec alarm(atom()) :: :ok
  def alarm(pool), do: GenServer.cast(__MODULE__, {:alarm, pool})

  @doc "The pool's table is another by now: its workers are sent theirs."
  @spec publish(atom()) :: :ok
  def publish(pool), do: GenServer.cast(__MODULE__, {:publish, pool})

  @impl true
  def init(_opts) do
    # Before the pools are listed, so that none is missed.
    :ok = Events.subscribe()
    Process.send_after(self(), :tick, @tick_ms)

    # So that what was learned is kept when the VM stops.
    Process.flag(:trap_exit, true)

    # By pool: its handle, who calibrates it, who waits for that, what was learned since the table was made, the calls of the
    # last second, who probes it, what probes may cost, and since when that was not reckoned; where what it learned is kept,
    # which version of it was, and when.
    {:ok, Enum.reduce(Handle.names(), %{pools: %{}}, &watched(&2, &1))}
  end

  @impl true
  def handle_cast({:publish, name}, state) do
    with {:ok, handle} <- Handle.fetch(name),
         true <- Model.enabled?(handle.performance),
         do: send_tables(handle)

    {:noreply, state}
  end

  def handle_cast({:alarm, name}, state) do
    {_count, ns} = Probing.limits(:alarm)
    {:noreply, update(state, name, &%{&1 | saved: ns, probing: :alarm})}
  end

  @impl true
  def handle_call({:await, name}, from, state) do
    case state.pools do
      %{^name => %{task: task} = pool} when task != nil ->
        {:noreply, put_in(state.pools[name], %{pool | waiting: [from | pool.waiting]})}

      _ ->
        {:reply, :ok, state}
    end
  end

  def handle_call({:learn, name}, _from, state) do
    {:reply, :ok, update(state, name, &learn(&1, 1))}
  end

  def handle_call({:clear, name}, _from, state) do
    case update(state, name, & &1).pools do
      %{^name => %{task: task}} when task != nil -> {:reply, {:error, :calibrating}, state}
      %{^name => pool} -> {:reply, :ok, put_in(state.pools[name], cleared(pool))}
      _ -> {:reply, {:error, :stopped}, state}
    end
  end

  @impl true
  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick_ms)

    {:noreply,
     Enum.reduce(Map.keys(state.pools), state, fn name, state ->
       update(state, name, &(&1 |> learn(@worth_compiling) |> probe() |> save_in_time()))
     end)}
  end

  def handle_info({Events, {:pool_started, name}}, state), do: {:noreply, watched(state, name)}

  # Workers decide by their own part of the table.
  def handle_info({Events, {:load_changed, name}}, state) do
    with %{^name => %{handle: handle}} <- state.pools, do: send_tables(handle)
    {:noreply, state}
  end

  # It does not know the table yet.
  def handle_info({Events, {:worker_up, name, worker}}, state) do
    with %{^name => %{handle: handle}} <- state.pools,
         do: Worker.table(worker, Model.reply_table(handle.performance))

    {:noreply, state}
  end

  def handle_info({Events, {:pool_stopped, name}}, state) do
    with %{^name => pool} <- state.pools do
      Enum.each(pool.waiting, &GenServer.reply(&1, :ok))
      save(pool)
    end

    {:noreply, %{state | pools: Map.delete(state.pools, name)}}
  end

  def handle_info({:probed, name, ref, learned, ns}, state) do
    case state.pools do
      %{^name => %{handle: %{performance: %{ref: ^ref}}} = pool} ->
        {:noreply, put_in(state.pools[name], %{pool | new: pool.new + learned, saved: pool.saved - ns})}

      _ ->
        {:noreply, state}
    end
  end

  def handle_info({:place, name, ref, place, version}, state) do
    case state.pools do
      %{^name => %{handle: %{performance: %{ref: ^ref}}} = pool} ->
        {:noreply, put_in(state.pools[name], %{pool | place: place, saved_version: version})}

      _ ->
        {:noreply, state}
    end
  end

  # A calibration is over, one way or the other, or probes are.
  def handle_info({:DOWN, ref, :process, _pid, _reason}, state) do
    case Enum.find(state.pools, fn {_name, pool} -> ref in [pool.task, pool.prober] end) do
      {name, %{prober: ^ref} = pool} ->
        {:noreply, put_in(state.pools[name], %{pool | prober: nil})}

      {name, pool} ->
        Enum.each(pool.waiting, &GenServer.reply(&1, :ok))
        send_tables(pool.handle)
        {:noreply, put_in(state.pools[name], %{pool | task: nil, waiting: []})}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  # A pool that was started anew has another model.
  defp watched(state, name) do
    case {Handle.fetch(name), state.pools} do
      {{:ok, %{performance: %{ref: ref}}}, %{^name => %{handle: %{performance: %{ref: ref}}}}} ->
        state

      {{:ok, %{performance: %{ref: ref}} = handle}, _pools} when ref != nil ->
        put_in(state.pools[name], %{
          handle: handle,
          task: start_task(handle, []),
          waiting: [],
          new: 0,
          rows: [],
          prober: nil,
          saved: 0,
          probing: :usual,
          since: now(),
          place: nil,
          saved_version: 0,
          saved_at: now()
        })

      _not_measured ->
        state
    end
  end

  defp cleared(%{handle: %{performance: model} = handle} = pool) do
    Model.drain(model, 0, false)
    Model.forget(model)
    send_tables(handle)
    %{pool | task: start_task(handle, forget: true), new: 0, rows: [], saved_version: 0}
  end

  defp update(state, name, fun) do
    case {state.pools, Handle.fetch(name)} do
      {%{^name => %{handle: %{performance: %{ref: ref}}} = pool}, {:ok, %{performance: %{ref: ref}} = handle}} ->
        put_in(state.pools[name], fun.(%{pool | handle: handle}))

      # Stopped, or another one by now, whose start is announced.
      _ ->
        %{state | pools: Map.delete(state.pools, name)}
    end
  end

  defp learn(%{handle: %{performance: model} = handle} = pool, enough) do
    {_seen, learned, rows} = Model.drain(model, @most_rows)
    MetricsStore.add(handle, rows)
    new = pool.new + learned

    if new >= enough and pool.task == nil do
      Model.compile(model)
      send_tables(handle)
      %{pool | new: 0, rows: rows}
    else
      %{pool | new: new, rows: rows}
    end
  end

  # ---- the next run -------------------------------------------------------------------------------------------------

  defp save_in_time(pool) do
    if now() - pool.saved_at > @save_ms * 1_000_000, do: %{save(pool) | saved_at: now()}, else: pool
  end

  # A calibration alone is kept as such: see `Calibration.Kept`.
  defp save(%{place: nil} = pool), do: pool

  defp save(%{handle: %{name: name, performance: model}, place: place} = pool) do
    version = Model.counts(model).version

    if version != pool.saved_version do
      with {:error, reason} <- Saved.put(place, :lines, Model.export(model)),
           do: Logger.debug("what pool #{inspect(name)} learned is not kept: #{:file.format_error(reason)}")
    end

    %{pool | saved_version: version}
  end

  # ---- probes -----------------------------------------------------------------------------------------------------

  # The calls of the last second, by ways they did not take.
  defp probe(%{handle: handle} = pool) do
    now = now()
    saved = Probing.earned(pool.saved, now - pool.since, handle.options.size)
    pool = %{pool | saved: saved, since: now}
    ways = Calibration.ways(handle.options.transfers)

    {count, _ns} = Probing.limits(pool.probing)

    with true <- handle.performance.policy.learning_enabled and pool.task == nil and pool.prober == nil,
         # Nothing is tried out with what is scarce.
         %{memory_pressure?: false, cpu_pressure?: false} <- ResourceMonitor.now(),
         [_ | _] = probes <-
           Probing.plan(
             pool.rows,
             ways,
             handle.options.inline_limit,
             saved,
             &Model.predict(handle.performance, &1),
             count
           ) do
      %{pool | prober: start(fn -> Prober.run(handle, probes, &report/1) end), probing: :usual}
    else
      _ -> pool
    end
  end

  defp report(message) do
    send(__MODULE__, message)
  rescue
    # It has just died, and its books with it.
    ArgumentError -> :ok
  end

  defp send_tables(handle) do
    table = Model.reply_table(handle.performance)
    for worker <- Pool.workers_of(handle), do: Worker.table(worker, table)
  end

  # Where a pool's model comes from, and where it goes: what Python that is, its workers know.
  defp start_task(%{name: name, performance: %{ref: ref, settings: settings} = model} = handle, opts) do
    start(fn ->
      with :ok <- Pool.await_ready(name, :infinity) do
        place = Saved.measured(handle, settings)
        if opts[:forget], do: Calibration.Start.forget(handle, place)
        # The learned model survives this process.
        if Model.counts(model).version == 0, do: Calibration.Start.run(handle, place)
        report({:place, name, ref, place, Model.counts(model).version})
      end
    end)
  end

  defp start(fun) do
    {:ok, pid} = Task.Supervisor.start_child(Snakepit.Performance.Tasks, fun)
    Process.monitor(pid)
  end

  defp now, do: System.monotonic_time(:nanosecond)

  @impl true
  def terminate(_reason, state), do: Enum.each(state.pools, fn {_name, pool} -> save(pool) end)
end
