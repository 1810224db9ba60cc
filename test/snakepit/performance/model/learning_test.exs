defmodule Snakepit.Performance.Model.LearningTest do
  # Kills a process that all pools share.
  use Snakepit.Case, async: false
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.Learning
  alias Snakepit.Pool.Handle

  test "killed under load: no call fails, and what was learned stays" do
    pool = pool!(size: 2, performance_policy: [enabled: true])
    {:ok, handle} = Handle.fetch(pool)
    data = Snakepit.bytes(:binary.copy("x", 100_000))

    callers =
      for _ <- 1..4 do
        Task.async(fn -> for _ <- 1..300, do: Snakepit.execute("length", %{x: data}, pool: pool) end)
      end

    for _ <- 1..3 do
      pid = Process.whereis(Learning)
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^ref, _, _, :killed}
      assert eventually(fn -> Process.whereis(Learning) not in [nil, pid] end)
    end

    answers = callers |> Task.await_many(60_000) |> List.flatten()
    assert Enum.all?(answers, &(&1 == {:ok, 100_000})) and length(answers) == 1_200
    :ok = Learning.learn_now(pool)
    assert %{recorded: 1_200, version: version} = Model.counts(handle.performance)
    assert version > 0
    assert Model.same?(handle.performance, elem(Handle.fetch(pool), 1).performance)
  end

  test "ways that calls do not take are probed, by nobody's call" do
    pool = pool!(performance_policy: [enabled: true, exploration_rate: 0])
    {:ok, handle} = Handle.fetch(pool)
    # By the threshold these go inline, so that nothing else would ever tell what shared memory takes.
    data = Snakepit.bytes(:binary.copy("x", 50_000))
    line = %{direction: :request, way: :zero_copy, type: :binary, size: 50_000}
    samples = fn -> Model.line(handle.performance, line).samples end
    assert samples.() == 0

    made = :counters.new(1, [])

    # Each second the calls of that second are looked at.
    assert eventually(fn ->
             {:ok, 50_000} = Snakepit.execute("length", %{x: data}, pool: pool)
             :counters.add(made, 1, 1)
             samples.() > 0
           end)

    calls = :counters.get(made, 1)
    assert {:ok, %{calls: ^calls, request_zero_copy: 0}} = Snakepit.get_stats(pool)
  end

  test "with learning off, calls change nothing" do
    pool = pool!(performance_policy: [enabled: true, learning_enabled: false])
    {:ok, handle} = Handle.fetch(pool)
    before = Model.export(handle.performance)
    for n <- 1..50, do: {:ok, _} = Snakepit.execute("add", %{a: n, b: 1}, pool: pool)
    :ok = Learning.learn_now(pool)
    assert Model.export(handle.performance) == before
  end
end
