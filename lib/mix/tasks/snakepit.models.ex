defmodule Mix.Tasks.Snakepit.Models do
  @shortdoc "Lists what is kept of pools' models, or clears it, on a running node too"

  @usage """
      mix snakepit.models [--dir DIR]
      mix snakepit.models clear [POOL] [--dir DIR]
      mix snakepit.models clear [POOL] --node NODE [--cookie COOKIE]

  Without a word it lists what is kept. `clear` removes it; with `--node` it has pools of a running node forget what they learned,
  and measure anew.

  Options:

    * `--dir DIR` - where they are kept; by default as `calibration_dir` is configured
    * `--node NODE` - a running node, as `node()` says it there: `app@host`
    * `--cookie COOKIE` - its cookie; by default this user's
    * `--help` - print this text
  """

  @moduledoc """
  Lists what pools learned and what is kept of it for their next start, or clears it.

  #{@usage}
  `clear POOL` is about one pool, by its name; `clear` alone about all of them. Thresholds and policies that were set while a pool
  ran are kept there as well: `clear` without `--node` removes these too; with it they stay.
  """
  use Mix.Task

  alias Snakepit.Performance.LearningEngine
  alias Snakepit.Performance.Model.Saved
  alias Snakepit.Pool.Handle
  alias Snakepit.Terminal.{Table, Units}

  @requirements ["app.config"]
  @switches [dir: :string, node: :string, cookie: :string, help: :boolean]
  @timeout_ms 30_000

  @impl true
  def run(argv) do
    case OptionParser.parse(argv, strict: @switches) do
      {[help: true], _, []} ->
        Mix.shell().info(@usage)

      {opts, [], []} ->
        if opts[:node] || opts[:cookie], do: fail("--node and --cookie are for clear"), else: list(opts)

      {opts, ["clear" | names], []} when length(names) <= 1 ->
        clear(List.first(names), opts)

      {_, ["clear", _, word | _], []} ->
        fail("unexpected argument #{word}")

      {_, [word | _], []} ->
        fail("unexpected argument #{word}")

      {_, _, [{option, _} | _]} ->
        fail("unknown option #{option}, or no value for it")
    end

    :ok
  end

  # ---- files ------------------------------------------------------------------------------------------------------

  defp list(opts) do
    settings = settings(opts)

    case for({dir, sections} <- Saved.list(settings), section <- sections, do: row(dir, section)) do
      [] ->
        dir = Saved.dir(settings)

        if dir == nil,
          do: fail("there is no directory to keep models in: set HOME, XDG_CACHE_HOME or calibration_dir")

        Mix.shell().info("Nothing is kept in #{dir}.")

      rows ->
        columns = [{"pool", :left}, {"what", :left}, {"size", :right}, {"written", :left}]
        Mix.shell().info(Table.format(columns, rows))
        Mix.shell().info("In #{Saved.dir(settings)}.")
    end
  end

  defp row(dir, {name, bytes, at}) do
    [
      Path.basename(dir),
      name,
      Units.bytes(bytes),
      at |> DateTime.from_unix!() |> Calendar.strftime("%Y-%m-%d %H:%M UTC")
    ]
  end

  defp clear(name, opts) do
    if opts[:node], do: clear_running(name, opts), else: clear_files(name, settings(opts))
  end

  defp clear_files(name, settings) do
    found =
      for {dir, sections} <- Saved.list(settings),
          name == nil or String.replace(Path.basename(dir), ~r/-[0-9a-f]{12}$/, "") == name,
          do: {dir, length(sections)}

    if name && found == [],
      do: fail("nothing is kept of a pool #{name}; mix snakepit.models lists what there is")

    for {dir, _} <- found, do: File.rm_rf!(dir)
    files = found |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    Mix.shell().info("#{Units.counted(files, "file")} removed.")
  end

  defp settings(opts) do
    case Snakepit.Config.load() do
      {:ok, %{performance_optimization: settings}} ->
        %{settings | calibration_dir: opts[:dir] || settings.calibration_dir}

      {:error, error} ->
        fail(Exception.message(error))
    end
  end

  # ---- a running node ---------------------------------------------------------------------------------------------

  defp clear_running(name, opts) do
    node = String.to_atom(opts[:node])
    connect(node, opts[:cookie])
    pools = call(node, Handle, :names, [])
    wanted = if name, do: Enum.filter(pools, &(to_string(&1) == name)), else: pools

    if name && wanted == [],
      do: fail("there is no pool #{name} on #{node}; running are: #{Enum.join(pools, ", ")}")

    results = for pool <- wanted, do: {pool, call(node, LearningEngine, :clear_models, [pool])}
    for {pool, :ok} <- results, do: Mix.shell().info("#{pool}: cleared")
    errors = for {_pool, {:error, error}} <- results, do: Exception.message(error)
    if errors != [], do: fail(Enum.join(errors, "\n"))
  end

  defp connect(node, cookie) do
    # A long name has a dot in its host.
    long? = node |> to_string() |> String.split("@") |> List.last() |> String.contains?(".")
    own = :"snakepit_models_#{System.pid()}"
    System.cmd("epmd", ["-daemon"])

    with {:error, reason} <- Node.start(own, if(long?, do: :longnames, else: :shortnames)),
         do: fail("this VM cannot become a node: #{inspect(reason)}")

    if cookie, do: Node.set_cookie(String.to_atom(cookie))
    unless Node.connect(node) == true, do: fail("#{node} is not there, or has another cookie")
  end

  defp call(node, module, function, args) do
    :erpc.call(node, module, function, args, @timeout_ms)
  catch
    kind, reason -> fail("#{node} did not answer: #{Exception.format_banner(kind, reason)}")
  end

  @spec fail(String.t()) :: no_return()
  defp fail(words), do: Mix.raise("snakepit.models: #{words}; see mix help snakepit.models")
end
