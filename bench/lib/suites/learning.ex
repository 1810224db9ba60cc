defmodule Snakepit.Bench.Learning do
  @moduledoc """
  How well the cost model learns in simulated worlds whose truth is known: regret, right choices, and how its drift test and its
  holdout behave. The model, its table, the drift test and the comparison are the real ones (`bench/native/src/worlds.rs`); the
  worlds are not: what a real machine does is measured by `regret`.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.Bench.Floor.Native
  alias Snakepit.Bench.Result

  @impl true
  def name, do: "learning"

  @impl true
  def about, do: "the cost model in simulated worlds: regret, drift, holdout"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 110, else: 420)

  @impl true
  def run(%{quick?: quick?, progress: progress}) do
    Native.load!()
    seeds = if quick?, do: 5, else: 20
    context = %{progress: progress, seeds: seeds}
    {calls, change} = {12_000, 6_000}

    [stationary, slope, hardware, load, tenants, adversarial] =
      for world <- [:stationary, :slope_doubles, :other_hardware, :load, :two_tenants, :adversarial_sizes],
          do: runs(context, world, calls, change)

    changed = slope ++ hardware
    all = stationary ++ load ++ tenants ++ adversarial ++ changed
    long = alarms(context, if(quick?, do: 2, else: 4))

    [
      result("regret_percent.stationary", "%", stationary, & &1.regret_percent, {:at_most, 1}),
      result("regret_percent.after_slope_change", "%", slope, & &1.regret_after_percent, {:at_most, 3}),
      result("regret_percent.after_hardware_change", "%", hardware, & &1.regret_after_percent, {:at_most, 3}),
      result("regret_percent.load", "%", load, & &1.regret_percent, {:at_most, 3}),
      result("regret_percent.two_tenants", "%", tenants, & &1.regret_percent, {:at_most, 3}),
      result("regret_percent.adversarial_sizes", "%", adversarial, & &1.regret_percent, {:at_most, 3}),
      result("correct_choice", "share", all, & &1.correct, {:at_least, 0.95}),
      long,
      result("detection_delay_samples", "calls", changed, &(&1.delay || calls), {:at_most, 200}),
      false_rollbacks(context, if(quick?, do: 20, else: 100))
    ]
  end

  defp runs(%{progress: progress, seeds: seeds}, world, calls, change) do
    for seed <- 1..seeds do
      progress.("#{world}, run #{seed} of #{seeds}")
      Native.simulated(world, seed, calls, change)
    end
  end

  defp result(name, unit, runs, value, target),
    do: Result.new("learning.sim.#{name}", unit, Enum.map(runs, &(value.(&1) * 1.0)), target)

  # Nothing changes in so many million calls.
  defp alarms(%{progress: progress}, millions) do
    counts =
      for n <- 1..millions do
        progress.("false alarms, million #{n} of #{millions}")
        Native.simulated(:stationary, 1_000 + n, 1_000_000, 1_000_000).alarms_before
      end

    Result.new(
      "learning.sim.false_alarms_per_million",
      "alarms",
      [Enum.sum(counts) / millions],
      {:at_most, 1}
    )
  end

  # Neither way is better, so that nothing that was learned can be worse than the rules.
  defp false_rollbacks(%{progress: progress}, count) do
    rolled_back =
      for n <- 1..count do
        progress.("false rollbacks, run #{n} of #{count}")
        Native.simulated(:equal, 5_000 + n, 60_000, 60_000).rolled_back
      end

    share = Enum.count(rolled_back, & &1) / count
    Result.new("learning.sim.false_rollbacks", "share", [share], {:at_most, 0.01})
  end
end
