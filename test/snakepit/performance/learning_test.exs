defmodule Snakepit.Performance.LearningTest do
  # Kills a process that all pools share.
  use Snakepit.Case, async: false
  alias Snakepit.Performance.Learning
  alias Snakepit.Pool.Handle
  alias Snakepit.Native

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
    {_, _, recorded, _, version, _} = Native.brain_counts(handle.brain)
    assert recorded == 1_200
    assert version > 0
    assert handle.brain == elem(Handle.fetch(pool), 1).brain
  end

  test "with learning off, calls change nothing" do
    pool = pool!(performance_policy: [enabled: true, learning_enabled: false])
    {:ok, handle} = Handle.fetch(pool)
    before = Native.brain_export(handle.brain)
    for n <- 1..50, do: {:ok, _} = Snakepit.execute("add", %{a: n, b: 1}, pool: pool)
    :ok = Learning.learn_now(pool)
    assert Native.brain_export(handle.brain) == before
  end
end
