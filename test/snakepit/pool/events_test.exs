defmodule Snakepit.Pool.EventsTest do
  use Snakepit.Case, async: true
  alias Snakepit.Pool.{Events, Supervisor}

  test "a pool's life is announced to those that subscribed" do
    :ok = Events.subscribe()
    pool = pool!(size: 2)
    workers = Supervisor.workers(pool)
    assert_received {Events, {:pool_started, ^pool}}
    for worker <- workers, do: assert_received({Events, {:worker_up, ^pool, ^worker}})

    # Its process is started anew, and its workers with it.
    handle = Snakepit.Pool.Handle.fetch!(pool)
    handle.pool |> GenServer.whereis() |> Process.exit(:kill)
    assert_receive {Events, {:pool_started, ^pool}}, 30_000
    for _ <- workers, do: assert_receive({Events, {:worker_up, ^pool, _worker}}, 30_000)

    :ok = Snakepit.stop_pool(pool)
    assert_receive {Events, {:pool_stopped, ^pool}}, 30_000
  end

  test "a pool whose process is started anew has a model that knows nothing" do
    pool = pool!(performance_policy: [enabled: true, goal: :minimize_memory])
    before = Snakepit.Pool.Handle.fetch!(pool)
    :ok = Events.subscribe()
    before.pool |> GenServer.whereis() |> Process.exit(:kill)
    assert_receive {Events, {:pool_started, ^pool}}, 30_000
    now = Snakepit.Pool.Handle.fetch!(pool)
    refute Snakepit.Performance.Model.same?(before.performance, now.performance)
    assert now.performance.policy == before.performance.policy
  end
end
