defmodule Snakepit.Performance.ResourceMonitorTest do
  # Others' monitors may speak of what is scarce meanwhile.
  use Snakepit.Case, async: false
  import ExUnit.CaptureLog
  require Logger
  alias Snakepit.Performance.{ResourceMonitor, Settings}
  alias Snakepit.Pool.Handle
  alias Snakepit.{Machine, Native}

  defp sample(fields),
    do:
      Map.merge(
        %{
          memory_used: 0.1,
          available_memory: 5,
          cpu: 0.1,
          cpu_times: nil,
          memory_psi: nil,
          cpu_psi: nil,
          run_queue: 0
        },
        fields
      )

  test "samples of this machine" do
    assert eventually(fn -> ResourceMonitor.now().cpu != nil end)
    now = ResourceMonitor.now()
    assert now.memory_used > 0 and now.memory_used < 1
    assert now.available_memory > 0
    assert now.cpu >= 0 and now.cpu <= 1
    assert now.run_queue >= 0
    assert eventually(fn -> is_integer(ResourceMonitor.now().arena_bytes) end)
    assert {busy, all} = Machine.cpu_times()
    assert busy > 0 and busy < all
  end

  test "acts when something becomes scarce, and when it no longer is" do
    me = self()
    source = :atomics.new(1, [])
    :atomics.put(source, 1, 10)

    {:ok, _} =
      ResourceMonitor.start_link(
        publish: false,
        settings: %Settings{memory_pressure_threshold: 0.8, cpu_pressure_threshold: 0.8},
        sample: fn _ -> sample(%{memory_used: :atomics.get(source, 1) / 100}) end,
        act: &send(me, {:act, &1})
      )

    assert_receive {:act, 0}, 5_000
    :atomics.put(source, 1, 90)
    assert_receive {:act, 2}, 5_000
    # Sent again, for pools that start meanwhile.
    assert_receive {:act, 2}, 5_000
    :atomics.put(source, 1, 50)
    assert_receive {:act, 0}, 5_000
    refute_received {:act, 0}
  end

  test "what lasts is logged once, and nothing else" do
    source = :atomics.new(1, [])
    id = System.unique_integer([:positive])
    modules = [ResourceMonitor, __MODULE__]
    for module <- modules, do: Logger.put_module_level(module, :debug)
    on_exit(fn -> Enum.each(modules, &Logger.delete_module_level/1) end)

    log =
      capture_log(fn ->
        {:ok, monitor} =
          ResourceMonitor.start_link(
            publish: false,
            settings: %Settings{memory_pressure_threshold: 0.8, cpu_pressure_threshold: 0.8},
            sample: fn _ -> sample(%{memory_used: :atomics.get(source, 1) / 100}) end,
            act: fn _ -> :ok end
          )

        ticks = fn percent, n ->
          :atomics.put(source, 1, percent)
          for _ <- 1..n, do: send(monitor, :tick)
          :sys.get_state(monitor)
          Logger.debug("mark #{id}")
        end

        # As at a start: for a moment, and to and fro.
        for _ <- 1..20, do: {ticks.(90, 50), ticks.(10, 50)}
        Logger.debug("mark #{id} begins")
        ticks.(90, 150)
        ticks.(90, 300)
        ticks.(10, 150)
      end)

    [before, during] = String.split(log, "mark #{id} begins")
    refute before =~ "scarce"
    assert length(String.split(during, "scarce: memory")) == 2
    assert length(String.split(during, "nothing is scarce any more")) == 2
  end

  test "scarce memory: a pool's idle chunks and its workers' are given back" do
    pool = pool!(performance_policy: [enabled: true])
    {:ok, handle} = Handle.fetch(pool)
    data = :binary.copy("x", 5_000_000)
    {:ok, _} = Snakepit.execute("identity", %{x: Snakepit.bytes(data)}, pool: pool, transfer: :zero_copy)
    :erlang.garbage_collect()
    assert Native.arena_usage(handle.arena).held_bytes > 0
    [worker] = Snakepit.Pool.Supervisor.workers(pool)

    :ok = Snakepit.Pool.Arena.scarce(handle, true)
    :ok = Snakepit.Worker.idle_ms(worker, 0)
    assert eventually(fn -> Native.arena_usage(handle.arena).held_bytes == 0 end)
    assert eventually(fn -> MapSet.size(elem(:sys.get_state(worker), 1).chunks) == 0 end)

    # And calls go on, by whatever is left.
    assert {:ok, ^data} = Snakepit.execute("identity", %{x: Snakepit.bytes(data)}, pool: pool)
  end

  test "killed, it comes back, and readers never noticed" do
    pid = Process.whereis(ResourceMonitor)
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}
    assert %{memory_pressure?: _} = ResourceMonitor.now()
    assert eventually(fn -> Process.whereis(ResourceMonitor) not in [nil, pid] end)
  end
end
