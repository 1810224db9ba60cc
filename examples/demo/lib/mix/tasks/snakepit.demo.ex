defmodule Mix.Tasks.Snakepit.Demo do
  @shortdoc "Calls Python on real files and shows how their bytes travelled"

  @usage """
      mix snakepit.demo [PATH…] [--limit N] [--cwd DIR]

  Options:

    * `--limit N` - look at no more than N files, evenly spread over all there are
    * `--cwd DIR` - where relative paths start; by default the working directory
    * `--help` - print this text
  """

  @moduledoc """
  Calls Python tools on every file under some paths, and shows how the bytes travelled and what that cost.

  #{@usage}
  Without a path it takes the Erlang and numpy installations of this machine. For every file Python computes the byte
  histogram and its entropy (numpy), how well zlib packs it, and its SHA-256, which must be Elixir's own.

  Links to files are followed, links to directories only where they are named as a PATH. What is no ordinary file is
  skipped with a line on stderr.

  The exit status is 1 if a path does not exist, a directory has no files, a file could not be read, or an answer was
  wrong; everything else is done all the same.
  """
  use Mix.Task

  @requirements ["app.config"]

  @impl true
  def run(argv) do
    case OptionParser.parse(argv, strict: [limit: :integer, cwd: :string, help: :boolean]) do
      {opts, paths, []} ->
        if opts[:help], do: Mix.shell().info(@usage), else: demo(paths, opts)

      {_, _, [{"--limit", _} | _]} ->
        fail("--limit: expected a number of files")

      {_, _, [{option, _} | _]} ->
        fail("unknown option #{option}; a path that starts with - can be given as ./#{option}")
    end
  end

  defp demo(paths, opts) do
    limit = opts[:limit]
    if limit && limit < 1, do: fail("--limit: expected a number of files above 0, got: #{limit}")

    # Only what goes wrong: the end of the application is no news here.
    Logger.configure(level: :warning)

    case Snakepit.Demo.run(%{paths: paths, cwd: opts[:cwd] || File.cwd!(), limit: limit}) do
      0 -> :ok
      status -> exit({:shutdown, status})
    end
  end

  @spec fail(String.t()) :: no_return()
  defp fail(message), do: Mix.raise("snakepit.demo: " <> message)
end
