defmodule Snakepit.Python do
  @moduledoc false
  # Which interpreter, and with which environment, a worker is started.

  alias Snakepit.{Config, Error, Pool}

  # What erl, mix and releases set for themselves, RELEASE_COOKIE and HEX_API_KEY among it: no tool may read these.
  @of_the_vm ~w(ROOTDIR BINDIR EMU PROGNAME ESCRIPT_NAME)
  @of_the_vm_by_prefix ~w(ERL_ ERLANG_ ELIXIR_ RELEASE_ MIX_ HEX_ REBAR_ REBAR3_)

  # Each starts as many threads as there are cores, in every worker.
  # malloc(3) gives each thread that competes for memory an arena of its own, eight a core, which each keep what they
  # freed. A worker runs one tool at a time, and gRPC a dozen threads beside it: with two arenas it takes a quarter less
  # memory, and does not grow for half an hour until all arenas have seen the largest call.
  @arenas "MALLOC_ARENA_MAX"
  @thread_variables ~w(OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS)

  @doc "The interpreter of a pool: its own, the configured one, or that of `mix snakepit.setup`."
  @spec interpreter(Pool.Options.t()) :: {:ok, Path.t()} | {:error, Error.t()}
  def interpreter(%Pool.Options{python: python, name: pool}) do
    case python || Config.get(:python) do
      nil -> of_setup(pool)
      named -> named(named, pool)
    end
  end

  @doc "The interpreter `mix snakepit.setup` installs."
  @spec venv_python() :: Path.t()
  def venv_python, do: Config.get(:venv) |> expand() |> Path.join("bin/python")

  @doc """
  The absolute path of a configured one: seen from the working directory, or from an application's own.

  While Mix runs, the project's own application lies where its sources do: nothing need be compiled for it.
  """
  @spec expand(Path.t() | {atom(), Path.t()}) :: Path.t()
  def expand({app, path}) do
    if mix_project?(app), do: Path.expand(path), else: Path.expand(path, Application.app_dir(app))
  end

  def expand(path), do: Path.expand(path)

  @doc "Whether a configured path can be expanded: an application it names is there."
  @spec expandable?(Path.t() | {atom(), Path.t()}) :: boolean()
  def expandable?({app, _path}), do: mix_project?(app) or is_list(:code.lib_dir(app))
  def expandable?(_path), do: true

  defp mix_project?(app), do: mix?() and Mix.Project.get() != nil and Mix.Project.config()[:app] == app

  # Its modules may be there without it, as in a script.
  defp mix?, do: List.keymember?(Application.started_applications(), :mix, 0)

  @doc "The directories of a pool's `:python_path`."
  @spec directories(Pool.Options.t()) :: [Path.t()]
  def directories(%Pool.Options{python_path: paths}), do: Enum.map(paths, &expand/1)

  @doc "How to install what is missing, where Mix is there to do it; begins with a colon."
  @spec advice(String.t()) :: String.t()
  def advice(extra) do
    if mix?(),
      do: ": run `mix snakepit.setup --with #{extra}`",
      else: ": install #{extra} for the interpreter"
  end

  defp of_setup(pool) do
    path = venv_python()

    if File.exists?(path) do
      {:ok, path}
    else
      setup = if mix?(), do: "run `mix snakepit.setup`, or ", else: ""
      name = "name an interpreter with `config :snakepit, python: \"…\"`"
      missing(pool, "no Python environment at #{path}: #{setup}#{name}")
    end
  end

  # A bare name is looked up in PATH. A symbolic link stays as it is: a virtual environment is known by it.
  defp named(name, pool) do
    found = if String.contains?(name, "/"), do: Path.expand(name), else: System.find_executable(name)

    if found && File.regular?(found),
      do: {:ok, found},
      else: missing(pool, "the Python interpreter #{inspect(name)} does not exist")
  end

  defp missing(pool, message) do
    {:error, Error.new(:pool, :no_python, "pool #{inspect(pool)}: #{message}", pool: pool)}
  end

  @doc "The environment of a worker: Snakepit's own package first, so that both sides are of one version."
  @spec env(Pool.Options.t()) :: [{String.t(), String.t()}]
  def env(%Pool.Options{} = options) do
    own = Path.join(:code.priv_dir(:snakepit), "python")
    path = [own | directories(options)]
    path = if inherited = System.get_env("PYTHONPATH"), do: path ++ [inherited], else: path

    options
    |> threads()
    |> Map.put("PYTHONUNBUFFERED", "1")
    |> Map.put(@arenas, System.get_env(@arenas) || "2")
    |> Map.merge(options.env)
    |> Map.update("PYTHONPATH", Enum.join(path, ":"), &(Enum.join(path, ":") <> ":" <> &1))
    |> Enum.to_list()
  end

  # Calls that run at once share the cores rather than fight for them.
  defp threads(options) do
    each = max(1, div(Pool.Options.cores(options), options.size * Pool.Options.lanes(options)))
    for name <- @thread_variables, into: %{}, do: {name, System.get_env(name) || to_string(each)}
  end

  @doc "The names, of an environment, that only concern the VM."
  @spec not_for_workers(%{String.t() => String.t()}) :: [String.t()]
  def not_for_workers(env) do
    for {name, _} <- env, name in @of_the_vm or String.starts_with?(name, @of_the_vm_by_prefix), do: name
  end

  @doc "The library that makes numpy's arrays in shared memory; `nil` for a pool that does not want it."
  @spec numpy_memory(Pool.Options.t()) :: Path.t() | nil
  def numpy_memory(%Pool.Options{numpy_memory: wanted?}) do
    if wanted?, do: native("numpy")
  end

  @doc "The library that gives forked children copies of shared memory; `nil` where there is no shared memory."
  @spec fork_memory() :: Path.t() | nil
  def fork_memory do
    if match?({:unix, :linux}, :os.type()), do: native("fork")
  end

  defp native(name), do: Path.join(:code.priv_dir(:snakepit), "native/libsnakepit_#{name}.so")
end
