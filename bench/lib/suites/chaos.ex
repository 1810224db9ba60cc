defmodule Snakepit.Bench.Chaos do
  @moduledoc """
  Kill -9 of workers, of the companion and of whole VMs at random moments under load, drawn from a seed.

  Every call must end in a right answer or a proper error, and nothing may be left. Each worker of a pool is killed
  twice, in a random order, and then a new pool takes its place: a worker that dies again and again is started again later
  and later, on purpose, and that wait would be all there is to see.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.Bench.{Chaos, Footprint, Result}

  @workers 4
  @callers 6
  @of_a_pool 2 * @workers
  # Between two strikes, at most.
  @pause_ms 40
  # A pool that is not whole by then is reported to have taken so long.
  @given_up_ms 15_000

  defstruct kills: 0,
            companions: 0,
            vms: 0,
            tally: Chaos.Load.none(),
            whole_ms: [],
            answer_ms: [],
            gone_ms: [],
            leaked: %{processes: 0, descriptors: 0, chunks: 0, bytes: 0}

  @type t :: %__MODULE__{
          kills: non_neg_integer(),
          companions: non_neg_integer(),
          vms: non_neg_integer(),
          tally: Chaos.Load.tally(),
          whole_ms: [number()],
          answer_ms: [number()],
          gone_ms: [number()],
          leaked: %{atom() => integer()}
        }

  @impl true
  def name, do: "chaos"

  @impl true
  def about, do: "kill -9 of workers, companion and VM under load: answers, leaks, recovery"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 45, else: 2_000)

  @impl true
  def wants, do: ["grpc"]

  @impl true
  def run(%{quick?: quick?, progress: progress}) do
    # Each killed companion is an error to be logged, and meant.
    Logger.put_module_level(Snakepit.Companion, :none)
    progress.("kills")
    run(if(quick?, do: 200, else: 10_000), if(quick?, do: 5, else: 50), 20) |> results()
  after
    Logger.delete_module_level(Snakepit.Companion)
  end

  @doc "So many kills of workers and of the companion, and so many of whole VMs."
  @spec run(pos_integer(), non_neg_integer(), integer()) :: t()
  def run(kills, vms, seed) do
    mark = "snakepit-chaos-#{System.pid()}-#{System.unique_integer([:positive])}"
    # Resources that stay once everything was used are no leak.
    {_, _} = pool_round(%__MODULE__{}, 2, mark, :rand.seed_s(:exsss, seed))
    before = at_rest(mark, nil)
    {seen, random} = rounds(%__MODULE__{}, kills, mark, :rand.seed_s(:exsss, seed))
    seen = %{seen | leaked: Footprint.growth(before, at_rest(mark, before))}
    Enum.each(Footprint.processes(mark), &Footprint.kill(&1, mark))
    doomed(seen, vms, mark, random)
  end

  # ---- rounds -----------------------------------------------------------------------------------------------------

  defp rounds(seen, kills, _mark, random) when seen.kills >= kills, do: {seen, random}

  defp rounds(seen, kills, mark, random) do
    {seen, random} = pool_round(seen, min(@of_a_pool, kills - seen.kills), mark, random)
    rounds(seen, kills, mark, random)
  end

  defp pool_round(seen, kills, mark, random) do
    name = :"chaos_#{System.unique_integer([:positive])}"
    {:ok, _} = Snakepit.start_pool(Chaos.Load.pool(name, mark, @workers))
    {seed, random} = :rand.uniform_s(1_000_000_000, random)
    load = Chaos.Load.start(name, @callers, seed)
    {order, random} = shuffled(random)
    {seen, random} = strikes(seen, Enum.take(order, kills), name, mark, random)
    tally = Chaos.Load.stop(load)
    :ok = Snakepit.stop_pool(name)
    {%{seen | tally: Chaos.Load.add(seen.tally, tally)}, random}
  end

  # `order`: the workers, by index, in the order they are killed.
  defp strikes(seen, [], _pool, _mark, random), do: {seen, random}

  defp strikes(seen, order, pool, mark, random) do
    {pause, random} = :rand.uniform_s(@pause_ms, random)
    {whom, random} = :rand.uniform_s(16, random)
    Process.sleep(pause)
    {victims, dead, rest} = choose(whom, order, Snakepit.list_workers(pool))
    {whole, answer} = struck(victims, dead, pool, mark)

    seen = %{
      seen
      | kills: seen.kills + length(victims),
        companions: seen.companions + Enum.count(victims, &is_tuple/1),
        whole_ms: [whole | seen.whole_ms],
        answer_ms: [answer | seen.answer_ms]
    }

    strikes(seen, rest, pool, mark, random)
  end

  # Mostly one to three workers at once; now and then the companion, whose workers die with it.
  defp choose(1, [_ | rest], workers) do
    pids = for %{os_pid: pid} <- workers, do: pid
    {[parent(hd(pids))], pids, rest}
  end

  defp choose(whom, order, workers) do
    {taken, rest} = Enum.split(order, rem(whom, 3) + 1)
    pids = for at <- Enum.uniq(taken), do: Enum.at(workers, at).os_pid
    {pids, pids, rest}
  end

  defp shuffled(random) do
    twice = Enum.to_list(0..(@workers - 1)) ++ Enum.to_list(0..(@workers - 1))

    {keyed, random} =
      Enum.map_reduce(twice, random, fn at, random ->
        {key, random} = :rand.uniform_s(random)
        {{key, at}, random}
      end)

    {keyed |> Enum.sort() |> Enum.map(&elem(&1, 1)), random}
  end

  # Milliseconds from the kill until every worker is up, and until a call made after it is answered.
  defp struck(victims, dead, pool, mark) do
    started = now()
    Enum.each(victims, &kill(&1, mark))
    answer = Task.async(fn -> first_answer(pool, started) end)
    whole = whole(pool, dead, started)
    {whole, Task.await(answer, :infinity)}
  end

  defp first_answer(pool, started) do
    case Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, timeout: @given_up_ms) do
      {:ok, 3} -> since(started)
      {:error, _} -> if since(started) > @given_up_ms, do: since(started), else: first_answer(pool, started)
    end
  end

  defp whole(pool, dead, started) do
    up = for %{status: :ready, os_pid: pid} <- Snakepit.list_workers(pool), pid not in dead, do: pid

    if length(up) == @workers or since(started) > @given_up_ms do
      since(started)
    else
      Process.sleep(2)
      whole(pool, dead, started)
    end
  end

  # The companion is the parent of the workers; it has no mark, for its environment is the VM's.
  defp parent(pid) do
    with {:ok, stat} <- File.read("/proc/#{pid}/stat"),
         [_, rest] <- String.split(stat, ") ", parts: 2),
         [_state, parent | _] <- String.split(rest) do
      {:companion, String.to_integer(parent)}
    else
      # It died by itself a moment ago: then there is nothing to kill it by.
      _ -> {:companion, nil}
    end
  end

  # The number may belong to another process by now.
  defp kill({:companion, nil}, _mark), do: :ok

  defp kill({:companion, pid}, _mark) do
    if match?({:ok, "snakepit_compan" <> _}, File.read("/proc/#{pid}/comm")), do: Footprint.kill(pid)
  end

  defp kill(pid, mark), do: Footprint.kill(pid, mark)

  # The footprint once nothing changes any more, or after two seconds.
  defp at_rest(mark, before, tries \\ 40) do
    now = Footprint.take(mark)

    done? =
      if before, do: Footprint.nothing?(Footprint.growth(before, now)), else: now == Footprint.take(mark)

    if done? or tries == 0 do
      now
    else
      Process.sleep(50)
      at_rest(mark, before, tries - 1)
    end
  end

  # ---- whole VMs --------------------------------------------------------------------------------------------------

  defp doomed(seen, 0, _mark, _random), do: seen

  defp doomed(seen, vms, mark, random) do
    {pause, random} = :rand.uniform_s(300, random)
    {seed, random} = :rand.uniform_s(1_000_000_000, random)
    {ms, left} = Chaos.Doomed.kill("#{mark}-vm-#{vms}", seed, pause)
    leaked = Map.update!(seen.leaked, :processes, &(&1 + length(left)))
    doomed(%{seen | vms: seen.vms + 1, gone_ms: [ms | seen.gone_ms], leaked: leaked}, vms - 1, mark, random)
  end

  # ---- figures ----------------------------------------------------------------------------------------------------

  defp results(seen) do
    %{tally: tally, leaked: leaked} = seen

    [
      count("chaos.kills", seen.kills + seen.vms),
      count("chaos.kills.companion", seen.companions),
      count("chaos.kills.vm", seen.vms),
      count("chaos.calls", tally.calls),
      count("chaos.calls.failed", tally.failed),
      count("chaos.wrong_answers", length(tally.wrong), {:at_most, 0}),
      count("chaos.lost_calls", length(tally.lost), {:at_most, 0}),
      count("chaos.leaked_processes", leaked.processes, {:at_most, 0}),
      count("chaos.leaked_fds", leaked.descriptors, {:at_most, 0}),
      count("chaos.leaked_bytes", leaked.bytes, {:at_most, 0}, "bytes"),
      percentile("chaos.recovery.p50_ms", seen.whole_ms, 50, {:at_most, 500}),
      percentile("chaos.recovery.p99_ms", seen.whole_ms, 99, {:at_most, 500}),
      percentile("chaos.answer.p50_ms", seen.answer_ms, 50),
      percentile("chaos.answer.p99_ms", seen.answer_ms, 99),
      percentile("chaos.vm_gone.max_ms", seen.gone_ms, 100, {:at_most, 2_000})
    ]
  end

  defp count(name, n, target \\ nil, unit \\ ""), do: Result.new(name, unit, [n], target)

  defp percentile(name, samples, p, target \\ nil),
    do: Result.new(name, "ms", [Snakepit.Stats.percentile(samples, p)], target)

  defp now, do: System.monotonic_time(:microsecond)
  defp since(started), do: (now() - started) / 1000
end
