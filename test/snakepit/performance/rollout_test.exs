defmodule Snakepit.Performance.RolloutTest do
  use ExUnit.Case, async: true
  alias Snakepit.Performance.Model.Holdout
  alias Snakepit.Performance.Rollout

  @open %Holdout{learned: 10, held_out: 1, ratio: 1.0, interval: nil, worse: false}
  @worse %Holdout{learned: 9_000, held_out: 900, ratio: 0.8, interval: {0.7, 0.9}, worse: true}

  defp look(r, calls, error, holdout \\ @open),
    do: Rollout.update(r, %{calls: calls, error: error, holdout: holdout}, 1_000, calls)

  test "a stage that is named stays, whatever is seen" do
    for stage <- [:observe, :confident, :adaptive] do
      r = Rollout.new(stage)
      assert look(r, 1_000_000, 0.01) == r
      assert look(r, 1_000_000, 3.0) == r
    end

    assert Rollout.bar(Rollout.new(:adaptive)) == 0.0
    assert Rollout.bar(Rollout.new(:confident)) == 0.9
    assert Rollout.bar(Rollout.new(:observe)) > 1.0
  end

  test "auto climbs a rung at a time, each after enough calls that were predicted well" do
    {_, seen} =
      Enum.reduce(0..20_000//500, {Rollout.new(:auto), []}, fn calls, {r, seen} ->
        next = look(r, calls, 0.1)

        {next,
         if({next.stage, next.bar} == List.first(seen), do: seen, else: [{next.stage, next.bar} | seen])}
      end)

    assert [
             {:observe, 0.9},
             {:confident, 0.9},
             {:confident, b},
             {:confident, c},
             {:confident, d},
             {:adaptive, _}
           ] = Enum.reverse(seen)

    for {bar, wanted} <- [{b, 0.8}, {c, 0.7}, {d, 0.6}], do: assert_in_delta(bar, wanted, 1.0e-6)
  end

  test "auto stays where there are too few calls, or predictions are bad or missing" do
    r = Rollout.new(:auto)
    assert look(r, 999, 0.1) == r
    assert look(r, 1_000, 0.3) == r
    assert look(r, 1_000, nil) == r

    assert %{stage: :confident, reason: "half of the predictions are off by less than 20 %"} =
             look(r, 1_000, 0.2)
  end

  test "what was learned and is worse is rolled back at once, from any stage that acts on it" do
    for wanted <- [:confident, :adaptive] do
      assert %{stage: :rolled_back, reason: reason} = back = look(Rollout.new(wanted), 5_000, 0.1, @worse)

      assert reason ==
               "calls by the rules take 0.80 times as long as those by measurements (0.70 to 0.90; 900 and 9000 calls)"

      assert Rollout.bar(back) > 1.0
      # Until somebody resumes it.
      assert look(back, 1_000_000, 0.01) == back
      assert %{stage: ^wanted, reason: "resumed by hand", calls: 7} = Rollout.resume(back, 7, 0)
    end

    observing = Rollout.new(:observe)
    assert look(observing, 5_000, 0.1, @worse) == observing
  end

  test "auto begins anew, later" do
    back = Rollout.roll_back(Rollout.new(:auto), "so", 1_000, 0)
    assert look(back, 10_999, 0.1).stage == :rolled_back
    assert %{stage: :observe} = again = look(back, 11_000, 0.1)
    assert look(again, 11_500, 0.1).stage == :observe
    assert %{stage: :confident, bar: 0.9} = look(again, 12_000, 0.1)
  end

  test "counts that begin anew, with another model, are no progress" do
    assert %{calls: 10, stage: :observe} = look(%{Rollout.new(:auto) | calls: 5_000}, 10, 0.1)
  end
end
