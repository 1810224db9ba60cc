defmodule Snakepit.Bench.Scale do
  @moduledoc """
  How Snakepit grows: throughput and p99 against workers, callers, pools and payload; memory of workers and of leases; the
  start of many workers.

  Figures are `scale.BY.N.FIGURE`. Growth is fitted as figure = c · n^exponent (least squares of logarithms) and reported as
  `scale.BY.FIGURE.exponent`: 0 does not grow, 1 grows as fast, −1 shrinks as fast.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.{Bench, Machine, Native, Pool, Stats}
  alias Snakepit.Bench.Result
  alias Snakepit.Terminal.Units

  @kib 1024
  @mib 1024 * 1024

  @impl true
  def name, do: "scale"

  @impl true
  def about, do: "throughput, p99 and memory against workers, callers, pools and payload"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 45, else: 150)

  @impl true
  def run(%{quick?: quick?, progress: progress, keep: keep}) do
    s = %{ms: if(quick?, do: 500, else: 2_000), rounds: if(quick?, do: 2, else: 5), quick?: quick?}

    for {what, measure} <- [
          {"workers", &workers/1},
          {"callers", &callers/1},
          {"pools", &pools/1},
          {"payload", &payload/1},
          {"leases", &leases/1},
          {"many workers", &many_workers/1}
        ],
        reduce: [] do
      done ->
        progress.(what)
        results = measure.(s)
        keep.(results)
        done ++ results
    end
  end

  # ---- calls ------------------------------------------------------------------------------------------------------

  defp workers(s) do
    counts = Enum.uniq([1, Machine.cores(), 2 * Machine.cores()])

    grown("workers", counts, fn n ->
      Bench.with_pool([size: n], fn pool ->
        memory = pool |> Snakepit.list_workers() |> Enum.map(&Machine.pss(&1.os_pid))
        loaded([pool], 4 * n, s) ++ [{"pss_of_one", "MB", Enum.map(memory, &(&1 / 1.0e6))}]
      end)
    end)
  end

  defp callers(s) do
    Bench.with_pool([size: Machine.cores(), max_queue: 20_000, timeout: 120_000], fn pool ->
      counts = if s.quick?, do: [1, 10, 100, 1_000], else: [1, 10, 100, 1_000, 10_000]
      grown("callers", counts, fn n -> loaded([pool], n, s) end)
    end)
  end

  defp pools(s) do
    counts = if s.quick?, do: [1, 5, 20], else: [1, 10, 50]
    grown("pools", counts, fn n -> with_pools(n, fn pools -> loaded(pools, 4, s) end) end)
  end

  defp with_pools(0, fun), do: fun.([])

  defp with_pools(n, fun),
    do: Bench.with_pool([size: 1, calibrated: false], fn pool -> with_pools(n - 1, &fun.([pool | &1])) end)

  defp payload(s) do
    Bench.with_pool([size: 1, memory_quota: "2GB"], fn pool ->
      sizes = [4 * @kib, 64 * @kib, @mib, 16 * @mib]

      grown("payload", sizes, fn size ->
        args = %{x: Snakepit.bytes(:binary.copy(<<7>>, size))}
        call = fn -> {:ok, {7, 7, ^size}} = Snakepit.execute("ends", args, pool: pool) end
        Bench.times(10, call)
        count = if size <= 64 * @kib, do: 500, else: 50

        samples =
          for _ <- 1..s.rounds do
            times = Bench.times(count, call)

            {Stats.median(times) / 1000, Stats.percentile(times, 99) / 1000,
             size * 1000 / Stats.median(times)}
          end

        [
          {"p50", "µs", Enum.map(samples, &elem(&1, 0))},
          {"p99", "µs", Enum.map(samples, &elem(&1, 1))},
          {"throughput", "MB/s", Enum.map(samples, &elem(&1, 2))}
        ]
      end)
    end)
  end

  # So many callers, who take the pools in turn, for some time; each call is timed.
  defp loaded(pools, callers, s) do
    samples =
      for _ <- 1..s.rounds do
        tasks =
          for n <- 1..callers do
            pool = Enum.at(pools, rem(n, length(pools)))
            others = if length(pools) > callers, do: pools, else: [pool]
            Task.async(fn -> receive(do: ({:until, until} -> calls(others, others, until, []))) end)
          end

        until = :erlang.monotonic_time(:nanosecond) + s.ms * 1_000_000
        for %{pid: pid} <- tasks, do: send(pid, {:until, until})
        calls = tasks |> Task.await_many(:infinity) |> Enum.concat()
        # A call that ended after `until` counts for the p99, but not for the rate.
        done = Enum.count(calls, fn {_took, ended} -> ended <= until end)
        {done * 1000 / s.ms, calls |> Enum.map(&elem(&1, 0)) |> Stats.percentile(99) |> Kernel./(1000)}
      end

    [
      {"calls", "calls/s", Enum.map(samples, &elem(&1, 0))},
      {"p99", "µs", Enum.map(samples, &elem(&1, 1))}
    ]
  end

  defp calls([], all, until, times), do: calls(all, all, until, times)

  defp calls([pool | others], all, until, times) do
    started = :erlang.monotonic_time(:nanosecond)
    {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
    ended = :erlang.monotonic_time(:nanosecond)

    times = [{ended - started, ended} | times]
    if ended < until, do: calls(others, all, until, times), else: times
  end

  # ---- memory -----------------------------------------------------------------------------------------------------

  # The VM's own cost of holding results that lie in shared memory, beside the bytes themselves.
  defp leases(_s) do
    Bench.with_pool([size: 1, memory_quota: "4GB"], fn pool ->
      {:ok, handle} = Pool.Handle.fetch(pool)
      # Smaller ones stay in the envelope.
      size = 32 * @kib

      grown("leases", [1_000, 4_000, 16_000], fn n ->
        :erlang.garbage_collect()
        before = :erlang.memory(:total)

        held =
          for _ <- 1..n do
            {:ok, data} = Snakepit.execute("block", %{n: size}, pool: pool, reply_transfer: :zero_copy)
            ^size = byte_size(data)
            data
          end

        :erlang.garbage_collect()
        after_all = :erlang.memory(:total)
        shared = Native.arena_leases(handle.arena) |> Enum.map(&elem(&1, 1)) |> Enum.sum()

        shared >= n * size ||
          raise "#{Units.counted(shared, "byte is", "bytes are")} leased, of #{Units.counted(n, "result")} of #{size}"

        Enum.each(held, &Snakepit.release/1)

        [
          {"vm_bytes_per_1000", "B", [max(after_all - before, 0) / n * 1000]},
          {"shared_bytes_of_one", "B", [shared / n]}
        ]
      end)
    end) ++ table()
  end

  defp table do
    Bench.with_pool([size: 1, performance_policy: [enabled: true], calibrated: false], fn pool ->
      {:ok, handle} = Pool.Handle.fetch(pool)

      [
        Result.new("scale.decision_table", "B", [
          Snakepit.Performance.Model.counts(handle.performance).table_bytes
        ])
      ]
    end)
  end

  defp many_workers(s) do
    counts = if s.quick?, do: [1, 10], else: [1, 10, 50]

    grown("start_of_workers", counts, fn n ->
      started = :erlang.monotonic_time(:millisecond)

      Bench.with_pool([size: n, calibrated: false], fn pool ->
        :ok = Pool.await_ready(pool, :infinity)
        [{"ready", "ms", [:erlang.monotonic_time(:millisecond) - started]}]
      end)
    end)
  end

  # ---- growth -----------------------------------------------------------------------------------------------------

  # `measure` returns `[{figure, unit, samples}]` of one n.
  defp grown(by, counts, measure) do
    results =
      for n <- counts, {figure, unit, samples} <- measure.(n) do
        {figure, n, Result.new("scale.#{by}.#{n}.#{figure}", unit, samples)}
      end

    exponents =
      for {figure, points} <- Enum.group_by(results, &elem(&1, 0)),
          points = for({_, n, r} <- points, r.value > 0, do: {n, r.value}),
          length(points) > 1,
          do: Result.new("scale.#{by}.#{figure}.exponent", "", [Stats.exponent(points)])

    Enum.map(results, &elem(&1, 2)) ++ exponents
  end
end
