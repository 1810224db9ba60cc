defmodule Mix.Tasks.Snakepit.Explain do
  @shortdoc "Shows which way calls go on this machine, by size, and why"

  @usage """
      mix snakepit.explain [--pool NAME] [--type TYPE] [--size SIZE]

  Options:

    * `--pool NAME` - a configured pool; by default the default one, or one of its own if none is configured
    * `--type TYPE` - #{Enum.join(Snakepit.Performance.data_types(), ", ")}; by default binary
    * `--size SIZE` - one transfer of this size (`64KB`) in detail, by every way
    * `--help` - print this text
  """

  @moduledoc """
  Shows which way the calls of a pool go on this machine, for every size, what that is expected to take, and why.

  #{@usage}
  The pool is started, and calibrated if no calibration of it is kept.
  """
  use Mix.Task

  alias Snakepit.Performance.{CostBenefitAnalyzer, Explanation}
  alias Snakepit.Performance.Model.Learning
  alias Snakepit.Pool.Handle
  alias Snakepit.Terminal.{Table, Units}

  @requirements ["app.config"]
  # A pool has at least one tool; this one is never called.
  @source "from snakepit import tool\n\n@tool\ndef nothing() -> None: ...\n"
  @switches [pool: :string, type: :string, size: :string, help: :boolean]

  @impl true
  def run(argv) do
    case OptionParser.parse(argv, strict: @switches) do
      {opts, [], []} -> if opts[:help], do: Mix.shell().info(@usage), else: explain(opts)
      {_, [word | _], []} -> fail("unexpected argument #{word}; see mix help snakepit.explain")
      {_, _, [{option, _} | _]} -> fail("unknown option #{option}; see mix help snakepit.explain")
    end
  end

  defp explain(opts) do
    Logger.configure(level: :warning)
    type = type(opts[:type] || "binary")
    size = opts[:size] && size(opts[:size])

    Snakepit.run_as_script(fn ->
      handle = handle(opts[:pool])
      Learning.await_calibrated(handle.name)
      with {:error, error} <- Snakepit.Performance.enabled(handle), do: fail(Exception.message(error))
      Mix.shell().info(Explanation.format(Explanation.new(handle, type, nil)))
      if size, do: for(direction <- [:request, :reply], do: one(handle, type, size, direction))
    end)

    :ok
  end

  @doc false
  # A configured pool, or one of the task's own, ready.
  @spec handle(String.t() | nil) :: Handle.t()
  def handle(name) do
    pool = (name && Enum.find(Handle.names(), &(to_string(&1) == name))) || Snakepit.default_pool()

    cond do
      name && to_string(pool) != name ->
        known = Enum.map_join(Handle.names(), ", ", &to_string/1)
        fail("there is no pool #{name}; configured are: #{if known == "", do: "none", else: known}")

      pool ->
        ready(pool)

      true ->
        own = [name: :snakepit_explain, size: 1, python: @source]
        {:ok, _} = started(own ++ [performance_policy: [enabled: true]])
        ready(:snakepit_explain)
    end
  end

  defp started(options) do
    with {:error, error} <- Snakepit.start_pool(options), do: fail(Exception.message(error))
  end

  defp ready(pool) do
    with {:error, error} <- Snakepit.Pool.await_ready(pool, :infinity), do: fail(Exception.message(error))
    {:ok, handle} = Handle.fetch(pool)
    handle
  end

  defp one(handle, type, size, direction) do
    data = %{pool: handle.name, data_size: size, data_type: type, direction: direction}
    {:ok, analysis} = CostBenefitAnalyzer.analyze(data)

    rows =
      for {way, m} <- Enum.sort_by(analysis.methods, fn {_, m} -> m.total_cost end) do
        {low, high} = m.latency_interval_us

        [
          if(way == analysis.recommendation, do: "→ #{way}", else: "  #{way}"),
          Units.time(m.estimated_latency_us * 1000),
          "#{Units.time(low * 1000)} – #{Units.time(high * 1000)}",
          Units.time(m.estimated_cpu_us * 1000),
          Units.bytes(m.estimated_memory),
          Units.digits(m.total_cost),
          if(m.samples == 0, do: "assumed", else: Units.count(m.samples))
        ]
      end

    columns = [
      {to_string(direction), :left},
      {"takes", :right},
      {"95 %", :left},
      {"CPU", :right},
      {"memory", :right},
      {"cost", :right},
      {"samples", :right}
    ]

    Mix.shell().info(["\n", Table.format(columns, rows), analysis.rationale])
  end

  defp type(text) do
    Enum.find(Snakepit.Performance.data_types(), &(to_string(&1) == text)) ||
      fail("--type: expected one of #{Enum.join(Snakepit.Performance.data_types(), ", ")}, got: #{text}")
  end

  defp size(text) do
    case Snakepit.Options.bytes(text) do
      {:ok, bytes} -> bytes
      :error -> fail("--size: expected a number of bytes, such as 4096 or 64KB, got: #{text}")
    end
  end

  @spec fail(String.t()) :: no_return()
  defp fail(message), do: Mix.raise("snakepit.explain: " <> message)
end
