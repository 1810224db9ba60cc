defmodule Snakepit.Bench.Peers do
  @moduledoc """
  Snakepit against other ways to call Python, in one run: bytes to a Python process and the same bytes back, from none to
  256 MiB, in turn, each result compared.

  `peers.<rival>.<size>.roundtrip.over_snakepit` is how many times as long the rival took. `bench/peers/setup` installs what
  rivals need; one that cannot run is said to be absent, and has no figures. `floor.<what>.<size>.roundtrip` is what bounds all
  of them (`Snakepit.Bench.Peers.Floors`), in the same run.
  """
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.{Bench, Stats}
  alias Snakepit.Bench.{Peer, Peers, Result}

  @mib 1024 * 1024
  @sizes [0, 64, 4_096, 65_536, @mib, 16 * @mib, 64 * @mib, 256 * @mib]
  @quick_sizes [0, 4_096, @mib, 16 * @mib]
  @modules [Peers.Floors, Peers.Snakepit, Peers.Tonic, Peers.Port, Peers.Msgpack, Peers.Erlport, Peers.Python]
  @ours "snakepit"

  @impl true
  def name, do: "peers"

  @impl true
  def about,
    do:
      "round trips over those of gRPC, ports, MessagePack, multiprocessing, ZeroMQ, iceoryx2, ray and Arrow Flight"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 60, else: 420)

  @impl true
  def wants, do: ["grpc"]

  @impl true
  def run(%{quick?: quick?, progress: progress, keep: keep}) do
    python = python()
    options = [size: 1, memory_quota: "4GB", performance_policy: [enabled: true, goal: :minimize_latency]]

    Bench.with_pool(options, fn pool ->
      context = %{pool: pool, python: python}
      {present, absent} = start(context, progress)

      try do
        keep.(absent)

        absent ++
          Enum.flat_map(if(quick?, do: @quick_sizes, else: @sizes), fn size ->
            results = compared(size, present, rounds(size, quick?), progress)
            keep.(results)
            results
          end)
      after
        for {_name, module, state} <- present, do: module.stop(state)
      end
    end)
  end

  defp start(context, progress) do
    started =
      for module <- @modules, {name, _about} <- module.peers() do
        progress.("start #{name}")
        {name, module, module.start(name, context)}
      end

    {for({name, module, {:ok, state}} <- started, do: {name, module, state}),
     for({name, _, {:absent, why}} <- started, do: Result.absent("peers.#{name}", why))}
  end

  # {rounds, round trips in each}: enough for the noise, and no more than some seconds of the slowest.
  defp rounds(size, quick?) do
    {rounds, each} =
      cond do
        size <= 65_536 -> {30, 50}
        size <= @mib -> {30, 10}
        size <= 16 * @mib -> {15, 3}
        true -> {7, 2}
      end

    if quick?, do: {max(div(rounds, 4), 3), each}, else: {rounds, each}
  end

  defp compared(size, peers, {rounds, each}, progress) do
    data = Peer.payload(size)

    peers =
      Enum.filter(peers, fn {_name, module, state} -> module.round_trips(state, data, max(each, 3)) != [] end)

    samples =
      for round <- 1..rounds do
        for {name, module, state} <- Enum.shuffle(peers), into: %{} do
          progress.("#{label(size)}, round #{round} of #{rounds}: #{name}")
          {name, Stats.median(module.round_trips(state, data, each))}
        end
      end

    for {name, module, _} <- peers, result <- figures(module, name, size, samples), do: result
  end

  defp figures(Peers.Floors, name, size, samples), do: [time("floor", name, size, samples)]
  defp figures(Peers.Snakepit, name, size, samples), do: [time("peers", name, size, samples)]

  defp figures(_rival, name, size, samples) do
    ratios = for round <- samples, do: round[name] / round[@ours]
    label = "peers.#{name}.#{label(size)}.roundtrip.over_snakepit"
    [Result.new(label, "ratio", ratios, {:at_least, least(name)}), time("peers", name, size, samples)]
  end

  # One that keeps two cores to itself is a ceiling, and no rival.
  defp least("iceoryx2_spinning"), do: 0.8
  defp least(_sleeps), do: 1

  defp time(kind, name, size, samples) do
    times = for round <- samples, do: round[name] / 1000
    Result.new("#{kind}.#{name}.#{label(size)}.roundtrip", "µs", times)
  end

  defp label(size) when size >= @mib, do: "#{div(size, @mib)}MiB"
  defp label(size) when size >= 1024, do: "#{div(size, 1024)}KiB"
  defp label(size), do: "#{size}B"

  @doc "The interpreter that has the peers' packages; without `bench/peers/setup`, that of workers."
  @spec python() :: Path.t()
  def python do
    own = Path.expand("../peers/bin/python", Path.dirname(Path.dirname(Snakepit.Python.venv_python())))
    if File.exists?(own), do: own, else: Snakepit.Python.venv_python()
  end
end
