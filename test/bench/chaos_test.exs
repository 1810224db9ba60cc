defmodule Snakepit.ChaosTest do
  # 200 kills under load, as `mix snakepit.bench chaos` has 10,000. What is left is counted in /proc: nothing else runs.
  use Snakepit.Case, async: false
  alias Snakepit.Bench.Chaos

  @moduletag timeout: 300_000
  @moduletag vm: :second

  test "kill -9 of workers, companion and VM: every call ends with its result or an error, and nothing is left" do
    seen = Chaos.run(200, 3, ExUnit.configuration()[:seed])
    assert seen.kills == 200
    assert seen.vms == 3
    assert seen.tally.calls > 1_000
    assert seen.tally.wrong == []
    assert seen.tally.lost == []
    assert seen.leaked == %{processes: 0, descriptors: 0, chunks: 0, bytes: 0}
  end

  @tag :tmp_dir
  test "the load takes the ways that there are: without grpc, none of its calls is forced to go by it", %{
    tmp_dir: dir
  } do
    name = :chaos_without_grpc
    options = Map.put(Chaos.Load.pool(name, "none", 2), :python, bare_python(dir))
    {:ok, _} = Snakepit.start_pool(options)
    on_exit(fn -> Snakepit.stop_pool(name) end)
    assert Snakepit.Bench.ways(name) == [:zero_copy, :inline]
    load = Chaos.Load.start(name, 4, 7)
    eventually(fn -> match?({:ok, %{calls: calls}} when calls > 400, Snakepit.get_stats(name)) end, 20_000)
    assert %{wrong: [], lost: [], calls: calls} = Chaos.Load.stop(load)
    assert calls > 200
  end

  @tag :tmp_dir
  test "the load finds wrong answers, in small results and in large ones", %{tmp_dir: dir} do
    source = """
    import zlib
    from snakepit import tool

    @tool
    def add(a, b): return a + b + 1

    @tool
    def checksum(x): return zlib.crc32(x) ^ 1

    @tool
    def repeated(pattern, times): return bytes(pattern) * (times - 1) + bytes(len(pattern))

    @tool
    def copied(x): return bytes(x)[:-1]

    @tool
    def same(x): raise ValueError("no")

    @tool
    def blocks(pattern, times, n):
        for i in range(n): yield bytes([i + (i == n - 1)]) + bytes(pattern) * times
    """

    {:ok, pool} = source_pool(dir, source)
    load = Chaos.Load.start(pool, 2, 1)
    eventually(fn -> match?({:ok, %{calls: calls}} when calls > 200, Snakepit.get_stats(pool)) end)
    tally = Chaos.Load.stop(load)
    assert tally.right == 0
    assert tally.failed == 0
    assert tally.lost == []
    assert length(tally.wrong) == tally.calls

    assert tally.wrong |> Enum.map(&elem(&1, 0)) |> Enum.uniq() |> Enum.sort() ==
             [:add, :by_reference, :copied, :from_python, :same, :stream, :to_python]
  end

  test "the load finds calls that end by their caller's death" do
    load = Chaos.Load.start(pool!(), 2, 1)
    %{pid: caller} = hd(load.callers)
    ref = Process.monitor(caller)
    Process.exit(caller, :kill)
    # Asked to stop before the signal reaches it, it might end in time.
    assert_receive {:DOWN, ^ref, _, _, :killed}
    assert [{:caller_died, :killed}] = Chaos.Load.stop(load).lost
  end
end
