defmodule Snakepit.Performance.RegressionTest do
  use ExUnit.Case, async: true
  alias Snakepit.Performance.Regression

  # Reproducible noise: times within a fifth of `us`, one in fifty ten times as long.
  defp times(us, count, seed) do
    {times, _} =
      Enum.map_reduce(1..count, :rand.seed_s(:exsss, seed), fn _, state ->
        {a, state} = :rand.uniform_s(state)
        {b, state} = :rand.uniform_s(state)
        {max(round(us * (0.8 + 0.4 * a) * if(b < 0.02, do: 10, else: 1)), 1), state}
      end)

    times
  end

  # All verdicts on the way, and where it ends.
  defp follow(r, times, threshold \\ 0.2) do
    Enum.reduce(times, {[], r}, fn us, {verdicts, r} ->
      {verdict, r} = r |> Regression.add(us) |> Regression.judge(threshold)
      {[verdict | verdicts], r}
    end)
  end

  test "nothing changes: nothing is found" do
    for seed <- 1..20 do
      {verdicts, _} = follow(Regression.new(), times(100, 3_000, seed))
      assert Enum.uniq(verdicts) == [:none], "seed #{seed}"
    end
  end

  test "half as slow again: found once, within a hundred transfers, and over when it is" do
    {_, r} = follow(Regression.new(), times(100, 1_000, 1))
    {verdicts, r} = follow(r, times(150, 100, 2))
    assert Enum.count(verdicts, &(&1 == :begins)) == 1 and hd(verdicts) == :lasts

    assert %{baseline_us: was, recent_us: is, change_percent: percent} =
             Regression.describe({:request, :inline, :binary, 64}, r)

    assert_in_delta was, 105, 10
    assert_in_delta is, 150, 20
    assert_in_delta percent, 40, 15
    {verdicts, _} = follow(r, times(100, 300, 3))
    assert Enum.count(verdicts, &(&1 == :ends)) == 1 and hd(verdicts) == :none
  end

  test "a new world is the usual one in the end" do
    {_, r} = follow(Regression.new(), times(100, 1_000, 1))
    {verdicts, _} = follow(r, times(200, 20_000, 2))
    assert hd(verdicts) == :none and :ends in verdicts
  end

  test "faster, or slower by less than the threshold, is none; nor are the first transfers of all" do
    {_, r} = follow(Regression.new(), times(100, 1_000, 1))

    for us <- [50, 110],
        {verdicts, _} = follow(r, times(us, 1_000, 2)),
        do: assert(Enum.uniq(verdicts) == [:none])

    {verdicts, _} = follow(Regression.new(), times(100, 20, 1) ++ times(300, 100, 2))
    assert Enum.uniq(verdicts) == [:none]
  end

  test "only its like is compared with a transfer" do
    key = &Regression.key(:request, :inline, :binary, &1)
    assert key.(65_536) == key.(77_000)
    refute key.(65_536) == key.(78_000)

    for other <- [{:reply, :inline, :binary}, {:request, :zero_copy, :binary}, {:request, :inline, :string}] do
      {direction, way, type} = other
      refute Regression.key(direction, way, type, 65_536) == key.(65_536)
    end

    assert Regression.key(:reply, :grpc, :mixed, 0) == {:reply, :grpc, :mixed, 0}
    assert %{data_size: {65_536, 77_936}} = Regression.describe(key.(65_536), Regression.new())
  end
end
