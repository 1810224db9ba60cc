defmodule Mix.Tasks.Snakepit.Calibrate do
  @shortdoc "Measures the ways of a pool on this machine, thoroughly, and keeps the result"

  @usage """
      mix snakepit.calibrate [--pool NAME] [--seconds N] [--grpc]

  Options:

    * `--pool NAME` - a configured pool; by default the default one, or one of the bench's if none is configured
    * `--seconds N` - how long it may measure; by default 3
    * `--grpc` - gRPC too, which is started for it
    * `--help` - print this text
  """

  @moduledoc """
  Measures the ways of a pool on this machine, longer than a pool does when it starts, and keeps the result for its next
  starts.

  #{@usage}
  """
  use Mix.Task

  alias Snakepit.Performance.Explanation
  alias Snakepit.Performance.Model.{Calibration, Learning}
  alias Snakepit.Terminal.{Progress, Units}

  @requirements ["app.config"]

  @impl true
  def run(argv) do
    case OptionParser.parse(argv, strict: [pool: :string, seconds: :integer, grpc: :boolean, help: :boolean]) do
      {opts, [], []} ->
        if opts[:help], do: Mix.shell().info(@usage), else: calibrate(opts)

      {_, [word | _], []} ->
        fail("unexpected argument #{word}; see mix help snakepit.calibrate")

      {_, _, [{option, _} | _]} ->
        fail("unknown option #{option}, or no value for it; see mix help snakepit.calibrate")
    end
  end

  defp calibrate(opts) do
    Logger.configure(level: :warning)
    seconds = opts[:seconds] || 3
    if seconds < 1, do: fail("--seconds: expected at least 1, got: #{seconds}")

    Snakepit.run_as_script(fn ->
      handle = Mix.Tasks.Snakepit.Explain.handle(opts[:pool])
      Learning.await_calibrated(handle.name)
      with {:error, error} <- Snakepit.Performance.enabled(handle), do: fail(Exception.message(error))
      ways = if opts[:grpc], do: handle.options.transfers, else: Calibration.ways(handle.options.transfers)
      bar = Progress.begin(Progress.new(), "calibrate", 100)
      progress = &shown(bar, round(100 * &1))
      result = Calibration.run(handle, budget_ms: 1000 * seconds, ways: ways, progress: progress)
      Progress.clear(bar)
      report(result, handle)
    end)

    :ok
  end

  # Called for every probe, of which there are thousands.
  defp shown(bar, percent) do
    if Process.put({__MODULE__, :percent}, percent) != percent, do: Progress.advance(bar, percent, "")
  end

  defp report({:ok, summary}, handle) do
    Mix.shell().info(
      "#{Units.counted(summary.probes, "probe")} in #{summary.ms} ms; an empty call takes #{Units.time(summary.base_ns)}."
    )

    case Calibration.Kept.store(handle, handle.performance.settings) do
      {:ok, path} -> Mix.shell().info("Kept in #{path}.\n")
      {:error, reason} -> Mix.shell().error("It cannot be kept: #{:file.format_error(reason)}\n")
    end

    Mix.shell().info(Explanation.format(Explanation.new(handle, :binary, nil)))
  end

  defp report({:error, :busy}, _handle), do: fail("the pool is busy with calls: no lane was idle")

  defp report({:error, :nothing_to_compare}, _handle),
    do: fail("the pool allows one way only: there is nothing to compare")

  defp report({:error, error}, _handle), do: fail(Exception.message(error))

  @spec fail(String.t()) :: no_return()
  defp fail(message), do: Mix.raise("snakepit.calibrate: " <> message)
end
