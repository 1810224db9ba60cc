defmodule Snakepit.Python.Preflight do
  @moduledoc false
  # Whether a worker could start in an environment, without starting one: imports what a worker imports, with a worker's
  # environment variables, and finds the variable or directory that is to blame for a failure.

  alias Snakepit.Python

  @typedoc "`file` is where the module comes from, \"\" if it is nowhere; `module` is nil if Python itself did not start."
  @type failure :: %{module: String.t() | nil, file: Path.t(), problem: String.t()}

  @loader ~w(LD_LIBRARY_PATH LD_PRELOAD)
  @last_lines 3

  @doc """
  Imports `extras` (names of modules) and a worker's own modules.

  `without` names environment variables to leave out. The options are those of one worker.
  """
  @spec run(Path.t(), Python.options(), [String.t()], [String.t()]) :: :ok | {:error, failure()}
  def run(python, options, extras, without \\ []) do
    args = ["-m", "snakepit.preflight" | Enum.map(extras, &with_oldest/1)]
    env = Python.command_env(%{options | env: Map.drop(options.env, without)}, python, without)
    {text, status} = System.cmd(python, args, env: env, stderr_to_stdout: true)

    case Regex.run(~r/^preflight: (?:(fine)|([^\t\n]*)\t([^\t\n]*)\t([^\n]*))$/m, text) do
      [_, "fine"] when status == 0 -> :ok
      [_, "", module, file, problem] -> {:error, %{module: module, file: file, problem: problem}}
      _ -> {:error, %{module: nil, file: "", problem: last_lines(text)}}
    end
  rescue
    error in ErlangError ->
      {:error, %{module: nil, file: "", problem: to_string(:file.format_error(error.original))}}
  end

  @doc "Whether the only cause of the failure is a module that is not installed."
  @spec missing?(failure()) :: boolean()
  def missing?(%{module: module, file: file}), do: module != nil and file == ""

  @doc "Whether a variable of this name changes where Python, or the system's loader, looks for files."
  @spec concerned?(String.t()) :: boolean()
  def concerned?(name), do: String.starts_with?(name, "PYTHON") or name in @loader

  @doc "The environment variable without which it would not fail; nil if there is none."
  @spec to_blame(Path.t(), Python.options(), [String.t()]) :: String.t() | nil
  def to_blame(python, options, extras) do
    names = Enum.uniq(Map.keys(options.env) ++ Map.keys(System.get_env()))

    names
    |> Enum.filter(&concerned?/1)
    |> Enum.sort()
    |> Enum.find(&(run(python, options, extras, [&1]) == :ok))
  end

  @doc "Says what failed, why, and how to mend it; `mend` is the advice if the environment itself is at fault."
  @spec explain(failure(), Path.t(), Python.options(), variable :: String.t() | nil, mend :: String.t()) ::
          String.t()
  def explain(failure, python, options, variable, mend) do
    what =
      if failure.module,
        do: "workers cannot import #{failure.module}",
        else: "Python does not start as it is started for workers (#{python})"

    from = if failure.file == "", do: "", else: ". It comes from #{failure.file}"

    "#{what}: #{String.trim_trailing(failure.problem, ".")}#{from}. " <>
      advice(failure, options, variable, mend)
  end

  defp advice(_failure, options, variable, _mend) when is_binary(variable) do
    {value, where, mend} =
      case options.env do
        %{^variable => value} -> {value, "in `env:` of pool #{inspect(options.name)}", "take it out there"}
        _ -> {System.get_env(variable), "in this environment", "unset it"}
      end

    mend = if variable == "PYTHONPATH", do: mend <> ", or take the directory out of it", else: mend
    "#{variable} is to blame, which is #{inspect(value)} #{where}: #{mend}"
  end

  defp advice(%{file: ""}, _options, _variable, mend), do: mend

  defp advice(%{file: file}, options, _variable, mend) do
    cond do
      directory = Enum.find(Python.directories(options), &inside?(file, &1)) ->
        "#{directory} is in `python_path:` of pool #{inspect(options.name)}, which comes before installed packages: " <>
          "rename the file"

      Path.dirname(Path.expand(file)) == File.cwd!() or
          Path.dirname(Path.dirname(Path.expand(file))) == File.cwd!() ->
        "Python looks into the working directory before installed packages: rename the file"

      String.contains?(file, "/.local/lib/") ->
        "It is among the user's own packages: uninstall it there, or set PYTHONNOUSERSITE=1"

      true ->
        mend
    end
  end

  defp inside?(file, directory), do: String.starts_with?(Path.expand(file), directory <> "/")

  # The oldest versions are those of the package itself.
  defp with_oldest(module) do
    project = :snakepit |> :code.priv_dir() |> Path.join("python/pyproject.toml") |> File.read!()
    name = if module == "grpc", do: "grpcio", else: module

    case Regex.run(~r/"#{name}>=([\d.]+)"/, project) do
      [_, oldest] -> "#{module}=#{oldest}"
      nil -> module
    end
  end

  defp last_lines(text) do
    text |> String.split("\n", trim: true) |> Enum.take(-@last_lines) |> Enum.map_join("; ", &String.trim/1)
  end
end
