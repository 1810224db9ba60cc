defmodule Snakepit.Python.Environment.Installer do
  @moduledoc false
  # Makes an environment and installs into it, by uv or by venv and pip. Each extends environments that the other made.

  alias Snakepit.Error
  alias Snakepit.Python.Environment.{Command, Failure, Interpreter, Options, Requirement, Wheel}

  @type tool :: {:uv, Path.t()} | {:pip, [String.t()]}

  # One line for each package: no progress in bytes, and nothing about Snakepit's own package.
  @progress ~r/\A\s*(Downloading (?!.*\.metadata)|Building (?!wheels for)|Installing collected|[+~] \S+==)/
  @no_progress ~r/snakepit-setup-|: finished with/

  # The requirements of a pyproject.toml: its dependencies, and for each name in brackets the optional dependencies or
  # the group of that name.
  @pyproject """
  import sys, tomllib
  path, wanted = sys.argv[1], [name for name in sys.argv[2].split(",") if name]
  with open(path, "rb") as file:
      text = tomllib.load(file)
  def table(value, key):
      if not isinstance(value, dict):
          sys.exit(f"{key} is no table")
      return value
  def items(value, key):
      if not isinstance(value, list):
          sys.exit(f"{key} is no list of strings: {value!r}")
      return value
  # An item must be one requirement: neither an option of the installer nor two arguments.
  def requirement(item, key):
      if not isinstance(item, str):
          sys.exit(f"{key}: {item!r} is no string")
      if not item.strip() or item.strip().startswith("-") or not item.replace("\\t", " ").isprintable():
          sys.exit(f"{key}: {item!r} is no requirement")
      return item.strip()
  project = table(text["project"], "project") if "project" in text else None
  groups = table(text.get("dependency-groups", {}), "dependency-groups")
  extras = table((project or {}).get("optional-dependencies", {}), "project.optional-dependencies")
  def group(name, above=()):
      if not isinstance(name, str):
          sys.exit(f"dependency-groups.{above[-1]}: include-group = {name!r} is no string")
      if name in above:
          sys.exit(f"its groups include each other: {' > '.join([*above, name])}")
      if name not in groups:
          sys.exit(f"it has neither an extra nor a group {name!r}; there are: {', '.join([*extras, *groups]) or 'none'}")
      key = f"dependency-groups.{name}"
      for item in items(groups[name], key):
          if isinstance(item, dict) and list(item) == ["include-group"]:
              yield from group(item["include-group"], (*above, name))
          else:
              yield requirement(item, key)
  def listed(value, key):
      return [requirement(item, key) for item in items(value, key)]
  if project is None and not wanted:
      sys.exit("it has no [project] table, and so no dependencies")
  found = listed((project or {}).get("dependencies", []), "project.dependencies")
  if "dependencies" in items((project or {}).get("dynamic", []), "project.dynamic"):
      sys.exit("its dependencies are dynamic: install the project itself, as the directory it is in")
  for name in wanted:
      found += listed(extras[name], f"project.optional-dependencies.{name}") if name in extras else group(name)
  print("\\n".join(found))
  """

  @doc "Makes the environment from `base`. The place is empty already."
  @spec make!(Path.t(), Interpreter.t(), Options.t()) :: :ok
  def make!(venv, base, options) do
    File.mkdir_p!(Path.dirname(venv))

    if uv = uv(options) do
      made!(venv, "uv", guarded(base.path, uv, ["venv", "--quiet", "--python", base.path, venv]))
    else
      made!(venv, "venv", guarded(base.path, base.path, ["-m", "venv", venv]))
    end
  end

  # When this VM is killed, the program must end: it must not write into the environment beside the next setup.
  defp guarded(python, program, args), do: Command.stream(python, program, args, fn _line -> :ok end)

  defp made!(_venv, _tool, {_, 0}), do: :ok

  defp made!(venv, tool, {text, status}) do
    File.rm_rf(venv)
    fail!("the environment could not be made: #{tool} failed#{Failure.last_words(text, 12, status)}")
  end

  @doc "Raises where no environment can be made from `base`. Debian ships Python without these, in a package of its own."
  @spec check!(Interpreter.t(), Options.t()) :: :ok
  def check!(%{release: {major, minor}} = base, options) do
    unless uv(options) || match?({_, 0}, Command.run(base.path, ["-c", "import venv, ensurepip"])) do
      system? = base.path in ["/usr/bin/python3", "/bin/python3"]
      name = if system?, do: "python3", else: "python#{major}.#{minor}"

      fail!(
        "#{base.path} cannot make virtual environments; run: sudo apt-get install #{name}-venv, or install uv"
      )
    end
  end

  @doc """
  Installs Snakepit's package with these extras, and the requirements. `again` are local packages that may be there in an
  older state, under the same version.
  """
  @spec install!(Path.t(), [String.t()], [Requirement.t()], [String.t()], Options.t(), (String.t() -> any())) ::
          :ok
  def install!(python, extras, requirements, again, options, say) do
    tool = tool!(python, options)
    dir = Path.join(System.tmp_dir!(), "snakepit-setup-#{System.pid()}-#{System.unique_integer([:positive])}")
    File.mkdir_p!(dir)

    try do
      wheel = Wheel.write!(dir)
      own = own(wheel, extras) ++ Enum.flat_map(requirements, &arguments!(python, &1))
      run!(tool, python, ["install"] ++ places(tool, options) ++ own ++ options.installer_args, say)

      # They know a package by its version, and leave it as it is; but a file, or directory, may have changed.
      if again != [] do
        local = [Requirement.url(wheel) | again]
        quiet = fn line -> if line =~ ~r/rror/, do: say.(line) end

        run!(
          tool,
          python,
          ["install"] ++
            anew(tool) ++ ["--no-deps"] ++ places(tool, options) ++ local ++ options.installer_args,
          quiet
        )
      end

      :ok
    after
      File.rm_rf(dir)
    end
  end

  defp anew({:uv, _}), do: ["--reinstall"]
  defp anew({:pip, _}), do: ["--force-reinstall"]

  defp own(wheel, extras) do
    of_package = Enum.filter(extras, &(&1 in ["numpy", "grpc"]))
    brackets = if of_package == [], do: "", else: "[#{Enum.join(of_package, ",")}]"

    ["snakepit#{brackets} @ #{Requirement.url(wheel)}"] ++
      if("ml_dtypes" in extras, do: ["ml_dtypes"], else: []) ++
      if("test" in extras, do: ["-r", Path.join(Wheel.source(), "requirements-test.txt")], else: [])
  end

  defp arguments!(python, %Requirement{kind: :pyproject, path: path, extras: extras}) do
    wanted = extras |> String.trim_leading("[") |> String.trim_trailing("]") |> String.replace(" ", "")

    case Command.run(python, ["-c", @pyproject, path, wanted]) do
      {text, 0} ->
        String.split(text, "\n", trim: true)

      {text, _} ->
        invalid!(
          "#{Requirement.shown(path)}: #{text |> Failure.last_lines(1) |> String.trim() |> Requirement.scrub()}"
        )
    end
  end

  defp arguments!(_python, requirement), do: Requirement.arguments(requirement)

  defp places(tool, options) do
    links = for place <- options.find_links, do: link!(place)

    if(options.index_url, do: ["--index-url", options.index_url], else: []) ++
      Enum.flat_map(options.extra_index_url, &["--extra-index-url", &1]) ++
      Enum.flat_map(links, &["--find-links", &1]) ++
      if(options.no_index or (options.offline and match?({:pip, _}, tool)), do: ["--no-index"], else: []) ++
      if(options.offline and match?({:uv, _}, tool), do: ["--offline"], else: [])
  end

  defp link!(place) do
    cond do
      place =~ ~r{\A[a-z]+://} -> place
      File.exists?(place) -> Path.expand(place)
      true -> invalid!("--find-links #{place}: there is no such directory")
    end
  end

  # ---- the tools --------------------------------------------------------------------------------------------------

  defp uv(%Options{installer: :pip}), do: nil

  defp uv(%Options{installer: installer}) do
    uv = System.find_executable("uv")
    if installer == :uv and uv == nil, do: invalid!("--installer uv: there is no uv in the path")
    uv
  end

  @spec tool!(Path.t(), Options.t()) :: tool()
  defp tool!(python, options) do
    if uv = uv(options), do: {:uv, uv}, else: {:pip, pip!(python)}
  end

  # An environment that uv made has no pip: it is put into it, or the one of the Python it was made from is used.
  defp pip!(python) do
    own = [python, "-m", "pip"]

    cond do
      runs?(own) ->
        own

      match?({_, 0}, guarded(python, python, ["-m", "ensurepip"])) and runs?(own) ->
        own

      base = base_with_pip(python) ->
        [base, "-m", "pip", "--python", python]

      true ->
        fail!(
          "the environment of #{Requirement.shown(python)} was made by uv and has no pip, and its Python has none to lend: " <>
            "install uv again, or sudo apt-get install python3-venv"
        )
    end
  end

  defp base_with_pip(python) do
    with {base, 0} <- Command.run(python, ["-c", "import sys; print(sys._base_executable)"]),
         base = String.trim(base),
         true <- runs?([base, "-m", "pip", "--python", python]),
         do: base,
         else: (_ -> nil)
  end

  defp runs?([program | args]), do: match?({_, 0}, Command.run(program, args ++ ["--version"]))

  defp run!(tool, python, args, say) do
    {name, [program | args]} =
      case {tool, args} do
        {{:uv, uv}, ["install" | rest]} ->
          {"uv", [uv, "pip", "install", "--python", python | rest]}

        {{:pip, pip}, ["install" | rest]} ->
          {"pip",
           pip ++ ["--disable-pip-version-check", "install", "--no-input", "--progress-bar", "off" | rest]}
      end

    said = fn line ->
      if line =~ @progress and not (line =~ @no_progress),
        do: say.("  " <> (line |> String.trim() |> Requirement.scrub()))
    end

    case Command.stream(python, program, args, said) do
      {_, 0} -> :ok
      {text, status} -> raise Failure.error(name, text, status)
    end
  end

  @spec fail!(String.t()) :: no_return()
  defp fail!(message), do: raise(Error.new(:pool, :setup_failed, message, details: %{cause: :unknown}))

  @spec invalid!(String.t()) :: no_return()
  defp invalid!(message), do: raise(Error.new(:validation, :invalid_option, message))
end
