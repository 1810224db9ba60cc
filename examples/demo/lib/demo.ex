defmodule Snakepit.Demo do
  @moduledoc false
  # `mix snakepit.demo`: Python tools on every file under some paths, and what it cost to bring the bytes there.
  #
  #     scan → compare the ways, warm → examine every file (as many at once as there are workers) → report
  #
  # Output goes to stdout, problems go to stderr, one line each; a problem costs its file, not the others.

  alias Snakepit.Demo.{Compare, Examine, Report, Scan}
  alias Snakepit.Terminal.{Progress, Units}

  @pool :snakepit_demo
  @python Path.expand("../python", __DIR__)
  # Files up to this size are read as many at once as there are workers, larger ones one at a time: what is in memory
  # stays within a few hundred MiB, or one file.
  @together 32 * 1024 * 1024
  @most_workers 8
  # What a file costs beside its bytes, for the bar.
  @per_file 64 * 1024
  @most_skipped 20

  @type options :: %{paths: [binary()], cwd: binary(), limit: pos_integer() | nil}

  @doc "Where the demo's Python module is."
  @spec python_path() :: [Path.t()]
  def python_path, do: [@python]

  @doc "Runs it with a pool of its own. The exit status: 0 if everything that was asked for was done."
  @spec run(options()) :: 0 | 1
  def run(options) do
    pool = %{
      name: @pool,
      size: System.schedulers_online() |> max(2) |> min(@most_workers),
      python_module: "snakepit_demo",
      python_path: python_path(),
      # Half of it is for requests, and holds the largest file.
      memory_quota: div(Snakepit.Machine.memory(), 2)
    }

    case Snakepit.run_as_script(fn -> run(options, @pool) end, pools: [pool]) do
      {:error, error} ->
        complain(Exception.message(error))
        1

      status ->
        status
    end
  end

  @doc "As `run/1`, with a pool of the demo's tools that is there already."
  @spec run(options(), atom()) :: 0 | 1
  def run(options, pool) do
    case numpy(pool) do
      {:ok, directories} ->
        paths = if options.paths == [], do: [to_string(:code.root_dir()) | directories], else: options.paths
        demo(Scan.run(paths, options.cwd), options.limit, pool)

      {:error, message} ->
        complain(message)
        1
    end
  end

  defp numpy(pool) do
    case Snakepit.execute("numpy_directories", %{}, pool: pool) do
      {:ok, []} -> {:error, "the demo needs numpy in the workers' Python: mix snakepit.setup --with numpy"}
      {:ok, directories} -> {:ok, directories}
      {:error, error} -> {:error, Exception.message(error)}
    end
  end

  defp demo(scan, limit, pool) do
    Enum.each(scan.problems, &complain/1)
    skipped(scan.skipped)

    case Scan.limit(scan.files, limit) do
      [] ->
        complain("there is no file to read")
        1

      files ->
        problems = length(scan.problems) + show(files, pool)
        if problems == 0, do: 0, else: 1
    end
  end

  defp skipped(lines) do
    {now, rest} = Enum.split(lines, @most_skipped)
    Enum.each(now, &complain/1)

    if rest != [],
      do:
        complain(Units.counted(length(rest), "more such entry was skipped", "more such entries were skipped"))
  end

  defp workers(pool) do
    {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)
    handle.options.size
  end

  # The number of problems.
  defp show(files, pool) do
    started = System.monotonic_time(:millisecond)
    bytes = files |> Enum.map(& &1.size) |> Enum.sum()
    workers = Units.counted(workers(pool), "Python worker")
    IO.puts("#{Units.counted(length(files), "file")}, #{Units.bytes(bytes)}; #{workers}\n")

    bar = Progress.new()
    compare(files, pool, bar)
    {examined, errors} = examine(files, pool, bar)
    if examined != [], do: IO.puts([Report.classes(examined), "\n", Report.largest(examined)])

    seconds = (System.monotonic_time(:millisecond) - started) / 1000
    wrong = Enum.count(errors, &String.contains?(&1, "WRONG DATA"))
    IO.write(Report.closing(examined, wrong, seconds))
    length(errors)
  end

  # ---- every file -------------------------------------------------------------------------------------------------

  defp examine(files, pool, bar) do
    {together, alone} = Enum.split_with(files, &(&1.size <= @together))
    total = files |> Enum.map(&(&1.size + @per_file)) |> Enum.sum()

    state = %{
      bar: Progress.begin(bar, "Reading", total),
      count: length(files),
      done: 0,
      bytes: 0,
      ok: [],
      errors: []
    }

    state = together |> results(pool, workers(pool)) |> Enum.reduce(state, &collect/2)
    state = alone |> results(pool, 1) |> Enum.reduce(state, &collect/2)
    Progress.clear(state.bar)
    {Enum.reverse(state.ok), Enum.reverse(state.errors)}
  end

  defp results(files, pool, at_once) do
    largest = div(Snakepit.Machine.memory(), 5)
    one = fn file -> {file, Examine.file(file, pool, largest)} end
    Task.async_stream(files, one, max_concurrency: at_once, ordered: false, timeout: :infinity)
  end

  defp collect({:ok, {file, answer}}, state) do
    state = %{state | done: state.done + 1, bytes: state.bytes + file.size}
    text = Progress.files(state.done, state.count, state.bytes)

    case answer do
      {:ok, examined} ->
        %{state | ok: [examined | state.ok], bar: Progress.advance(state.bar, file.size + @per_file, text)}

      {:error, message} ->
        bar = Progress.clear(state.bar)
        complain(message)
        %{state | errors: [message | state.errors], bar: Progress.advance(bar, file.size + @per_file, text)}
    end
  end

  # ---- every way --------------------------------------------------------------------------------------------------

  defp compare(files, pool, bar) do
    sample = Compare.sample(files)
    {ways, missing} = Compare.ways(pool)

    bar = Progress.begin(bar, "Comparing the ways", length(sample))

    {measured, bar} =
      Enum.map_reduce(sample, bar, fn {class, files}, bar ->
        times = Compare.measure(files, ways, pool)
        {{class, length(files), times}, Progress.advance(bar, 1, class)}
      end)

    Progress.clear(bar)
    # Where no file could be read, the next part says so of each.
    if Enum.any?(measured, fn {_, _, times} -> times != %{} end),
      do: IO.puts(Report.ways(measured, ways, missing))
  end

  defp complain(message), do: IO.puts(:stderr, message)
end
