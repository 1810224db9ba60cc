defmodule Snakepit.Worker.RecyclingTest do
  use Snakepit.Case, async: true
  alias Snakepit.Pool.Options
  alias Snakepit.Worker.Recycling

  defp options(given) do
    {:ok, options} = Options.new([name: :x, python_module: "x"] ++ given)
    options
  end

  @vitals %{age_ms: 1000, calls: 50, pss: 100 * 1024 * 1024}

  test "each limit by itself" do
    refute Recycling.wanted?(options([]))
    assert Recycling.due(options([]), @vitals) == nil

    for {given, not_yet, word} <- [
          {[worker_ttl: 1000], %{age_ms: 999}, "worker_ttl"},
          {[worker_max_requests: 50], %{calls: 49}, "worker_max_requests"},
          {[memory_threshold_mb: 99], %{pss: 99 * 1024 * 1024}, "memory_threshold_mb"},
          {[memory_threshold_mb: 99], %{pss: nil}, "memory_threshold_mb"}
        ] do
      assert Recycling.wanted?(options(given))
      assert Recycling.due(options(given), @vitals) =~ word
      assert Recycling.due(options(given), Map.merge(@vitals, not_yet)) == nil
    end
  end

  test "why, by the limit as it was given" do
    why = &Recycling.due(options(&1), Map.merge(@vitals, %{age_ms: 1003, calls: 1}))
    assert why.(worker_ttl: 1000) == "it ran for 1000 ms (:worker_ttl)"
    assert why.(worker_max_requests: 1) == "it served 1 call (:worker_max_requests is 1)"
  end

  defp pids(pool), do: for(%{os_pid: pid} <- Snakepit.list_workers(pool), do: pid)

  # Calls without a pause, each of which must be answered, until every worker is another one. No call may even wait in
  # line: the pool has no line.
  defp calls_until_replaced(pool, old) do
    results = for n <- 1..200, do: Snakepit.execute("add", %{a: n, b: 1}, pool: pool)
    assert Enum.all?(Enum.with_index(results, 1), fn {result, n} -> result == {:ok, n + 1} end)
    if Enum.any?(pids(pool), &(&1 in old)), do: calls_until_replaced(pool, old), else: :ok
  end

  for {name, given} <- [
        "by age": [worker_ttl: 300],
        "by calls": [worker_max_requests: 100]
      ] do
    test "#{name}: replaced while calls go on, none is refused, and the old process is gone" do
      pool = pool!([size: 1, max_queue: 0] ++ unquote(given))
      old = pids(pool)
      assert calls_until_replaced(pool, old) == :ok
      assert eventually(fn -> not Enum.any?(old, &alive?/1) end)
      assert eventually(fn -> length(pids(pool)) == 1 end)
    end
  end

  @mib 1024 * 1024

  test "by memory" do
    pss = pool!(size: 1) |> pids() |> hd() |> Snakepit.Machine.pss()
    pool = pool!(size: 1, max_queue: 0, memory_threshold_mb: div(pss, @mib) + 50)
    old = pids(pool)

    Snakepit.execute!("keep", %{x: Snakepit.bytes(:binary.copy("x", 100 * @mib))},
      pool: pool,
      transfer: :inline
    )

    assert calls_until_replaced(pool, old) == :ok
  end

  test "a threshold that its modules alone exceed: said, and not acted upon again and again" do
    log =
      ExUnit.CaptureLog.capture_log(fn ->
        pool = pool!(size: 1, memory_threshold_mb: 1, worker_max_requests: 10)
        first = pids(pool)
        # It is looked at by now, and replaced for its calls only.
        assert calls_until_replaced(pool, first) == :ok
      end)

    assert log =~ ":memory_threshold_mb is 1"
    refute log =~ "it holds"
  end

  @tag :tmp_dir
  test "one worker of a pool at a time", %{tmp_dir: dir} do
    # Notes who imports, and imports until it is let go, but for the first two.
    File.write!(Path.join(dir, "counted.py"), """
    import os, time
    me = os.path.join(#{inspect(dir)}, f"import.{os.getpid()}")
    open(me, "w").close()
    while len([n for n in os.listdir(#{inspect(dir)}) if n.startswith("import.")]) > 2:
        if os.path.exists(os.path.join(#{inspect(dir)}, "go")):
            break
        time.sleep(0.005)
    from snakepit import tool
    @tool
    def pid() -> int:
        return os.getpid()
    """)

    pool = pool!(size: 2, worker_ttl: 1, python_module: "counted", python_path: [dir])
    imports = fn -> Enum.count(File.ls!(dir), &String.starts_with?(&1, "import.")) end
    old = pids(pool)
    assert eventually(fn -> imports.() == 3 end)
    # Both are due, and have looked at that since.
    slots = :sys.get_state(GenServer.whereis(Snakepit.Pool.Handle.name(:manager, pool))).slots
    assert [_one] = for({_index, %{successor: %{}} = slot} <- slots, do: slot)
    File.write!(Path.join(dir, "go"), "")
    assert eventually(fn -> not Enum.any?(old, &alive?/1) end)
  end

  @tag :tmp_dir
  test "a call that runs is not disturbed", %{tmp_dir: dir} do
    pool = pool!(size: 1, worker_ttl: 200)
    [old] = pids(pool)
    {started, go_on} = {dir <> "/started", dir <> "/go_on"}

    task =
      Task.async(fn -> Snakepit.execute("touch_and_wait", %{started: started, go_on: go_on}, pool: pool) end)

    assert eventually(fn -> File.exists?(started) end)
    # The successor answers while the call goes on.
    assert eventually(fn -> Snakepit.execute!("pid", %{}, pool: pool) != old end)
    assert alive?(old)
    File.write!(go_on, "")
    assert {:ok, true} = Task.await(task)
    assert eventually(fn -> not alive?(old) end)
  end

  @tag :tmp_dir
  test "a successor that does not start: the old one goes on", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "sometimes.py"), """
    import os
    if os.path.exists(#{inspect(Path.join(dir, "broken"))}):
        raise RuntimeError("broken now")
    from snakepit import tool
    @tool
    def pid() -> int:
        return os.getpid()
    """)

    pool = pool!(size: 1, worker_max_requests: 3, python_module: "sometimes", python_path: [dir])
    old = Snakepit.execute!("pid", %{}, pool: pool)
    File.write!(Path.join(dir, "broken"), "")

    log =
      ExUnit.CaptureLog.capture_log(fn ->
        for _ <- 1..5, do: Snakepit.execute!("pid", %{}, pool: pool)
        supervisor = {:workers, pool}
        [{pid, _}] = Registry.lookup(Snakepit.Registry, supervisor)
        assert eventually(fn -> length(DynamicSupervisor.which_children(pid)) == 2 end)
        assert eventually(fn -> length(DynamicSupervisor.which_children(pid)) == 1 end)
        # Its own process has heard of it when it answers.
        assert [%{os_pid: ^old}] = Snakepit.list_workers(pool)
      end)

    assert log =~ "broken now"
    assert Snakepit.execute!("pid", %{}, pool: pool) == old
  end

  @tag :tmp_dir
  test "killed together with its successor: the pool is whole again", %{tmp_dir: dir} do
    # Imports until it is let go, from the second time on.
    File.write!(Path.join(dir, "held.py"), """
    import os, time
    open(os.path.join(#{inspect(dir)}, f"import.{os.getpid()}"), "w").close()
    while len([n for n in os.listdir(#{inspect(dir)}) if n.startswith("import.")]) == 2:
        time.sleep(0.005)
    from snakepit import tool
    @tool
    def pid() -> int:
        return os.getpid()
    """)

    pool = pool!(size: 1, worker_max_requests: 1, python_module: "held", python_path: [dir])
    imports = fn -> for "import." <> pid <- File.ls!(dir), do: pid end
    Snakepit.execute!("pid", %{}, pool: pool)
    assert eventually(fn -> length(imports.()) == 2 end)
    {_, 0} = System.cmd("kill", ["-KILL" | imports.()])
    assert eventually(fn -> match?({:ok, _}, Snakepit.execute("pid", %{}, pool: pool, timeout: 1_000)) end)
  end
end
