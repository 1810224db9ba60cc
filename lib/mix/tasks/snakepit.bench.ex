defmodule Mix.Tasks.Snakepit.Bench do
  @shortdoc "Measures Snakepit on this machine, against floors measured in the same run"

  @usage """
      mix snakepit.bench [SUITE…] [--quick] [--json FILE]

  Suites:

  #{Enum.map_join(Snakepit.Bench.suites(), "\n", &"  * `#{&1.name()}` - #{&1.about()}")}

  Options:

    * `--quick` - fewer rounds: wider intervals, the same questions
    * `--json FILE` - write the figures there as well
    * `--help` - print this text
  """

  @moduledoc """
  Measures Snakepit on this machine. Without a suite, all are run but those that take half an hour: `chaos`.

  #{@usage}
  Every figure is a median with its 95 % bootstrap interval; what is compared is measured in turn, in one run; each
  result is checked before its time counts. The exit status is 0 even when a target is missed: a bench measures.
  """
  use Mix.Task

  alias Snakepit.{Bench, Machine}
  alias Snakepit.Bench.{Json, Result}
  alias Snakepit.Terminal.{Progress, Table, Units}

  @requirements ["app.config"]

  @impl true
  def run(argv) do
    case OptionParser.parse(argv, strict: [quick: :boolean, json: :string, help: :boolean]) do
      {opts, names, []} ->
        if opts[:help], do: Mix.shell().info(@usage), else: bench(Enum.map(names, &suite!/1), opts)

      {_, _, [{option, _} | _]} ->
        fail("unknown option #{option}; see mix help snakepit.bench")
    end
  end

  defp suite!(name) do
    names = Enum.map(Bench.suites(), & &1.name())

    Enum.find(Bench.suites(), &(&1.name() == name)) ||
      fail("there is no suite #{inspect(name)}; there are #{Enum.join(names, ", ")}")
  end

  defp bench(suites, opts) do
    Logger.configure(level: :warning)
    suites = if suites == [], do: Bench.default(), else: suites
    quick? = opts[:quick] || false
    # What cannot be written is said before the work, not after it.
    if opts[:json], do: File.open!(opts[:json], [:append]) |> File.close()
    machine = Machine.describe()
    Mix.shell().info("#{machine.cpu}, #{machine.cores} cores, OTP #{machine.otp}, Elixir #{machine.elixir}")
    seconds = suites |> Enum.map(& &1.seconds(quick?)) |> Enum.sum()
    Mix.shell().info("This takes about #{seconds} seconds.")

    results =
      Snakepit.run_as_script(fn ->
        Enum.flat_map(suites, fn suite ->
          results = measured(suite, quick?)
          print(suite, results)
          results
        end)
      end)

    if opts[:json], do: write(opts[:json], machine, results)
  end

  defp measured(suite, quick?) do
    bar = Progress.begin(Progress.new(), suite.name(), suite.seconds(quick?))
    parent = self()
    task = Task.async(fn -> suite.run(%{quick?: quick?, progress: &send(parent, {:doing, &1})}) end)
    results = follow(task, bar, "", System.monotonic_time(:second))
    Progress.clear(bar)
    results
  end

  # The bar moves with the time the suite says it takes.
  defp follow(task, bar, doing, since) do
    receive do
      {:doing, what} ->
        follow(task, bar, what, since)

      {ref, results} when ref == task.ref ->
        Process.demonitor(ref, [:flush])
        results

      {:DOWN, ref, _, _, reason} when ref == task.ref ->
        exit(reason)
    after
      200 ->
        now = System.monotonic_time(:second)
        follow(task, Progress.advance(bar, now - since, doing), doing, now)
    end
  end

  defp print(suite, results) do
    rows =
      for %Result{} = r <- results do
        interval = if r.low == r.high, do: "", else: "#{Units.digits(r.low)} … #{Units.digits(r.high)}"
        [r.name, Units.digits(r.value), r.unit, interval, target(r), met(r)]
      end

    columns = [
      {suite.name(), :left},
      {"median", :right},
      {"", :left},
      {"95 %", :left},
      {"target", :left},
      {"", :left}
    ]

    Mix.shell().info(["\n" | Table.format(columns, rows)])
  end

  defp target(%Result{target: nil}), do: ""
  defp target(%Result{target: {:at_most, limit}}), do: "≤ #{Units.digits(limit)}"
  defp target(%Result{target: {:at_least, limit}}), do: "≥ #{Units.digits(limit)}"

  defp met(result) do
    case Result.met?(result) do
      nil -> ""
      true -> "met"
      false -> "missed"
    end
  end

  defp write(path, machine, results) do
    results =
      for r <- results do
        fields = %{name: r.name, value: r.value, unit: r.unit, low: r.low, high: r.high}
        if r.target, do: Map.put(fields, :target, %{elem(r.target, 0) => elem(r.target, 1)}), else: fields
      end

    File.write!(path, [Json.encode(%{machine: machine, results: results}), "\n"])
    Mix.shell().info("Written to #{path}.")
  end

  @spec fail(String.t()) :: no_return()
  defp fail(message), do: Mix.raise("snakepit.bench: " <> message)
end
