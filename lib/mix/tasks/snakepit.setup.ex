defmodule Mix.Tasks.Snakepit.Setup do
  @shortdoc "Makes the Python environment of Snakepit's workers"

  @usage """
      mix snakepit.setup [--with PACKAGES] [-r FILE] [options] [-- ARGUMENTS]

  Options:

    * `--with LIST` - what to install beside the package itself, separated by commas: `numpy` (tensors), `grpc` (the
      gRPC way), `ml_dtypes` (bf16 tensors), `test` (all that `bin/test` needs, in fixed versions), and any package of
      PyPI: `pandas`, `"scikit-learn==1.5.2"`, `"ruamel.yaml>=0.17,<1"`, `./my_package`. May be repeated.
    * `-r`, `--requirements FILE` - a requirements file, or a pyproject.toml, whose dependencies are installed;
      `"pyproject.toml[dev]"` with those of its extra or group `dev`. May be repeated.
    * `--python PATH` - the interpreter to make the environment from; by default the first `python3` in the path that
      is new enough
    * `--build-for PATH` - build the native part of workers for this interpreter, too: one that a pool names while the
      application runs. Those that the configuration names need no mention. May be repeated
    * `--force` - make the environment anew, even if it is complete, with what is asked for now and was asked for before
    * `--forget` - with `--force`: without what earlier runs asked for
    * `--installer NAME` - `uv` or `pip`; by default uv where it is in the path
    * `--index-url URL`, `--extra-index-url URL` - package indexes other than PyPI, or beside it
    * `--find-links DIR` - a directory, or page, with wheels; may be repeated
    * `--no-index` - use no index, only `--find-links`
    * `--offline` - use no network: uv its cache, pip only `--find-links`
    * `-- ARGUMENTS` - what uv or pip gets as it is
    * `--help` - print this text
  """

  @moduledoc """
  Makes a virtual environment and installs Snakepit's Python package into it, and the packages of your own that your tools
  import. Workers use it, unless `config :snakepit, python:` or a pool names another interpreter.

  #{@usage}
  It lies at `.snakepit/venv`, which git ignores; `config :snakepit, venv: "…"` names another place. Python 3.11 or later is needed. `uv`
  installs it where present, else `venv` and `pip` do; either extends what the other made.

  List what your application always needs in its configuration (`config :snakepit, requirements:`), as a file,
  `{:my_app, "priv/python/requirements.txt"}`, a pyproject.toml, or a list of requirements. What `--with` and `-r` name is
  kept beside it for later runs, passwords and indexes never are: use `${VARIABLE}` in a requirements file, or
  `PIP_INDEX_URL`, `UV_INDEX_URL` and their like in the environment.

  A second run installs nothing, as long as the package, the interpreter and what was asked for are the same: files by what
  is in them, those that they include and local packages too. To ask for less is fine: nothing is ever taken out, except
  by `--force`.

  It builds the native part of workers for the interpreter (cargo, which built Snakepit itself), unless it is there. At
  last it imports what workers import, with the environment variables that they get, for every configured pool: an
  environment is complete if workers can start in it.

  `Snakepit.setup/1` does the same without Mix, in a script or a notebook.
  """
  use Mix.Task

  @switches [
    with: :keep,
    requirements: :keep,
    python: :string,
    force: :boolean,
    forget: :boolean,
    installer: :string,
    index_url: :string,
    extra_index_url: :keep,
    find_links: :keep,
    build_for: :keep,
    no_index: :boolean,
    offline: :boolean,
    help: :boolean
  ]

  @impl true
  def run(argv) do
    {argv, passed} = Enum.split_while(argv, &(&1 != "--"))

    case OptionParser.parse(argv, strict: @switches, aliases: [r: :requirements]) do
      {opts, [], []} ->
        if opts[:help], do: Mix.shell().info(@usage), else: setup(opts, Enum.drop(passed, 1))

      {_, [word | _], []} ->
        fail("unexpected argument #{inspect(word)}; see `mix help snakepit.setup`")

      {_, _, [{option, nil} | _]} ->
        fail("unknown option #{option}, or no value; see `mix help snakepit.setup`")

      {_, _, [{option, value} | _]} ->
        fail("#{option}: unexpected value #{inspect(value)}")
    end
  end

  # config/runtime.exs is read as well, since pools will be started with it. Its needs may be missing where an
  # environment is made, as in a container's build: then the rest of the configuration has to do.
  defp configure do
    Mix.Task.run("compile")

    try do
      Mix.Task.run("app.config")
    rescue
      error -> Mix.shell().info("Without config/runtime.exs: #{Exception.message(error)}")
    end
  end

  defp setup(opts, passed) do
    configure()

    options =
      Keyword.take(opts, [:python, :force, :forget, :index_url, :no_index, :offline]) ++
        [
          with: Keyword.get_values(opts, :with),
          requirements: for(file <- Keyword.get_values(opts, :requirements), do: "-r " <> file),
          installer: installer(opts[:installer]),
          extra_index_url: Keyword.get_values(opts, :extra_index_url),
          find_links: Keyword.get_values(opts, :find_links),
          build_for: Keyword.get_values(opts, :build_for),
          installer_args: passed
        ]

    case Snakepit.Setup.run(options, &Mix.shell().info/1) do
      :ok -> :ok
      {:error, error} -> error.message |> String.replace_prefix("setup: ", "") |> fail()
    end
  end

  defp installer(nil), do: nil
  defp installer("uv"), do: :uv
  defp installer("pip"), do: :pip
  defp installer(other), do: fail("--installer #{other}: expected uv or pip")

  @spec fail(String.t()) :: no_return()
  defp fail(message), do: Mix.raise("snakepit.setup: " <> message)
end
