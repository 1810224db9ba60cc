defmodule Snakepit.Python do
  @moduledoc false
  # The interpreter that a worker is started with, and its environment variables.

  import Bitwise, only: [&&&: 2]
  alias Snakepit.{Error, Machine, Release}
  alias Snakepit.Options.Configured

  # Variables that erl, mix and releases set for themselves. No tool may read them: RELEASE_COOKIE and HEX_API_KEY are
  # secrets.
  @of_the_vm ~w(ROOTDIR BINDIR EMU PROGNAME ESCRIPT_NAME)
  @of_the_vm_by_prefix ~w(ERL_ ERLANG_ ELIXIR_ RELEASE_ MIX_ HEX_ REBAR_ REBAR3_)

  # malloc(3) gives competing threads arenas of their own, up to eight per core, and each arena keeps freed memory. A
  # worker runs one tool at a time, and gRPC a dozen threads beside it. With two arenas a worker takes a quarter less
  # memory, and does not grow until every arena has seen the largest call, which takes half an hour.
  @arenas "MALLOC_ARENA_MAX"
  # Each library starts as many threads as there are cores, in every worker.
  @thread_variables ~w(OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS)

  @typedoc "The options of a pool, or of one of its workers, where the variables of `env:` are known."
  @type options :: %{optional(atom()) => term()}

  @doc "The interpreter of a pool: its own, the configured one, or that of `mix snakepit.setup`."
  @spec interpreter(options()) :: {:ok, Path.t()} | {:error, Error.t()}
  def interpreter(%{python: python, name: pool}) do
    case python || Configured.get(:python) do
      nil -> of_setup(pool)
      named -> named(named, pool)
    end
  end

  @doc "The interpreter `mix snakepit.setup` installs."
  @spec venv_python() :: Path.t()
  def venv_python, do: Configured.get(:venv) |> expand() |> Path.join("bin/python")

  @doc """
  The absolute path of a configured one: seen from the working directory, or from an application's own.

  While Mix runs, the project's own application is its source directory, so the path works before it is compiled.
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

  @doc "Whether this is a Mix project's own `:dev`, and no release."
  @spec mix_dev?() :: boolean()
  def mix_dev?, do: mix?() and Mix.Project.get() != nil and Mix.env() == :dev

  # Its modules may be there without it, as in a script.
  defp mix?, do: List.keymember?(Application.started_applications(), :mix, 0)

  @doc "The directories of a pool's `:python_path`."
  @spec directories(options()) :: [Path.t()]
  def directories(%{python_path: paths}), do: Enum.map(paths, &expand/1)

  @doc """
  With this a worker can say how a missing package is installed. `setup` is a text with `{package}` in it, nil if the
  interpreter is the user's own; `paths` are the directories of the user's own modules.
  """
  @spec install(options()) :: %{setup: String.t() | nil, paths: [Path.t()]}
  def install(options) do
    own? = not match?({:ok, _}, interpreter(options)) or interpreter(options) != {:ok, venv_python()}
    %{setup: if(not own?, do: setup_words(Configured.get(:requirements))), paths: directories(options)}
  end

  defp setup_words(requirements) do
    where =
      case requirements do
        path when is_binary(path) -> path
        {app, path} -> "#{path} of #{inspect(app)}"
        nil -> "`config :snakepit, requirements: [\"{package}\"]`"
        list when is_list(list) -> "`config :snakepit, requirements:`"
      end

    cond do
      project?() ->
        "add {package} to #{where} and run `mix snakepit.setup`, or run `mix snakepit.setup --with {package}`"

      Release.running?() ->
        "add {package} to #{where}, and run `mix snakepit.setup` before `mix release`"

      true ->
        "run Snakepit.setup(with: [\"{package}\"])"
    end
  end

  @doc "How to install a missing extra here, as the end of a message; begins with a colon."
  @spec advice(String.t()) :: String.t()
  def advice(extra) do
    cond do
      project?() -> ": run `mix snakepit.setup --with #{extra}`"
      Release.running?() -> ": install #{extra} for the interpreter"
      true -> ": run Snakepit.setup(with: #{inspect(extra)})"
    end
  end

  # A script, or a notebook, may have Mix and no project in which its tasks could run.
  defp project?, do: mix?() and Mix.Project.get() != nil

  defp of_setup(pool) do
    path = venv_python()

    case look(path) do
      :ok ->
        {:ok, path}

      {:error, why} ->
        setup =
          cond do
            project?() -> "run `mix snakepit.setup`, or "
            Release.running?() -> Release.advice_on_venv(Configured.get(:venv))
            true -> "run Snakepit.setup(), or "
          end

        name = "name an interpreter with `config :snakepit, python: \"…\"`"
        missing(pool, "no Python environment at #{path}: #{why}; #{setup}#{name}")

      {:unusable, why} ->
        missing(pool, "the Python environment at #{path} cannot be used: #{why}")
    end
  end

  # A bare name is looked up in PATH. A symbolic link stays as it is: a virtual environment is known by it.
  defp named(name, pool) do
    path = if String.contains?(name, "/"), do: Path.expand(name), else: System.find_executable(name)

    case path && look(path) do
      nil -> missing(pool, "the Python interpreter #{inspect(name)} does not exist: no such program in PATH")
      :ok -> {:ok, path}
      {:error, why} -> missing(pool, "the Python interpreter #{inspect(name)} does not exist: #{why}")
      {:unusable, why} -> missing(pool, "the Python interpreter #{inspect(name)} cannot be used: #{why}")
    end
  end

  # `:ok` if a program is there. `:error` if it is not, `:unusable` if it may be there but cannot be used: both with the
  # reason.
  defp look(path) do
    case File.stat(path) do
      {:ok, %{type: :regular, mode: mode}} when (mode &&& 0o111) != 0 -> :ok
      {:ok, %{type: :regular}} -> {:unusable, "#{path} is not executable"}
      {:ok, %{type: type}} -> {:unusable, "#{path} is a #{type}, not a program"}
      {:error, :eacces} -> {:unusable, "#{locked(path)}: permission denied for this user"}
      {:error, reason} -> {:error, dangling(path) || Error.reason_words(reason)}
    end
  end

  # The first directory on the way to it that this user may not pass.
  defp locked(path) do
    path
    |> Path.split()
    |> Enum.scan(&Path.join(&2, &1))
    |> Enum.find(path, &match?({:error, :eacces}, File.stat(Path.join(&1, "."))))
  end

  # The Python that the virtual environment was made from was removed.
  defp dangling(path) do
    with {:ok, to} <- File.read_link(path),
         do: "it is a link to #{to}, which is not there",
         else: (_ -> nil)
  end

  defp missing(pool, message) do
    {:error, Error.new(:pool, :no_python, "pool #{inspect(pool)}: #{message}", pool: pool)}
  end

  @doc """
  The environment of a worker. Snakepit's own package comes first, so that both sides have the same version.

  Here and below, the options are those of one worker: `env` is a map of its variables.
  """
  @spec env(options(), inherited :: String.t() | nil) :: [{String.t(), String.t()}]
  def env(options, inherited \\ System.get_env("PYTHONPATH")) do
    own = Path.join(:code.priv_dir(:snakepit), "python")
    path = [own | directories(options)]
    path = if inherited, do: path ++ [inherited], else: path

    options
    |> threads()
    |> Map.put("PYTHONUNBUFFERED", "1")
    |> Map.put(@arenas, System.get_env(@arenas) || "2")
    |> Map.merge(options.env)
    |> Map.update("PYTHONPATH", Enum.join(path, ":"), &(Enum.join(path, ":") <> ":" <> &1))
    |> Enum.to_list()
  end

  @doc """
  The variables of the VM's environment that a worker does not get: PYTHONHOME, if the interpreter is that of a virtual environment,
  which knows its home by itself. A pool that gives it in `:env` means it.
  """
  @spec unset_env(options(), Path.t()) :: [String.t()]
  def unset_env(%{env: env}, python) do
    if not is_map_key(env, "PYTHONHOME") and venv?(python), do: ["PYTHONHOME"], else: []
  end

  # As site.py knows it.
  defp venv?(python) do
    bin = Path.dirname(python)
    Enum.any?([bin, Path.dirname(bin)], &File.regular?(Path.join(&1, "pyvenv.cfg")))
  end

  @doc "Sentences that name the variables by which Python found the files that `text`, a failure at start, names."
  @spec blame(options(), String.t()) :: [String.t()]
  def blame(%{env: env} = options, text) do
    paths =
      for {value, whose} <- [
            {System.get_env("PYTHONPATH"), "of the VM's environment"},
            {env["PYTHONPATH"], "of the pool's :env"}
          ],
          entry <- String.split(value || "", ":", trim: true),
          String.contains?(text, Path.expand(entry) <> "/"),
          do: "#{entry} comes from PYTHONPATH #{whose}."

    paths ++ home(options, text)
  end

  # Python does not find its own library then, or finds another's.
  defp home(%{env: env} = options, text) do
    {home, whose} =
      case env do
        %{"PYTHONHOME" => home} -> {home, "in the pool's :env"}
        _ -> {System.get_env("PYTHONHOME"), "in the VM's environment"}
      end

    with true <- home not in [nil, ""] and text =~ ~r/Fatal Python error|ModuleNotFoundError|ImportError/,
         {:ok, python} <- interpreter(options),
         [] <- unset_env(options, python) do
      ["PYTHONHOME is #{home} #{whose}: if that is another Python's, unset it."]
    else
      _ -> []
    end
  end

  @doc """
  The environment of a worker for `System.cmd/3`: variables of the VM that a worker does not get are nil.

  `without` names variables of the VM to leave out.
  """
  @spec command_env(options(), Path.t(), without :: [String.t()]) :: [{String.t(), String.t() | nil}]
  def command_env(options, python, without \\ []) do
    inherited = if "PYTHONPATH" not in without, do: System.get_env("PYTHONPATH")
    names = without ++ unset_env(options, python) ++ not_for_workers(System.get_env())
    unset = Map.new(names, &{&1, nil})
    unset |> Map.merge(Map.new(env(options, inherited))) |> Enum.to_list()
  end

  # Calls that run at once share the cores rather than fight for them.
  defp threads(options) do
    each = max(1, div(Machine.cores(options.limits.cpus), options.size * lanes(options)))
    for name <- @thread_variables, into: %{}, do: {name, System.get_env(name) || to_string(each)}
  end

  @doc "The calls that one worker runs at once: its lanes."
  @spec lanes(options()) :: pos_integer()
  def lanes(%{worker_profile: :process}), do: 1
  def lanes(%{threads_per_worker: threads}), do: threads

  @doc "The names, of an environment, that only concern the VM."
  @spec not_for_workers(%{String.t() => String.t()}) :: [String.t()]
  def not_for_workers(env) do
    for {name, _} <- env, name in @of_the_vm or String.starts_with?(name, @of_the_vm_by_prefix), do: name
  end

  @doc "The library that makes numpy's arrays in shared memory; `nil` for a pool that does not want it."
  @spec numpy_memory(options()) :: Path.t() | nil
  def numpy_memory(%{numpy_memory: wanted?}) do
    if wanted?, do: native("numpy")
  end

  defp native(name), do: Path.join(:code.priv_dir(:snakepit), "native/libsnakepit_#{name}.so")
end
