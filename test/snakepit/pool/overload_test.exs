defmodule Snakepit.Pool.OverloadTest do
  # Ten thousand callers at a pool of two.
  use Snakepit.Case, async: true
  alias Snakepit.Error

  @callers 10_000

  # What each of them got, and how much memory the VM held before and after.
  defp storm(pool, opts) do
    me = self()
    add = fn n -> Snakepit.execute("add", %{a: n, b: 1}, [pool: pool] ++ opts) end
    for n <- 1..100, do: add.(n)

    pids = for n <- 1..@callers, do: spawn(fn -> send(me, {:result, n, add.(n)}) end)
    results = for _ <- pids, do: receive(do: ({:result, n, result} -> {n, result}))
    Map.new(results)
  end

  defp right?({n, {:ok, sum}}), do: sum == n + 1
  defp right?(_), do: false

  test "with a line long enough, every one is answered" do
    pool = pool!(size: 2, max_queue: @callers)
    results = storm(pool, timeout: 60_000)
    assert map_size(results) == @callers
    assert Enum.reject(results, &right?/1) == []
    assert %{idle: 2, busy: 0, queued: 0} = elem(Snakepit.get_stats(pool), 1)
  end

  test "with a short line, those beyond it hear so at once, and the rest are answered" do
    pool = pool!(size: 2, max_queue: 50)
    results = storm(pool, timeout: 60_000)
    {answered, refused} = Enum.split_with(results, &right?/1)
    assert length(answered) >= 50
    assert Enum.all?(refused, &match?({_, {:error, %Error{category: :pool, reason: :pool_saturated}}}, &1))
    assert %{idle: 2, busy: 0, queued: 0} = elem(Snakepit.get_stats(pool), 1)
  end

  test "with a short deadline, what expired in line is dropped, and never run" do
    pool = pool!(size: 2, max_queue: @callers)
    results = storm(pool, timeout: 50)
    {answered, late} = Enum.split_with(results, &right?/1)
    assert answered != []
    assert Enum.all?(late, &match?({_, {:error, %Error{category: :timeout}}}, &1))
    assert eventually(fn -> match?(%{idle: 2, busy: 0, queued: 0}, elem(Snakepit.get_stats(pool), 1)) end)
    assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
  end

  test "and memory is what it was before" do
    pool = pool!(size: 2, max_queue: @callers)
    storm(pool, timeout: 60_000)
    for _ <- 1..2, do: :erlang.garbage_collect()
    before = :erlang.memory(:processes_used) + :erlang.memory(:binary)
    for _ <- 1..3, do: storm(pool, timeout: 60_000)
    # Other tests run beside this one: far less than the callers of one storm took together.
    assert eventually(fn ->
             :erlang.garbage_collect()
             :erlang.memory(:processes_used) + :erlang.memory(:binary) - before < 20_000_000
           end)
  end
end
