defmodule Snakepit.Bench.Transfer do
  @moduledoc "Tensors there and back: against a memcpy, against gRPC, in place, by reference, and the memory they take."
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.{Bench, Stats, Tensor}
  alias Snakepit.Bench.{Floor, Memory, Result}

  @mib 1024 * 1024

  @impl true
  def name, do: "transfer"

  @impl true
  def about, do: "tensors over a memcpy and over gRPC, in place, by reference, and their memory"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 30, else: 120)

  # Tensors are numpy's arrays.
  @impl true
  def needs, do: ["numpy"]

  @impl true
  def wants, do: ["grpc"]

  @impl true
  def run(%{quick?: quick?, progress: progress}) do
    rounds = if quick?, do: 7, else: 25

    pool = [size: 1, memory_quota: "6GB", timeout: 300_000]
    progress.("memory of a 1 GiB call")
    # In a pool of its own: memory that another measurement left warm would be counted as there before.
    memory = Bench.with_pool(pool, &memory/1)

    Bench.with_pool(pool, fn pool ->
      Enum.flat_map(
        [
          {"100 MiB to Python", fn -> to_python(pool, rounds) end},
          {"100 MiB from Python, in place", fn -> in_place(pool, rounds) end},
          {"1 GiB by reference", fn -> by_reference(pool, rounds) end},
          {"64 KiB over three copies", fn -> over_copies(pool, "64KiB", 65_536, rounds * 2) end},
          {"1 MiB over three copies", fn -> over_copies(pool, "1MiB", @mib, rounds * 2) end},
          {"1 MiB there and back", fn -> roundtrip(pool, 1, 10, rounds * 2) end},
          {"100 MiB there and back", fn -> roundtrip(pool, 100, 30, max(div(rounds, 4), 3)) end}
        ],
        fn {what, measure} ->
          progress.(what)
          :erlang.garbage_collect()
          measure.()
        end
      ) ++ memory
    end)
  end

  # A tensor in, its shape back: the time beyond a small call is one copy into warm memory.
  defp to_python(pool, rounds) do
    tensor = tensor(100 * @mib, 5)

    call = fn ->
      {:ok, {104_857_600}} = Snakepit.execute("shape", %{x: tensor}, pool: pool, transfer: :zero_copy)
    end

    small = small(pool)
    Bench.times(3, call)

    samples =
      for _ <- 1..rounds do
        [memcpy] = Floor.memcpy(100 * @mib, 1)
        [took] = Bench.times(1, call)
        {took - Stats.median(Bench.times(20, small)), memcpy}
      end

    {took, floor} = Enum.unzip(samples)

    [
      Result.new(
        "transfer.100MiB.to_python.over_memcpy",
        "ratio",
        Enum.zip_with(took, floor, &(&1 / &2)),
        {:at_most, 1.15}
      ),
      Result.new("transfer.100MiB.to_python", "ms", Enum.map(took, &(&1 / 1.0e6))),
      Result.new("floor.memcpy.100MiB", "ms", Enum.map(floor, &(&1 / 1.0e6)))
    ]
  end

  # A result made with snakepit.empty, the tool's own time taken out.
  defp in_place(pool, rounds) do
    small = small(pool)
    # Another mark each time, so that an earlier result cannot pass for this one.
    call = fn n ->
      value = rem(n, 251) + 1
      args = %{n: 100 * @mib, value: value}
      without_tool("in_place", args, [pool: pool, reply_transfer: :zero_copy], &large?(&1, 100 * @mib, value))
    end

    for n <- 1..20, do: call.(n)

    samples =
      for round <- 1..rounds do
        took = for n <- 1..20, do: call.(round * 20 + n) / 1000
        {Stats.median(took), Stats.median(Bench.times(20, small)) / 1000}
      end

    {took, floor} = Enum.unzip(samples)

    [
      Result.new("transfer.100MiB.from_python.in_place", "µs", took, {:at_most, 3 * Stats.median(floor)}),
      Result.new(
        "transfer.100MiB.from_python.in_place.over_small_call",
        "ratio",
        Enum.zip_with(took, floor, &(&1 / &2)),
        {:at_most, 3}
      ),
      Result.new("floor.small_call", "µs", floor)
    ]
  end

  defp by_reference(pool, rounds) do
    {:ok, %Tensor{} = tensor} = Snakepit.execute("in_place", %{n: 1024 * @mib, value: 9}, pool: pool)
    small = small(pool)
    call = fn -> {:ok, {9, 9, 1_073_741_824}} = Snakepit.execute("ends", %{x: tensor}, pool: pool) end
    Bench.times(3, call)

    samples =
      for _ <- 1..(rounds * 2),
          do: {Stats.median(Bench.times(20, call)), Stats.median(Bench.times(20, small))}

    {took, floor} = Enum.unzip(samples)

    [
      Result.new(
        "transfer.1GiB.by_reference.over_small_call",
        "ratio",
        Enum.zip_with(took, floor, &(&1 / &2)),
        {:at_most, 2}
      ),
      Result.new("transfer.1GiB.by_reference", "µs", Enum.map(took, &(&1 / 1000)))
    ]
  end

  # Bytes there, and a copy of them back. They are copied three times, once by the tool. The time beyond a small call over
  # that of three copies: on one core, which finds all of it in its caches, and as a call makes them, on two.
  defp over_copies(pool, label, bytes, rounds) do
    data = :crypto.strong_rand_bytes(bytes)

    call = fn ->
      args = %{x: Snakepit.bytes(data)}
      {{:ok, copy}, seen} = Snakepit.observe("copied", args, pool: pool, transfer: :zero_copy)
      true = copy == data
      # The result is dropped, and its memory warm again, before the next call.
      Snakepit.release(copy)
      seen.total_ns
    end

    small = fn ->
      {{:ok, 3}, seen} = Snakepit.observe("add", %{a: 1, b: 2}, pool: pool)
      seen.total_ns
    end

    median = fn run -> Stats.median(for _ <- 1..20, do: run.()) end
    for _ <- 1..100, do: call.()

    samples =
      for _ <- 1..rounds do
        beyond = median.(call) - median.(small)
        [beyond | Enum.map(Floor.three_copies(bytes, 20), &Stats.median/1)]
      end

    [beyond, one_core, two_cores] = Enum.zip_with(samples, & &1)
    row = "transfer.#{label}.roundtrip"

    [
      Result.new("#{row}.over_three_copies", "ratio", ratios(beyond, one_core), {:at_most, 1.5}),
      Result.new("#{row}.over_three_copies_on_two_cores", "ratio", ratios(beyond, two_cores)),
      Result.new("floor.three_copies.#{label}", "µs", Enum.map(one_core, &(&1 / 1000))),
      Result.new("floor.three_copies_on_two_cores.#{label}", "µs", Enum.map(two_cores, &(&1 / 1000)))
    ]
  end

  defp ratios(these, those), do: Enum.zip_with(these, those, &(&1 / &2))

  # A new array back, as numpy makes them; forced each way; the tool's time taken out of both.
  defp roundtrip(pool, mib, target, rounds) do
    bytes = mib * @mib
    tensor = tensor(bytes, 3)
    grpc? = :grpc in Bench.ways(pool)

    time = fn way ->
      without_tool("fresh", %{x: tensor}, [pool: pool, transfer: way], &large?(&1, bytes, 3))
    end

    # The floor compares all bytes itself.
    channel = if grpc?, do: Floor.grpc()
    floor = fn -> Bench.times(1, fn -> Floor.grpc(channel, tensor.data) end) |> hd() end
    ways = [fn -> time.(:zero_copy) end, fn -> time.(:inline) end]
    ways = if grpc?, do: ways ++ [fn -> time.(:grpc) end, floor], else: ways

    # In turn, a few of each at a time: the first after another way finds that one's data in the caches.
    samples =
      for _ <- 1..rounds do
        for way <- ways, do: Stats.median(tl(for _ <- 1..4, do: way.()))
      end

    [zero, inline | by_grpc] = Enum.zip_with(samples, & &1)
    label = "transfer.#{mib}MiB.roundtrip"

    over(label, zero, by_grpc, target) ++
      [
        Result.new("#{label}.zero_copy", "ms", Enum.map(zero, &(&1 / 1.0e6))),
        Result.new("#{label}.inline", "ms", Enum.map(inline, &(&1 / 1.0e6)))
      ] ++
      grpc(label, mib, by_grpc)
  end

  defp over(label, _zero, [], _target),
    do: [Result.absent("#{label}.grpc_over_zero_copy", Bench.needs("grpc"))]

  defp over(label, zero, [grpc, _echo], target) do
    ratios = Enum.zip_with(grpc, zero, &(&1 / &2))
    [Result.new("#{label}.grpc_over_zero_copy", "ratio", ratios, {:at_least, target})]
  end

  defp grpc(label, _mib, []), do: [Result.absent("#{label}.grpc", Bench.needs("grpc"))]

  defp grpc(label, mib, [grpc, echo]) do
    [
      Result.new("#{label}.grpc", "ms", Enum.map(grpc, &(&1 / 1.0e6))),
      Result.new("floor.grpc_echo.#{mib}MiB", "ms", Enum.map(echo, &(&1 / 1.0e6)))
    ]
  end

  # While the tool holds 1 GiB that it has read, how much more memory do all processes have than before?
  defp memory(pool) do
    gib = 1024 * @mib
    data = :binary.copy(<<1>>, gib)
    tensor = Tensor.new(data, :u8)
    dir = Snakepit.Runtime.dir()
    {started, go_on} = {Path.join(dir, "bench.started"), Path.join(dir, "bench.go_on")}
    before = Memory.pss()
    args = %{x: tensor, started: started, go_on: go_on}
    task = Task.async(fn -> Snakepit.execute("hold", args, pool: pool, transfer: :zero_copy) end)
    Bench.wait(fn -> File.exists?(started) end)
    during = Memory.pss()
    File.write!(go_on, "")
    {:ok, ^gib} = Task.await(task, :infinity)
    File.rm(started)
    File.rm(go_on)

    [
      Result.new(
        "transfer.1GiB.memory.extra_bytes_ratio",
        "ratio",
        [(during - before) / gib],
        {:at_most, 1.1}
      )
    ]
  end

  defp small(pool), do: fn -> {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) end

  defp tensor(bytes, value), do: Tensor.new(:binary.copy(<<value>>, bytes), :u8)

  # First, last and middle byte, and the length: reading all of it would warm what is to be measured.
  defp large?(%Tensor{data: data, shape: {n}}, bytes, value) do
    n == bytes and byte_size(data) == bytes and
      Enum.all?([0, div(bytes, 2), bytes - 1], &(:binary.at(data, &1) == value))
  end

  defp without_tool(command, args, opts, right?) do
    {result, seen} = Snakepit.observe(command, args, opts)
    {:ok, value} = result
    right?.(value) || raise "#{command} returned something else"
    if way = opts[:transfer], do: {^way, ^way} = {seen.request_way, seen.reply_way}
    if way = opts[:reply_transfer], do: ^way = seen.reply_way
    # As a caller would: the result is dropped before the next call, and its memory is warm again.
    Snakepit.release(value)
    seen.total_ns - seen.tool_ns
  end
end
