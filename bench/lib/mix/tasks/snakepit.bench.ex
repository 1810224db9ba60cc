defmodule Mix.Tasks.Snakepit.Bench do
  @shortdoc "Measures Snakepit on this machine, against floors measured in the same run"

  @usage """
      mix snakepit.bench [SUITE…] [--quick] [--minutes N] [--json FILE] [--html FILE] [--svg DIR] [--compare FILE]

  Suites:

  #{Enum.map_join(Snakepit.Bench.Suites.all(), "\n", &"  * `#{&1.name()}` - #{&1.about()}")}

  Options:

    * `--quick` - fewer rounds: wider intervals, the same questions
    * `--minutes N` - how long the soak samples (20; with `--quick` 1), after half of that to warm up
    * `--json FILE` - write the figures there as well, as they come: Ctrl-C keeps what is done
    * `--html FILE` - write a page with charts
    * `--svg DIR` - write the charts there, a file each
    * `--compare FILE` - hold the figures against those of an earlier `--json`; the status is 1 if one is worse
    * `--threshold PERCENT` - by how much worse (10), with all of its interval
    * `--from FILE` - measure nothing: take the figures of an earlier `--json`
    * `--help` - print this text
  """

  @moduledoc """
  Measures Snakepit on this machine. Without a suite, all are run but those which take long.

  #{@usage}
  Every figure is a median with its 95 % bootstrap interval; what is compared is measured in turn, in one run; each
  result is checked before its time counts. The exit status is 0 even when a target is missed: a bench measures.
  """
  use Mix.Task

  alias Snakepit.{Bench, Machine, Pool, Python}
  alias Snakepit.Bench.{Chart, Compare, Page, Pictures, Result, Results, Suites}
  alias Snakepit.Python.Preflight
  alias Snakepit.Terminal.{Progress, Table, Units}

  @requirements ["app.config"]

  @switches [
    quick: :boolean,
    minutes: :float,
    json: :string,
    html: :string,
    svg: :string,
    compare: :string,
    threshold: :float,
    from: :string,
    help: :boolean
  ]

  @impl true
  def run(argv) do
    case OptionParser.parse(argv, strict: @switches) do
      {opts, names, []} ->
        if opts[:help], do: Mix.shell().info(@usage), else: bench(Enum.map(names, &suite!/1), opts)

      {_, _, [{option, value} | _]} ->
        fail(wrong(option, value) <> "; see mix help snakepit.bench")
    end
  end

  # An option that `OptionParser` does not take: unknown, or without a value, or with one of another type.
  defp wrong(option, value) do
    case Enum.find(@switches, fn {name, _} -> option == "--#{name}" end) do
      nil -> "unknown option #{option}"
      {_, :float} when value != nil -> "#{option} takes a number, not #{value}"
      {_, type} when type in [:float, :string] -> "#{option} takes a value"
      {_, :boolean} -> "#{option} takes no value"
    end
  end

  defp suite!(name) do
    names = Enum.map(Suites.all(), & &1.name())

    Enum.find(Suites.all(), &(&1.name() == name)) ||
      fail("there is no suite #{inspect(name)}; there are #{Enum.join(names, ", ")}")
  end

  defp bench(suites, opts) do
    Logger.configure(level: :warning)
    # A file that cannot be read or written is reported before the work, not after it.
    earlier = opts[:compare] && read!(opts[:compare])
    if opts[:from] && suites != [], do: fail("--from measures nothing: leave #{hd(suites).name()} out")
    for path <- [opts[:json], opts[:html]], path, do: writable!(path)
    if opts[:svg], do: File.mkdir_p!(opts[:svg])

    run =
      if opts[:from],
        do: again(read!(opts[:from])),
        else: measure(if(suites == [], do: Suites.usual(), else: suites), opts)

    if opts[:svg], do: draw(run, opts[:svg])
    comparison = earlier && Compare.compare(run.results, earlier.results, (opts[:threshold] || 10.0) / 100)
    if opts[:html], do: page(run, comparison, opts[:html])
    if comparison, do: judge(comparison, run.machine, earlier.machine)
    :ok
  end

  defp measure(suites, opts) do
    quick? = opts[:quick] || false
    has = packages!(suites)
    context = %{quick?: quick?, minutes: opts[:minutes] || if(quick?, do: 1.0, else: 20.0), has: has}
    machine = Machine.describe()

    Mix.shell().info(
      "#{machine.cpu}, #{Units.counted(machine.cores, "core")}, OTP #{machine.otp}, Elixir #{machine.elixir}"
    )

    seconds =
      for suite <- suites,
          lacks(suite, :needs, has) == [],
          reduce: 0,
          do: (sum -> sum + suite.seconds(context))

    Mix.shell().info("This takes about #{Units.counted(seconds, "second")}.")
    # Written whenever there is more, so that whatever ends this run leaves what was done.
    keep = fn results, complete? ->
      run = %{machine: machine, results: results, complete?: complete?}
      if opts[:json], do: Results.write!(opts[:json], run)
      run
    end

    # Pools of a bench have another name each time.
    settings = Enum.to_list(Application.get_env(:snakepit, :performance_optimization, []))
    Application.put_env(:snakepit, :performance_optimization, Keyword.put(settings, :keep_models, false))

    {results, broken} =
      Snakepit.run_as_script(fn ->
        Enum.reduce(suites, {[], []}, fn suite, {done, broken} ->
          {results, whole?} =
            case lacks(suite, :needs, has) do
              [] -> measured(suite, context, &keep.(done ++ &1, false))
              [package | _] -> {[Result.absent(suite.name(), Bench.needs(package))], true}
            end

          print(suite.name(), results)
          keep.(done ++ results, false)
          {done ++ results, if(whole?, do: broken, else: broken ++ [suite.name()])}
        end)
      end)

    run = keep.(results, broken == [])
    if opts[:json], do: Mix.shell().info("Written to #{opts[:json]}.")
    if broken != [], do: fail("broken off: #{Enum.join(broken, ", ")}")
    run
  end

  # ---- what is needed ---------------------------------------------------------------------------------------------

  # Which of the packages that these suites use are there; what is missing, and what that costs, is said before any of
  # them is run. An environment in which no worker could start ends it here.
  defp packages!(suites) do
    options = [name: :bench, python_module: "snakepit_bench.tools", python_path: Bench.python_path()]
    {:ok, options} = Pool.Options.new(options)

    python =
      case Python.interpreter(options) do
        {:ok, python} -> python
        {:error, error} -> fail(String.replace_prefix(error.message, "pool :bench: ", ""))
      end

    wanted = suites |> Enum.flat_map(&(packages(&1, :needs) ++ packages(&1, :wants))) |> Enum.uniq()
    unusable!(python, options, [])
    missing = for package <- wanted, unusable!(python, options, [package]) == :missing, do: package
    if missing != [], do: Mix.shell().info(without(missing, suites))
    wanted -- missing
  end

  # `:missing` if it is not installed; what is there and does not work has another mend.
  defp unusable!(python, options, packages) do
    with {:error, failure} <- Preflight.run(python, options, packages) do
      if packages != [] and Preflight.missing?(failure) do
        :missing
      else
        variable = Preflight.to_blame(python, options, packages)

        fail(
          Preflight.explain(failure, python, options, variable, "Run `mix snakepit.setup`, or mend #{python}")
        )
      end
    end
  end

  defp without(missing, suites) do
    {left_out, run} =
      Enum.split_with(suites, &Enum.any?(packages(&1, :needs), fn name -> name in missing end))

    lines =
      for package <- missing,
          said =
            named("left out", for(suite <- left_out, package in packages(suite, :needs), do: suite)) ++
              named("fewer figures", for(suite <- run, package in packages(suite, :wants), do: suite)),
          said != [],
          do: "Without #{package}, #{Enum.join(said, "; ")}."

    Enum.join(lines ++ ["To have all" <> Python.advice(Enum.join(missing, ",")), ""], "\n")
  end

  defp named(_what, []), do: []
  defp named(what, suites), do: ["#{what}: #{Enum.map_join(suites, ", ", & &1.name())}"]

  defp lacks(suite, kind, has), do: packages(suite, kind) -- has

  defp packages(suite, kind) do
    Code.ensure_loaded(suite)
    if function_exported?(suite, kind, 0), do: apply(suite, kind, []), else: []
  end

  # The figures of an earlier run, as they were printed then.
  defp again(run) do
    for {name, results} <- Result.by_suite(run.results), do: print(name, results)
    run
  end

  defp read!(path) do
    case Results.read(path) do
      {:ok, run} -> run
      {:error, why} -> fail(why)
    end
  end

  defp writable!(path) do
    case File.open(path, [:append]) do
      {:ok, file} -> File.close(file)
      {:error, reason} -> fail("#{path}: #{:file.format_error(reason)}")
    end
  end

  defp measured(suite, context, keep) do
    bar = Progress.begin(Progress.new(), suite.name(), suite.seconds(context))
    parent = self()
    report = %{progress: &send(parent, {:doing, &1}), keep: &send(parent, {:done, &1})}
    {:ok, supervisor} = Task.Supervisor.start_link()
    task = Task.Supervisor.async_nolink(supervisor, fn -> attempt(suite, Map.merge(context, report)) end)
    results = follow(task, bar, "", System.monotonic_time(:second), keep, [])
    Progress.clear(bar)
    results
  end

  defp attempt(suite, context) do
    {:measured, suite.run(context)}
  catch
    kind, reason -> {:failed, Exception.format(kind, reason, __STACKTRACE__)}
  end

  # The bar moves with the time the suite says it takes.
  defp follow(task, bar, doing, since, keep, done) do
    receive do
      {:doing, what} ->
        follow(task, bar, what, since, keep, done)

      {:done, results} ->
        keep.(done ++ results)
        follow(task, bar, doing, since, keep, done ++ results)

      {ref, {:measured, results}} when ref == task.ref ->
        Process.demonitor(ref, [:flush])
        {results, true}

      {ref, {:failed, what}} when ref == task.ref ->
        Process.demonitor(ref, [:flush])
        broken_off(what, done)

      {:DOWN, ref, _, _, reason} when ref == task.ref ->
        broken_off(Exception.format_exit(reason), done)
    after
      200 ->
        now = System.monotonic_time(:second)
        follow(task, Progress.advance(bar, now - since, doing), doing, now, keep, done)
    end
  end

  # Keeps the figures measured so far, and runs the other suites.
  defp broken_off(what, done) do
    Mix.shell().error("It was broken off: " <> what)
    {done, false}
  end

  defp print(name, results) do
    columns = [
      {name, :left},
      {"median", :right},
      {"", :left},
      {"95 %", :left},
      {"target", :left},
      {"", :left}
    ]

    Mix.shell().info(["\n" | Table.format(columns, Enum.map(results, &row/1))])
  end

  defp row(%Result{absent: why} = r) when why != nil, do: [r.name, "absent", "", why, "", ""]

  defp row(r) do
    interval = if r.low == r.high, do: "", else: "#{Units.digits(r.low)} … #{Units.digits(r.high)}"
    [r.name, Units.digits(r.value), r.unit, interval, Result.target_words(r), met(r)]
  end

  defp met(result) do
    case Result.met?(result) do
      nil -> ""
      true -> "met"
      false -> "missed"
    end
  end

  # ---- pages, pictures, comparisons -------------------------------------------------------------------------------

  defp page(run, comparison, path) do
    File.write!(path, Page.html(run, comparison))
    Mix.shell().info("The page is #{path}.")
  end

  defp draw(run, dir) do
    for chart <- Pictures.charts(run.results) do
      path = Path.join(dir, chart.id <> ".svg")
      File.write!(path, Chart.svg(chart))
      Mix.shell().info("Drawn: #{path}.")
    end
  end

  defp judge(comparison, machine, earlier) do
    {now, then} = {machine(machine), machine(earlier)}
    if now != then, do: Mix.shell().info("\nThe earlier run was on another machine: #{then}; this is #{now}.")

    rows =
      for c <- comparison do
        interval = "#{Units.digits(c.low)} … #{Units.digits(c.high)}"
        words = if c.verdict in [:better, :worse], do: to_string(c.verdict), else: ""
        [c.name, Units.digits(c.before), Units.digits(c.now), c.unit, Units.digits(c.ratio), interval, words]
      end

    columns = [
      {"compared", :left},
      {"before", :right},
      {"now", :right},
      {"", :left},
      {"ratio", :right},
      {"", :left},
      {"", :left}
    ]

    Mix.shell().info(["\n" | Table.format(columns, rows)])

    case Enum.count(comparison, &(&1.verdict == :worse)) do
      0 ->
        Mix.shell().info("Nothing is worse.")

      n ->
        Mix.shell().error("Worse: #{n} of #{Units.counted(length(comparison), "figure")}.")
        exit({:shutdown, 1})
    end
  end

  defp machine(machine) do
    machine = Map.new(machine, fn {key, value} -> {to_string(key), value} end)
    "#{machine["cpu"]}, #{Units.counted(machine["cores"], "core")}"
  end

  @spec fail(String.t()) :: no_return()
  defp fail(message), do: Mix.raise("snakepit.bench: " <> message)
end
