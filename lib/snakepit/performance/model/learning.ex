defmodule Snakepit.Performance.Model.Learning do
  @moduledoc false
  # Tends the pools' cost_models: has each calibrated once, lets it learn from the calls of the last second, has ways probed
  # that they did not take, compiles its table, and sends workers theirs. Calls do not wait for it, and go on without it;
  # what was learned is not kept here.

  use GenServer
  alias Snakepit.{Native, Observation, Pool, Worker}
  alias Snakepit.Performance.{MetricsStore, ResourceMonitor}
  alias Snakepit.Performance.Model.{Calibration, Probe, Probing}
  alias Snakepit.Pool.Handle
  require Logger

  @tick_ms 1_000
  # Calls that are learned from before the table is made anew.
  @worth_compiling 20
  # Of a pool's calls so many, the latest, are kept one by one.
  @most_rows 100

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(opts \\ []), do: GenServer.start_link(__MODULE__, opts, name: __MODULE__)

  @doc "There is a pool of this name, perhaps anew."
  @spec watch(atom()) :: :ok
  def watch(pool), do: GenServer.cast(__MODULE__, {:watch, pool})

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

  @doc "The pool's table is another by now: its workers are sent theirs."
  @spec publish(atom()) :: :ok
  def publish(pool), do: GenServer.cast(__MODULE__, {:publish, pool})

  @impl true
  def init(_opts) do
    Process.send_after(self(), :tick, @tick_ms)

    # By pool: its cost model, who calibrates it, who waits for that, what was learned since the table was made, who probes
    # it, what probes may cost, and since when that was not reckoned.
    {:ok, Enum.reduce(Handle.names(), %{pools: %{}}, &watched(&2, &1))}
  end

  @impl true
  def handle_cast({:watch, name}, state), do: {:noreply, watched(state, name)}

  def handle_cast({:publish, name}, state) do
    with {:ok, %{cost_model: cost_model} = handle} when cost_model != nil <- Handle.fetch(name),
         do: send_tables(handle)

    {:noreply, state}
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

  @impl true
  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick_ms)

    {:noreply,
     Enum.reduce(Map.keys(state.pools), state, fn name, state ->
       update(state, name, &(&1 |> learn(@worth_compiling) |> probe()))
     end)}
  end

  def handle_info({:probed, name, cost_model, learned, ns}, state) do
    case state.pools do
      %{^name => %{handle: %{cost_model: ^cost_model}} = pool} ->
        {:noreply, put_in(state.pools[name], %{pool | new: pool.new + learned, saved: pool.saved - ns})}

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

  defp watched(state, name) do
    case Handle.fetch(name) do
      {:ok, %{cost_model: nil}} ->
        state

      {:ok, handle} ->
        put_in(state.pools[name], %{
          handle: handle,
          task: calibrate(handle),
          waiting: [],
          new: 0,
          rows: [],
          prober: nil,
          saved: 0,
          since: now()
        })

      {:error, _} ->
        state
    end
  end

  defp update(state, name, fun) do
    case {state.pools, Handle.fetch(name)} do
      {%{^name => %{handle: %{cost_model: cost_model}} = pool}, {:ok, %{cost_model: cost_model} = handle}} ->
        put_in(state.pools[name], fun.(%{pool | handle: handle}))

      # Stopped, or another one by now, of which we were told.
      _ ->
        %{state | pools: Map.delete(state.pools, name)}
    end
  end

  defp learn(%{handle: %{cost_model: cost_model, policy: policy} = handle} = pool, enough) do
    {_seen, learned, rows} = Native.cost_model_drain(cost_model, policy.learning_enabled, @most_rows)
    MetricsStore.add(handle, rows)
    new = pool.new + learned

    if new >= enough and pool.task == nil do
      Native.cost_model_compile(cost_model)
      send_tables(handle)
      %{pool | new: 0, rows: rows}
    else
      %{pool | new: new, rows: rows}
    end
  end

  # ---- probes -----------------------------------------------------------------------------------------------------

  # The calls of the last second, by ways they did not take.
  defp probe(%{handle: handle} = pool) do
    now = now()
    saved = Probing.earned(pool.saved, now - pool.since, handle.options.size)
    pool = %{pool | saved: saved, since: now}
    ways = Calibration.ways(handle.options.transfers)

    with true <- handle.policy.learning_enabled and pool.task == nil and pool.prober == nil,
         # Nothing is tried out with what is scarce.
         %{memory_pressure?: false, cpu_pressure?: false} <- ResourceMonitor.now(),
         [_ | _] = probes <-
           Probing.plan(pool.rows, ways, handle.options.inline_limit, saved, &price(handle, &1)) do
      %{pool | prober: start(fn -> probes(handle, probes) end)}
    else
      _ -> pool
    end
  end

  defp price(handle, probe) do
    {legs, request, reply} = Probing.record(probe)
    Native.cost_model_predict(handle.cost_model, legs, request, reply)
  end

  defp probes(handle, probes) do
    Enum.reduce_while(probes, :ok, fn probe, :ok ->
      started = now()
      # Somebody waits, or something is wrong, which others have to find out: no more for now.
      learned = if idle?(handle), do: probed(handle, probe)
      # Whatever came of it, it is paid for, before the next one.
      tell({:probed, handle.name, handle.cost_model, learned || 0, now() - started})
      if learned, do: {:cont, :ok}, else: {:halt, :ok}
    end)
  end

  defp tell(message) do
    send(__MODULE__, message)
  rescue
    # It has just died, and its books with it.
    ArgumentError -> :ok
  end

  defp idle?(handle), do: match?({idle, _busy, 0} when idle > 0, Native.queue_counts(handle.queue))

  defp probed(handle, probe) do
    data = Probe.payload(probe.direction, probe.type, probe.size)
    run = fn -> Probe.run(handle, probe.direction, data, probe.size, probe.way, timeout: 5_000) end

    # The first by shared memory may have to make some, on either side, which says nothing of usual times.
    with {:ok, _} <- if(probe.way == :zero_copy, do: run.(), else: {:ok, nil}),
         {:ok, %{cold: false} = seen} <- run.() do
      {legs, request, reply} = Probing.record(probe)
      Native.cost_model_probed(handle.cost_model, legs, Observation.transfer_ns(seen), request, reply)
      1
    else
      {:ok, _cold} -> 0
      {:error, _error} -> nil
    end
  end

  defp send_tables(handle) do
    table = Native.cost_model_reply_table(handle.cost_model)
    for worker <- Pool.workers_of(handle), do: Worker.table(worker, table)
  end

  # What was learned is not thrown away because this process died.
  defp calibrate(%{cost_model: cost_model} = handle),
    do: if(elem(Native.cost_model_counts(cost_model), 4) == 0, do: start_calibration(handle))

  defp start_calibration(handle),
    do: start(fn -> with :ok <- Pool.await_ready(handle.name, :infinity), do: calibrated(handle) end)

  defp start(fun) do
    {:ok, pid} = Task.Supervisor.start_child(Snakepit.Performance.Tasks, fun)
    Process.monitor(pid)
  end

  defp now, do: System.monotonic_time(:nanosecond)

  defp calibrated(%{settings: settings} = handle) do
    with true <- settings.calibrate,
         :none <- Calibration.Kept.load(handle, settings),
         {:ok, %{ready?: true} = summary} <- Calibration.run(handle) do
      Logger.debug(fn -> "pool #{inspect(handle.name)} was calibrated: #{inspect(summary)}" end)

      with {:error, reason} <- Calibration.Kept.store(handle, settings),
           do: Logger.debug("the calibration of pool #{inspect(handle.name)} is not kept: #{inspect(reason)}")
    else
      {:ok, summary} ->
        Logger.debug(
          "pool #{inspect(handle.name)}: the machine was too busy to calibrate: #{inspect(summary)}"
        )

      {:error, reason} ->
        Logger.debug("pool #{inspect(handle.name)} was not calibrated: #{inspect(reason)}")

      _ ->
        :ok
    end
  end
end
