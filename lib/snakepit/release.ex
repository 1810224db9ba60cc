defmodule Snakepit.Release do
  @moduledoc """
  Finds configuration that works in a project and fails in a release.

  A release starts in a directory of its own and holds only the `priv` of each application. A relative `venv:`, `python:`
  or `python_path:` leads nowhere there; `{:my_app, "priv/venv"}` does not have this problem.

  `mix release` prints what is found, where Snakepit is a dependency by `path:`. A dependency of another kind is not
  compiled again by `mix release`, so name the check as a step there:

      releases: [my_app: [steps: [&Snakepit.Release.check/1, :assemble]]]
  """

  alias Snakepit.Python.Source

  @python_path ["priv/python"]
  @venv ".snakepit/venv"
  @said {__MODULE__, :said}

  # `app` and `root` are the application that is released and its directory; `runtime` names the keys of
  # `config :snakepit` that config/runtime.exs sets, whose values are not known yet.
  @typep project :: %{app: atom() | nil, root: Path.t(), runtime: [atom()]}

  # ---- while a release is made ------------------------------------------------------------------------------------

  @doc "A step of `mix release`: warns of configuration that will not work in the release, and changes nothing."
  @spec check(release) :: release when release: term()
  def check(release) do
    warn(Mix.Project.config()[:app], Path.dirname(Mix.Project.project_file()))
    release
  end

  @doc false
  # Only once in a run of Mix: more than one task may ask.
  @spec warn(atom() | nil, Path.t()) :: :ok
  def warn(app, root) do
    unless Process.put(@said, true) do
      project = %{app: app, root: root, runtime: runtime_keys(Path.join(root, "config/runtime.exs"))}

      for problem <- problems(Application.get_all_env(:snakepit), project),
          do: Mix.shell().error("warning: Snakepit in the release: " <> problem)
    end

    :ok
  end

  @doc false
  @spec problems(keyword(), project()) :: [String.t()]
  def problems(env, project) do
    pools =
      if is_list(env[:pools]), do: Enum.filter(env[:pools], &(is_map(&1) or Keyword.keyword?(&1))), else: []

    own = for pool <- pools, problem <- pool(Map.new(pool), project), do: problem
    # A pool that names its interpreter needs no other.
    own? = pools != [] and Enum.all?(pools, &names_program?(Map.new(&1)))
    common = if own?, do: [], else: interpreter(env, project)

    if(:python in project.runtime or :venv in project.runtime, do: [], else: common) ++
      if(:pools in project.runtime, do: [], else: own)
  end

  defp interpreter(env, project) do
    case env[:python] do
      nil -> venv(Keyword.get(env, :venv, @venv), project)
      python -> program("config :snakepit", python)
    end
  end

  defp venv({app, path}, %{app: app} = project) do
    venv = Path.expand(path, project.root)

    cond do
      not in_priv?(path) ->
        [
          "#{named(:venv, {app, path})} is not in priv, the only directory that a release has: " <>
            use_venv(app)
        ]

      not File.exists?(Path.join(venv, "bin/python")) ->
        ["there is no Python environment at #{path}: run `mix snakepit.setup` before `mix release`"]

      match?({:ok, _}, File.read_link(Path.join(venv, "lib64"))) ->
        [
          "#{path}/lib64 is a link, which `mix release` copies as a second environment: run `mix snakepit.setup`, which removes it"
        ]

      true ->
        []
    end
  end

  defp venv(path, project) when is_binary(path) do
    if relative?(path), do: ["#{named(:venv, path)} is #{elsewhere()}: " <> use_venv(project.app)], else: []
  end

  # It belongs to another application, or the start of Snakepit would refuse it.
  defp venv(_other, _project), do: []

  defp pool(pool, project) do
    own = if names_program?(pool), do: program("pool #{inspect(pool[:name])}", pool[:python]), else: []

    own ++
      function(pool) ++
      (pool
       |> Map.get(:python_path, @python_path)
       |> List.wrap()
       |> Enum.flat_map(&directory(pool, &1, project)))
  end

  defp function(%{env: env} = pool) when is_function(env) do
    case Function.info(env, :type) do
      {:type, :external} ->
        []

      {:type, :local} ->
        [
          "pool #{inspect(pool[:name])}: `env:` is an anonymous function, which a release cannot hold: name one, as in " <>
            "`env: {MyApp, :env}`"
        ]
    end
  end

  defp function(_pool), do: []

  defp names_program?(pool), do: is_binary(pool[:python]) and not Source.source?(pool[:python])

  # The default directory need not be there: a module may come from the interpreter's own packages.
  defp directory(pool, path, project) when is_binary(path) do
    if relative?(path) and (is_map_key(pool, :python_path) or File.dir?(Path.expand(path, project.root))),
      do: [
        "pool #{inspect(pool[:name])}: #{named(:python_path, path)} is #{elsewhere()}: " <>
          use_path(project.app, path)
      ],
      else: []
  end

  defp directory(pool, {app, path}, %{app: app}) when is_binary(path) do
    if in_priv?(path),
      do: [],
      else: [
        "pool #{inspect(pool[:name])}: #{named(:python_path, {app, path})} is not in priv, the only directory that a release has"
      ]
  end

  defp directory(_pool, _path, _project), do: []

  # A bare name is looked up in PATH.
  defp program(whose, python) when is_binary(python) do
    if String.contains?(python, "/") and relative?(python),
      do: ["#{whose}: #{named(:python, python)} is #{elsewhere()}: name it by its absolute path"],
      else: []
  end

  defp program(_whose, _python), do: []

  defp named(key, value), do: "`#{key}: #{inspect(value)}`"
  defp elsewhere, do: "seen from the working directory, which is another one in a release"
  defp in_priv?(path), do: match?(["priv" | _], Path.split(path))
  defp relative?(path), do: Path.type(path) != :absolute

  # `config :snakepit, key: …` and `config :snakepit, :key, …`; a file that is none has none.
  defp runtime_keys(path) do
    with {:ok, text} <- File.read(path),
         {:ok, quoted} <- Code.string_to_quoted(text) do
      quoted |> Macro.prewalker() |> Enum.flat_map(&configured/1)
    else
      _ -> []
    end
  end

  defp configured({:config, _, [:snakepit, keys]}) when is_list(keys), do: for({key, _} <- keys, do: key)
  defp configured({:config, _, [:snakepit, key, _]}) when is_atom(key), do: [key]
  defp configured(_other), do: []

  # ---- in a release -----------------------------------------------------------------------------------------------

  @doc false
  # Advice for a missing environment; "" where this is no release. Ends with ", or ".
  @spec advice_on_venv(Path.t() | {atom(), Path.t()}) :: String.t()
  def advice_on_venv(venv) do
    cond do
      not running?() -> ""
      is_binary(venv) and relative?(venv) -> use_venv(app()) <> ", or "
      true -> "run `mix snakepit.setup` before `mix release`, or "
    end
  end

  @doc false
  # Advice for a module that is in none of these directories; "" where this is no release, or they are not to blame.
  @spec advice_on_path([Path.t() | {atom(), Path.t()}]) :: String.t()
  def advice_on_path(paths) do
    case Enum.find(paths, &(is_binary(&1) and relative?(&1))) do
      path when path != nil -> if running?(), do: ": " <> use_path(app(), path), else: ""
      nil -> ""
    end
  end

  @doc false
  # Set by a release's own start script.
  @spec running?() :: boolean()
  def running?, do: System.get_env("RELEASE_ROOT", "") != ""

  # The application that uses Snakepit; of several, the one that the release is named after.
  defp app do
    users =
      for {app, _, _} <- Application.loaded_applications(),
          :snakepit in (Application.spec(app, :applications) || []),
          do: app

    Enum.find(users, List.first(users), &(to_string(&1) == System.get_env("RELEASE_NAME")))
  end

  defp use_venv(app) do
    "set `config :snakepit, venv: #{inspect({app || :my_app, "priv/venv"})}` and run `mix snakepit.setup` before `mix release`"
  end

  defp use_path(app, path) do
    path = if in_priv?(path), do: path, else: "priv/python"
    "set `python_path: [#{inspect({app || :my_app, path})}]`"
  end
end
