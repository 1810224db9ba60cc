defmodule Snakepit.Bench.Soak do
  @moduledoc """
  Whether anything grows: mixed calls for minutes on end, and the slope of memory and descriptors over that time.

  Sizes from one byte to some MiB, every way, streams, tools that raise and calls that time out; each result is
  checked. Before that it warms up for half as long: arenas, allocators and the tables of metrics take some eight
  minutes until they have grown to what such a load needs. The samples of every second are averaged over blocks, so
  that one sample's memory of the one before does not make the interval too narrow; the slope is that of least squares
  over the blocks, with its 95 % interval (Student's t). A slope whose interval holds zero is no growth that this run
  could see.

  The tables of metrics grow for an hour by design, until their oldest rows go (`Snakepit.Performance.MetricsStore`): their
  slope is reported by itself, without a target, and taken out of the BEAM's.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.{Bench, Error, Machine, Stats, Tensor}
  alias Snakepit.Bench.Result
  alias Snakepit.Performance.MetricsStore

  @callers 4
  @blocks 20
  @sample_ms 1_000

  @impl true
  def name, do: "soak"

  @impl true
  def about,
    do:
      "slopes of memory and descriptors under mixed load for --minutes N (20), after half of that to warm up"

  @impl true
  def seconds(%{minutes: minutes}), do: round(minutes * 90) + 5

  # Half of its calls carry tensors, which are numpy's arrays.
  @impl true
  def needs, do: ["numpy"]

  @impl true
  def wants, do: ["grpc"]

  @impl true
  def run(%{minutes: minutes, progress: progress}) do
    {warm_up, sampled} = {round(minutes * 30_000), round(minutes * 60_000)}

    Bench.with_pool([size: 2, memory_quota: "512MB", idle_chunk_ms: 2_000, timeout: 60_000], fn pool ->
      progress.("warming up")
      until = now() + warm_up + sampled
      counts = %{calls: 0, errors: 0, ways: Bench.ways(pool)}
      callers = for n <- 1..@callers, do: Task.async(fn -> call(pool, n, until, counts) end)
      Process.sleep(warm_up)
      progress.("sampling")
      samples = sample(pool, now(), until, [])
      counts = Task.await_many(callers, :infinity)
      results(samples, counts)
    end)
  end

  # ---- load -------------------------------------------------------------------------------------------------------

  defp call(pool, n, until, counts) do
    :rand.seed(:exsss, n)
    calls(pool, until, counts)
  end

  defp calls(pool, until, counts) do
    if now() < until do
      counts = Enum.reduce(1..10, counts, fn _, counts -> one(pool, :rand.uniform(100), counts) end)
      calls(pool, until, counts)
    else
      counts
    end
  end

  defp one(pool, dice, counts) when dice <= 40 do
    {a, b} = {:rand.uniform(1000), :rand.uniform(1000)}
    check(Snakepit.execute("add", %{a: a, b: b}, pool: pool), {:ok, a + b}, counts)
  end

  defp one(pool, dice, counts) when dice <= 90 do
    # As many of each power of two.
    size = trunc(:math.pow(2, :rand.uniform() * 22))
    data = :binary.copy(<<:rand.uniform(256) - 1>>, size)
    way = Enum.random([:auto, :auto | counts.ways])
    result = Snakepit.execute("fresh", %{x: Tensor.new(data, :u8)}, pool: pool, transfer: way)
    ^data = with {:ok, %Tensor{data: back}} <- result, do: back
    %{counts | calls: counts.calls + 1}
  end

  defp one(pool, dice, counts) when dice <= 95 do
    items = "numbers" |> Snakepit.stream(%{n: 1_000}, pool: pool) |> Enum.take(:rand.uniform(20))
    check(items, Enum.to_list(0..(length(items) - 1)), counts)
  end

  defp one(pool, dice, counts) when dice <= 98 do
    {:error, %Error{category: category}} = Snakepit.execute("add", %{a: 1, b: "x"}, pool: pool)
    check(category, :validation, %{counts | errors: counts.errors + 1})
  end

  defp one(pool, _dice, counts) do
    {:error, %Error{category: category}} = Snakepit.execute("nap", %{seconds: 60}, pool: pool, timeout: 20)
    check(category, :timeout, %{counts | errors: counts.errors + 1})
  end

  defp check(same, same, counts), do: %{counts | calls: counts.calls + 1}
  defp check(got, expected, _), do: raise("expected #{inspect(expected)}, got #{inspect(got)}")

  # ---- samples ----------------------------------------------------------------------------------------------------

  defp sample(pool, since, until, samples) do
    if now() < until do
      taken = {(now() - since) / 3_600_000, figures(pool)}
      Process.sleep(@sample_ms)
      sample(pool, since, until, [taken | samples])
    else
      Enum.reverse(samples)
    end
  end

  defp figures(pool) do
    pids = for %{os_pid: pid} when is_integer(pid) <- Snakepit.list_workers(pool), do: pid

    metrics = MetricsStore.bytes()

    %{
      "metrics" => metrics / 1.0e6,
      "beam" => (:erlang.memory(:total) - metrics) / 1.0e6,
      # All of the VM: its heaps, the NIF's own memory, its share of chunks.
      "vm" => (Machine.pss(System.pid()) || 0) / 1.0e6,
      "workers" => (pids |> Enum.map(&(Machine.pss(&1) || 0)) |> Enum.sum()) / 1.0e6,
      "vm_fds" => descriptors(System.pid()),
      "worker_fds" => pids |> Enum.map(&descriptors/1) |> Enum.sum()
    }
  end

  defp descriptors(pid) do
    case File.ls("/proc/#{pid}/fd") do
      {:ok, names} -> length(names)
      {:error, _} -> 0
    end
  end

  defp results(samples, counts) do
    slopes =
      for {what, unit} <- [
            {"metrics", "MB/h"},
            {"beam", "MB/h"},
            {"vm", "MB/h"},
            {"workers", "MB/h"},
            {"vm_fds", "1/h"},
            {"worker_fds", "1/h"}
          ] do
        {slope, low, high} =
          samples |> Enum.map(fn {x, figures} -> {x, figures[what]} end) |> Stats.slope(@blocks)

        %Result{
          name: "soak.#{what}.slope",
          value: slope,
          unit: unit,
          low: low,
          high: high,
          target: if(what != "metrics", do: {:interval_holds, 0})
        }
      end

    count = fn name, key ->
      total = counts |> Enum.map(& &1[key]) |> Enum.sum()
      %Result{name: name, value: total, unit: "", low: total, high: total}
    end

    slopes ++ [count.("soak.calls", :calls), count.("soak.expected_errors", :errors)]
  end

  defp now, do: System.monotonic_time(:millisecond)
end
