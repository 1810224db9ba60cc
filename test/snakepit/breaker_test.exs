defmodule Snakepit.BreakerTest do
  use ExUnit.Case, async: true
  import :proper_types, only: [integer: 2, list: 1, oneof: 1]
  import Snakepit.Properties
  alias Snakepit.Breaker

  # No jitter.
  @sure [now: 0, random: &__MODULE__.one/0]
  @settings [window_ms: 80, failure_ratio: 0.5, minimum_calls: 4, open_ms: 100, lease_ms: 1_000]

  def one, do: 1.0
  def zero, do: 0.0

  defp breaker(settings \\ []),
    do: Breaker.new([:a, :b], @settings |> Keyword.merge(settings) |> Keyword.merge(@sure))

  defp fail(breaker, times, now), do: for(_ <- 1..times, do: Breaker.record(breaker, :a, :failure, nil, now))

  defp opened(settings \\ []) do
    breaker = breaker(settings)
    fail(breaker, 4, 0)
    breaker
  end

  test "retarget keeps state, counts and isolation of targets that stay, and closes new ones" do
    breaker = opened()
    Breaker.isolate(breaker, :b)
    other = Breaker.retarget(breaker, [:c, :a, :b])
    assert Enum.sort(Breaker.targets(other)) == [:a, :b, :c]

    for target <- [:a, :b],
        do: assert(Breaker.explain(other, target, 50) == Breaker.explain(breaker, target, 50))

    assert Breaker.isolated(other) == [:b]
    assert %{state: :closed, calls: 0, opened: 0} = Breaker.explain(other, :c, 50)
    fewer = Breaker.retarget(other, [:c])
    assert Breaker.targets(fewer) == [:c]
    assert Breaker.isolated(fewer) == []
  end

  test "minimum_failures changes the number of failures that opens it" do
    breaker = breaker(minimum_failures: 10) |> Breaker.minimum_failures(6)
    fail(breaker, 5, 0)
    assert Breaker.state(breaker, :a, 0) == :closed
    fail(breaker, 1, 0)
    assert Breaker.state(breaker, :a, 0) == :open
  end

  describe "closed" do
    test "it opens with the failure that makes the ratio, and not before the minimum of calls" do
      breaker = breaker()
      fail(breaker, 3, 10)
      assert Breaker.state(breaker, :a, 10) == :closed
      assert Breaker.allow(breaker, :a, 10) == :ok
      fail(breaker, 1, 10)
      assert Breaker.state(breaker, :a, 10) == :open
      assert Breaker.allow(breaker, :a, 10) == :open
      # Its neighbour's row is another.
      assert Breaker.allow(breaker, :b, 10) == :ok

      assert %{calls: 4, failures: 4, opened: 1, refused: 1, failed_probes: 0, retry_in_ms: 100} =
               Breaker.explain(breaker, :a, 10)

      assert %{calls: 0, opened: 0, refused: 0, retry_in_ms: nil} = Breaker.explain(breaker, :b, 10)
    end

    test "it stays closed below the ratio, however many failures there are" do
      breaker = breaker()
      for _ <- 1..500, result <- [:ok, :ok, :failure], do: Breaker.record(breaker, :a, result, nil, 5)
      assert %{state: :closed, calls: 1500, failures: 500} = Breaker.explain(breaker, :a, 5)
    end

    test "slow calls count as failures, void ones do not count" do
      breaker = breaker()
      for _ <- 1..100, do: Breaker.record(breaker, :a, :void, nil, 1)
      assert %{calls: 0} = Breaker.explain(breaker, :a, 1)
      for _ <- 1..4, do: Breaker.record(breaker, :a, :slow, nil, 1)
      assert Breaker.state(breaker, :a, 1) == :open
    end

    test "calls older than the window do not count" do
      breaker = breaker()
      fail(breaker, 3, 0)
      assert %{failures: 3} = Breaker.explain(breaker, :a, 70)
      assert %{failures: 0} = Breaker.explain(breaker, :a, 80)
      fail(breaker, 3, 80)
      assert Breaker.state(breaker, :a, 80) == :closed
      fail(breaker, 1, 80)
      assert Breaker.state(breaker, :a, 80) == :open
    end

    test "counts do not overflow: a bucket that is full is halved" do
      breaker = breaker(window_ms: 80_000_000)
      for _ <- 1..300_000, result <- [:ok, :ok, :failure], do: Breaker.record(breaker, :a, result, nil, 1)
      assert %{state: :closed, calls: calls, failures: failures} = Breaker.explain(breaker, :a, 1)
      assert calls > 60_000 and calls < 262_144
      assert_in_delta failures / calls, 1 / 3, 0.01
    end
  end

  describe "open" do
    test "after its time one caller has a probe, which closes it" do
      breaker = opened()
      assert Breaker.allow(breaker, :a, 99) == :open
      assert Breaker.refuses?(breaker, :a, 99)
      refute Breaker.refuses?(breaker, :a, 100)
      assert Breaker.state(breaker, :a, 100) == :half_open
      assert {:ok, probe} = Breaker.allow(breaker, :a, 100)
      assert Breaker.allow(breaker, :a, 100) == :open
      assert %{state: :half_open, retry_in_ms: 1_000} = Breaker.explain(breaker, :a, 100)
      # Calls of before it opened are not heard any more.
      Breaker.record(breaker, :a, :ok, nil, 101)
      assert Breaker.allow(breaker, :a, 101) == :open
      Breaker.record(breaker, :a, :ok, probe, 102)
      assert Breaker.allow(breaker, :a, 102) == :ok
      # And it starts anew.
      assert %{state: :closed, calls: 0, failures: 0} = Breaker.explain(breaker, :a, 102)
    end

    test "every failed probe doubles the time, up to a minute; a success resets it" do
      breaker = opened()

      {now, waits} =
        Enum.reduce(1..12, {100, []}, fn _, {now, waits} ->
          {:ok, probe} = Breaker.allow(breaker, :a, now)
          Breaker.record(breaker, :a, :failure, probe, now)
          %{retry_in_ms: wait} = Breaker.explain(breaker, :a, now)
          {now + wait, [wait | waits]}
        end)

      assert Enum.reverse(waits) ==
               [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000, 60_000]

      {:ok, probe} = Breaker.allow(breaker, :a, now)
      Breaker.record(breaker, :a, :ok, probe, now)
      fail(breaker, 4, now)
      assert %{retry_in_ms: 100, opened: 14} = Breaker.explain(breaker, :a, now)
    end

    test "jitter takes up to half" do
      breaker = Breaker.new([:a], @settings ++ [now: 0, random: &__MODULE__.zero/0])
      fail(breaker, 4, 0)
      assert %{retry_in_ms: 50} = Breaker.explain(breaker, :a, 0)
    end

    test "a probe without a result expires, and its late result is ignored" do
      breaker = opened()
      {:ok, lost} = Breaker.allow(breaker, :a, 100)
      assert Breaker.allow(breaker, :a, 1_099) == :open
      assert {:ok, next} = Breaker.allow(breaker, :a, 1_100)
      assert next != lost
      Breaker.record(breaker, :a, :ok, lost, 1_101)
      assert Breaker.allow(breaker, :a, 1_101) == :open
      Breaker.record(breaker, :a, :failure, lost, 1_101)
      assert %{state: :half_open, opened: 1} = Breaker.explain(breaker, :a, 1_101)
      Breaker.record(breaker, :a, :ok, next, 1_102)
      assert Breaker.allow(breaker, :a, 1_102) == :ok
      Breaker.record(breaker, :a, :failure, lost, 1_103)
      assert %{state: :closed, failures: 0} = Breaker.explain(breaker, :a, 1_103)
    end

    test "after a void probe the next caller gets one" do
      breaker = opened()
      {:ok, probe} = Breaker.allow(breaker, :a, 100)
      Breaker.record(breaker, :a, :void, probe, 100)
      assert {:ok, _probe} = Breaker.allow(breaker, :a, 100)
    end
  end

  describe "by hand" do
    test "it stays isolated until it is reset, whatever is recorded" do
      breaker = opened()
      {:ok, probe} = Breaker.allow(breaker, :a, 100)
      Breaker.isolate(breaker, :a)
      Breaker.record(breaker, :a, :ok, probe, 101)
      assert Breaker.isolated?(breaker, :a) and not Breaker.isolated?(breaker, :b)
      assert Breaker.isolated(breaker) == [:a]
      assert Breaker.allow(breaker, :a, 1_000_000) == :open
      assert Breaker.refuses?(breaker, :a, 1_000_000)
      assert %{state: :isolated, retry_in_ms: nil} = Breaker.explain(breaker, :a, 1_000_000)
      Breaker.reset(breaker, :a)
      assert Breaker.allow(breaker, :a, 1_000_000) == :ok
      assert Breaker.isolated(breaker) == []
    end

    test "reset closes at once, and the result of a running probe is ignored" do
      breaker = opened()
      {:ok, probe} = Breaker.allow(breaker, :a, 100)
      Breaker.reset(breaker, :a)
      Breaker.record(breaker, :a, :failure, probe, 101)
      assert %{state: :closed, calls: 0, failures: 0} = Breaker.explain(breaker, :a, 101)
    end
  end

  test "the clock is the machine's when none is given" do
    # So long that no machine stands still for it.
    breaker = Breaker.new([:a], Keyword.merge(@settings, window_ms: 600_000, open_ms: 600_000))
    for _ <- 1..4, do: Breaker.record(breaker, :a, :failure)
    assert Breaker.allow(breaker, :a) == :open
    assert %{retry_in_ms: ms} = Breaker.explain(breaker, :a)
    assert ms in 1..600_000
  end

  # ---- against a naive view: a list of what was recorded, and a tuple for the state ---------------------------------

  test "it behaves as a naive model does" do
    step =
      oneof([
        {:wait, integer(0, 60)},
        {:wait, integer(0, 1_500)},
        :allow,
        :allow,
        {:record, oneof([:ok, :failure, :slow, :void])},
        {:record, :failure},
        {:probe, oneof([:ok, :failure, :slow, :void])},
        :isolate,
        :reset
      ])

    holds(list(step), 3_000, fn steps ->
      model = %{now: 0, state: :closed, samples: [], failed: 0, leases: []}
      breaker = breaker()

      Enum.reduce_while(steps ++ [:allow], model, fn step, model ->
        {answer, model} = model(step, model)
        same? = answer == real(step, breaker, model) and Breaker.state(breaker, :a, model.now) == named(model)
        if same?, do: {:cont, model}, else: {:halt, {:differs, step, answer, model}}
      end)
      |> is_map()
    end)
  end

  # The owners of probes, in the order they got them: the model counts them, the breaker hands out the real ones.
  defp real(:allow, breaker, model) do
    case Breaker.allow(breaker, :a, model.now) do
      {:ok, probe} ->
        Process.put({:probe, length(model.leases)}, probe)
        :probe

      other ->
        other
    end
  end

  defp real({:record, result}, breaker, model), do: Breaker.record(breaker, :a, result, nil, model.now)

  defp real({:probe, result}, breaker, model) do
    if model.leases == [],
      do: :ok,
      else: Breaker.record(breaker, :a, result, Process.get({:probe, length(model.leases)}), model.now)
  end

  defp real(:isolate, breaker, _model), do: Breaker.isolate(breaker, :a)
  defp real(:reset, breaker, _model), do: Breaker.reset(breaker, :a)
  defp real({:wait, _ms}, _breaker, _model), do: :ok

  defp model({:wait, ms}, m), do: {:ok, %{m | now: m.now + ms}}
  defp model(:isolate, m), do: {:ok, %{m | state: :isolated}}
  defp model(:reset, m), do: {:ok, %{m | state: :closed, samples: [], failed: 0}}

  defp model(:allow, m) do
    case m.state do
      :closed -> {:ok, m}
      {_open_or_leased, until, _} when m.now >= until -> {:probe, lease(m)}
      _ -> {:open, m}
    end
  end

  defp model({:record, result}, %{state: :closed} = m) when result != :void do
    m = %{m | samples: [{m.now, result} | m.samples]}
    window = for {at, result} <- m.samples, div(at + 1, 10) > div(m.now + 1, 10) - 8, do: result
    failures = Enum.count(window, &(&1 != :ok))

    if result != :ok and length(window) >= 4 and failures / length(window) >= 0.5,
      do: {:ok, open(m)},
      else: {:ok, m}
  end

  defp model({:record, _result}, m), do: {:ok, m}

  defp model({:probe, result}, %{leases: [last | _], state: {:leased, _until, last}} = m) do
    case result do
      :ok -> {:ok, %{m | state: :closed, samples: [], failed: 0}}
      :void -> {:ok, %{m | state: {:open, m.now, nil}}}
      _ -> {:ok, open(%{m | failed: m.failed + 1})}
    end
  end

  defp model({:probe, _result}, m), do: {:ok, m}

  defp lease(m) do
    n = length(m.leases) + 1
    %{m | state: {:leased, m.now + 1_000, n}, leases: [n | m.leases]}
  end

  defp open(m), do: %{m | state: {:open, m.now + min(60_000, 100 * 2 ** m.failed), nil}}

  defp named(%{state: state}) when is_atom(state), do: state
  defp named(%{state: {:leased, _, _}}), do: :half_open
  defp named(%{state: {:open, until, _}, now: now}), do: if(now >= until, do: :half_open, else: :open)

  # ---- many processes -----------------------------------------------------------------------------------------------

  # All of them ask in the same moment, when a probe is due: as often as there are rounds.
  test "one of several simultaneous callers gets the probe" do
    {callers, rounds} = {max(System.schedulers_online(), 2), 20_000}
    breaker = opened(lease_ms: 10)
    # Arrivals, the round that began, and the probes of it.
    race = :atomics.new(3, [])

    wrong =
      1..callers
      |> Enum.map(fn n ->
        Task.async(fn -> Enum.sum(for r <- 1..rounds, do: race(breaker, race, n, callers, r)) end)
      end)
      |> Task.await_many(60_000)
      |> Enum.sum()

    assert wrong == 0
    assert %{refused: refused} = Breaker.explain(breaker, :a, 0)
    assert refused == rounds * (callers - 1)
  end

  defp race(breaker, race, n, callers, round) do
    meet(race, callers, 2 * round - 1)
    # Each lease is over when the next round begins.
    answer = Breaker.allow(breaker, :a, 100 * round)
    if answer != :open, do: :atomics.add(race, 3, 1)
    meet(race, callers, 2 * round)
    if n == 1 and :atomics.exchange(race, 3, 0) != 1, do: 1, else: 0
  end

  # Goes on when all are here.
  defp meet(race, callers, round) do
    if :atomics.add_get(race, 1, 1) == callers do
      :atomics.put(race, 1, 0)
      :atomics.put(race, 2, round)
    else
      spin(race, round, 1)
    end
  end

  defp spin(race, round, times) do
    if :atomics.get(race, 2) < round do
      if rem(times, 500) == 0, do: :erlang.yield()
      spin(race, round, times + 1)
    end
  end

  test "no two of many callers have a probe at the same time" do
    breaker = breaker(minimum_calls: 1, failure_ratio: 0.01, open_ms: 1, lease_ms: 1_000_000)
    held = :atomics.new(2, signed: true)
    # Time is a counter that all of them move: no lease ends while its owner has it.
    clock = :counters.new(1, [])

    wrong =
      1..16
      |> Task.async_stream(fn n -> hammer(breaker, held, clock, n) end, max_concurrency: 16, timeout: 60_000)
      |> Enum.map(fn {:ok, wrong} -> wrong end)
      |> Enum.sum()

    assert wrong == 0
    assert :atomics.get(held, 1) == 0
    # Else nothing was tried.
    assert :atomics.get(held, 2) > 100
  end

  defp hammer(breaker, held, clock, n) do
    :rand.seed(:exsss, n)

    Enum.count(1..5_000, fn _ ->
      :counters.add(clock, 1, 1)
      now = :counters.get(clock, 1)

      case Breaker.allow(breaker, :a, now) do
        :ok ->
          Breaker.record(breaker, :a, Enum.random([:ok, :failure]), nil, now)
          false

        :open ->
          false

        {:ok, probe} ->
          others = :atomics.add_get(held, 1, 1)
          :atomics.add(held, 2, 1)
          if :rand.uniform(4) == 1, do: :erlang.yield()
          :atomics.sub(held, 1, 1)
          Breaker.record(breaker, :a, Enum.random([:ok, :failure, :void]), probe, :counters.get(clock, 1))
          others != 1
      end
    end)
  end

  test "the counts of many callers are complete" do
    breaker = breaker(minimum_calls: 100_000, window_ms: 8_000)

    1..8
    |> Task.async_stream(fn n ->
      for i <- 1..2_000,
          do: Breaker.record(breaker, :a, if(rem(i, 2) == 0, do: :ok, else: :failure), nil, 900 * n)
    end)
    |> Stream.run()

    assert %{state: :closed, calls: 16_000, failures: 8_000} = Breaker.explain(breaker, :a, 7_200)
  end
end
