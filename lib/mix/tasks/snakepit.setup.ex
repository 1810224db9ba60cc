defmodule Mix.Tasks.Snakepit.Setup do
  @shortdoc "Makes the Python environment of Snakepit's workers"

  @usage """
      mix snakepit.setup [--with numpy,grpc,ml_dtypes,test] [--python PATH] [--force]

  Options:

    * `--with LIST` - what to install beside the package itself, separated by commas: `numpy` (tensors), `grpc` (the
      gRPC way), `ml_dtypes` (bf16 tensors), `test` (all that `bin/test` needs, in fixed versions). May be repeated.
    * `--python PATH` - the interpreter to make the environment from; by default the first `python3` in the path that
      is new enough
    * `--force` - make the environment anew, even if it is complete
    * `--help` - print this text
  """

  @moduledoc """
  Makes a virtual environment and installs Snakepit's Python package into it. Workers use it, unless
  `config :snakepit, python:` or a pool names another interpreter.

  #{@usage}
  It lies at `.snakepit/venv`, which git is told to ignore; `config :snakepit, venv: "…"` names another place. Python 3.11 or later is needed. `uv`
  installs it where present, else `venv` and `pip` do.

  A second run installs nothing, as long as the package, the interpreter and what was asked for are the same. To ask for
  less is fine: nothing is ever taken out, except by `--force`.

  At last it imports what workers import, with the environment variables that they get, for every configured pool: an
  environment is complete if workers can start in it.
  """
  use Mix.Task

  alias Snakepit.{Config, Pool, Python}
  alias Snakepit.Python.Preflight

  # What the file beside the environment records is compared with what is wanted, so that a run with nothing to do costs
  # the start of an interpreter or two.
  @extras ~w(numpy grpc ml_dtypes test)
  @oldest {3, 11}
  @names ["python3" | Enum.map(14..11//-1, &"python3.#{&1}")]
  @tail 12

  @impl true
  def run(argv) do
    case OptionParser.parse(argv, strict: [with: :keep, python: :string, force: :boolean, help: :boolean]) do
      {opts, [], []} ->
        if opts[:help], do: Mix.shell().info(@usage), else: setup(opts)

      {_, [word | _], []} ->
        fail("unexpected argument #{inspect(word)}; see `mix help snakepit.setup`")

      {_, _, [{option, nil} | _]} ->
        fail("unknown option #{option}, or no value; see `mix help snakepit.setup`")

      {_, _, [{option, value} | _]} ->
        fail("#{option}: unexpected value #{inspect(value)}")
    end
  end

  defp setup(opts) do
    asked = extras(opts)
    python = Python.venv_python()
    venv = python |> Path.dirname() |> Path.dirname()
    reachable!(python)
    base = if path = opts[:python], do: named!(path)
    installed = read_stamp(venv)

    extras =
      if !opts[:force] && complete?(installed, asked, python, base) do
        installed.extras
      else
        remake? = opts[:force] || broken?(python) || (base && installed && installed.base != base.prefix)
        extras = if opts[:force] || !installed, do: asked, else: complete(installed.extras ++ asked)
        if remake?, do: make(venv, base || find!())
        install(venv, python, extras)
        extras
      end

    one_library_directory(venv)
    check!(venv, python, extras)
    Mix.shell().info("The Python environment #{shown(venv)} is complete#{with_words(extras)}")
    keep_out_of_git(venv)
    compile(python)
    other_interpreters(python)
  rescue
    # What the file system refuses.
    error in File.Error -> fail(Exception.message(error))
  end

  # ---- whether workers can start in it ----------------------------------------------------------------------------

  defp check!(venv, python, extras) do
    modules = Enum.filter(extras, &(&1 in ~w(numpy grpc ml_dtypes)))

    with {options, failure} <- failing(python, modules),
         variable = Preflight.to_blame(python, options, modules),
         {options, failure, variable} <- repaired(venv, python, extras, {options, failure, variable}) do
      mend = "Run `mix snakepit.setup --force`, which makes #{shown(venv)} anew"
      fail(Preflight.explain(failure, python, options, variable, mend))
    end
  end

  defp failing(python, modules) do
    Enum.find_value(pools(python), fn options ->
      with {:error, failure} <- Preflight.run(python, options, modules),
           do: {options, failure},
           else: (:ok -> nil)
    end)
  end

  # What somebody took out is installed again.
  defp repaired(venv, python, extras, {options, failure, variable} = found) do
    modules = extras -- ["test"]

    if variable == nil and Preflight.missing?(failure) do
      install(venv, python, extras)

      case Preflight.run(python, options, modules) do
        :ok -> nil
        {:error, failure} -> {options, failure, nil}
      end
    else
      found
    end
  end

  # Those whose workers this interpreter runs, each environment once; a plain one if none is configured.
  defp pools(python) do
    configured =
      case Config.load() do
        {:ok, config} -> config.pools
        # The application says what is wrong with it.
        {:error, _} -> []
      end

    case Enum.filter(configured, &match?({:ok, ^python}, Python.interpreter(&1))) do
      [] ->
        {:ok, plain} = Pool.Options.new(name: :setup, python_module: "none", python_path: [])
        [plain]

      pools ->
        pools |> Enum.flat_map(&of_workers/1) |> Enum.uniq_by(&{&1.env, &1.python_path})
    end
  end

  # A function that gives the variables may need what is not compiled or started yet.
  defp of_workers(options) do
    case Pool.Env.each(options, &Preflight.concerned?/1) do
      {:ok, all} ->
        all

      {:error, error} ->
        Mix.shell().info("Not checked: the variables that workers get. #{error.message}")
        [%{options | env: %{}}]
    end
  end

  # Pools that were told another interpreter know nothing of this environment.
  defp other_interpreters(python) do
    with nil <- Config.get(:python), do: :ok, else: (named -> other_interpreter(named, python))
  end

  defp other_interpreter(named, python) do
    {:ok, options} = Pool.Options.new(name: :setup, python_module: "none", python_path: [])

    case Python.interpreter(options) do
      {:ok, ^python} ->
        :ok

      {:ok, other} ->
        Mix.shell().info("Pools use #{named} instead, as `config :snakepit, python:` says")

        with {:error, failure} <- Preflight.run(other, options, []) do
          mend = "Install what is missing for it: #{other} -m pip install msgpack"
          fail(Preflight.explain(failure, other, options, Preflight.to_blame(other, options, []), mend))
        end

      {:error, _} ->
        fail("`config :snakepit, python: #{inspect(named)}`: there is no such program")
    end
  end

  # An environment that may not be looked into is not one that is not there.
  defp reachable!(python) do
    case File.stat(python) do
      {:error, reason} when reason != :enoent ->
        at = blocked(python)

        fail(
          "#{python} cannot be reached: #{at}: #{:file.format_error(reason)}. Run this as a user who may, mend the " <>
            "rights of #{at}, or name another place with `config :snakepit, venv:`"
        )

      _ ->
        :ok
    end
  end

  # The first directory on the way that lets nobody through; links are followed.
  defp blocked(path, links \\ 0) do
    path
    |> Path.split()
    |> Enum.scan(&Path.join(&2, &1))
    |> Enum.find_value(path, fn prefix ->
      case {File.stat(prefix), File.read_link(prefix)} do
        {{:ok, _}, _} -> nil
        {_, {:ok, target}} when links < 40 -> blocked(Path.expand(target, Path.dirname(prefix)), links + 1)
        _ -> Path.dirname(prefix)
      end
    end)
  end

  # `python -m venv` adds lib64 as a link to lib, which only old tools need: Python looks into lib as well. Whoever copies
  # the environment with its links followed, as `mix release` does, would have everything twice.
  defp one_library_directory(venv) do
    link = Path.join(venv, "lib64")
    if match?({:ok, "lib"}, File.read_link(link)), do: File.rm!(link)
  end

  # Workers import the package at every start, and where PYTHONDONTWRITEBYTECODE is set, as in many containers, they would
  # compile it every time. Checked by hash, since a release does not keep the times of files. Where the directory may not
  # be written, they do.
  defp compile(python) do
    dirs = Path.wildcard(Path.join(package(), "snakepit{,_bench,_demo}"))
    command(python, ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash" | dirs])
  end

  # The environment, and the directory around it where that is Snakepit's own.
  defp keep_out_of_git(venv) do
    around = Path.dirname(venv)

    for dir <- [venv | if(Path.basename(around) == ".snakepit", do: [around], else: [])],
        ignore = Path.join(dir, ".gitignore"),
        not File.exists?(ignore),
        do: File.write!(ignore, "*\n")
  end

  defp extras(opts) do
    extras =
      opts |> Keyword.get_values(:with) |> Enum.flat_map(&String.split(&1, ",", trim: true)) |> Enum.uniq()

    case extras -- @extras do
      [] -> complete(extras)
      [other | _] -> fail("--with #{other}: expected one of #{Enum.join(@extras, ", ")}")
    end
  end

  # The tests need all of them.
  defp complete(extras), do: if("test" in extras, do: @extras, else: Enum.filter(@extras, &(&1 in extras)))

  # ---- what is there ----------------------------------------------------------------------------------------------

  defp complete?(nil, _asked, _python, _base), do: false

  defp complete?(installed, asked, python, base) do
    asked -- installed.extras == [] and installed.package == package_hash() and
      (base == nil or base.prefix == installed.base) and
      match?({:ok, %{version: version}} when version == installed.version, probe(python))
  end

  defp broken?(python) do
    case probe(python) do
      {:ok, %{release: release}} -> release < @oldest
      {:error, _} -> true
    end
  end

  defp stamp(venv), do: Path.join(venv, "snakepit.stamp")

  defp read_stamp(venv) do
    with {:ok, text} <- File.read(stamp(venv)),
         [package, version, base, extras] <- String.split(text, "\n", trim: true) do
      %{package: package, version: version, base: base, extras: complete(String.split(extras, ","))}
    else
      _ -> nil
    end
  end

  defp write_stamp(venv, python, extras) do
    {:ok, %{version: version, prefix: prefix}} = probe(python)
    # "-" keeps the line when there are no extras.
    lines = [package_hash(), version, prefix, Enum.join(["-" | extras], ",")]
    File.write!(stamp(venv), Enum.map(lines, &[&1, "\n"]))
  end

  # The package's own modules are not part of it: workers import them from where they are, not from the environment.
  defp package_hash do
    parts =
      for name <- ["pyproject.toml", "requirements-test.txt"], do: File.read!(Path.join(package(), name))

    :crypto.hash(:sha256, parts) |> Base.encode16(case: :lower)
  end

  defp package, do: Path.join(:code.priv_dir(:snakepit), "python")

  # ---- interpreters -----------------------------------------------------------------------------------------------

  @probe "import sys; print(*sys.version_info[:2], sys.base_prefix, sys.version.replace(chr(10), ' '), sep=chr(10))"

  defp probe(python) do
    with {text, 0} <- command(python, ["-c", @probe]),
         [major, minor, prefix, version] <- String.split(text, "\n", trim: true) do
      {:ok,
       %{
         path: python,
         release: {String.to_integer(major), String.to_integer(minor)},
         prefix: prefix,
         version: version
       }}
    else
      {text, _status} -> {:error, text}
      _ -> {:error, "it did not answer as a Python 3 does"}
    end
  end

  defp named!(path) do
    found = if String.contains?(path, "/"), do: Path.expand(path), else: System.find_executable(path)
    unless found && File.regular?(found), do: fail("--python #{path}: there is no such program")

    case probe(found) do
      {:ok, %{release: release} = base} when release >= @oldest -> base
      {:ok, %{version: version}} -> fail("--python #{path} is Python #{version}; #{needed()}")
      {:error, text} -> fail("--python #{path} does not run: #{last_lines(text, 3)}")
    end
  end

  defp find! do
    found = for name <- @names, path = System.find_executable(name), {:ok, base} <- [probe(path)], do: base

    case {Enum.find(found, &(&1.release >= @oldest)), found} do
      {nil, []} ->
        fail("no python3 in the path; #{needed()}: sudo apt-get install python3 python3-venv")

      {nil, [old | _]} ->
        fail("#{old.path} is Python #{old.version}; #{needed()}. Name another with --python PATH")

      {base, _} ->
        base
    end
  end

  defp needed, do: "Python #{elem(@oldest, 0)}.#{elem(@oldest, 1)} or later is needed"

  # ---- making -----------------------------------------------------------------------------------------------------

  defp make(venv, base) do
    clear!(venv)
    File.mkdir_p!(Path.dirname(venv))
    Mix.shell().info("Making a virtual environment in #{shown(venv)} (#{base.path})")

    if uv = System.find_executable("uv") do
      run!(uv, ["venv", "--quiet", "--python", base.path, venv], "uv could not make it", fn ->
        File.rm_rf(venv)
      end)
    else
      check_venv!(base)
      run!(base.path, ["-m", "venv", venv], "it could not be made", fn -> File.rm_rf(venv) end)
    end

    # Before anything is installed, so that nothing is recorded to lie behind the link.
    one_library_directory(venv)
  end

  # Only what is a virtual environment is ever removed: the configured place may be a slip of the pen.
  defp clear!(venv) do
    cond do
      not File.exists?(venv) or File.ls(venv) == {:ok, []} ->
        :ok

      File.exists?(Path.join(venv, "pyvenv.cfg")) or File.exists?(stamp(venv)) ->
        File.rm_rf!(venv)

      true ->
        fail("#{venv} is there and is no virtual environment; remove it, or set `config :snakepit, venv:`")
    end
  end

  # Debian ships Python without these, in a package of its own.
  defp check_venv!(%{release: {major, minor}} = base) do
    case command(base.path, ["-c", "import venv, ensurepip"]) do
      {_, 0} ->
        :ok

      {_, _} ->
        name =
          if base.path in ["/usr/bin/python3", "/bin/python3"], do: "python3", else: "python#{major}.#{minor}"

        fail("#{base.path} cannot make virtual environments; run: sudo apt-get install #{name}-venv")
    end
  end

  defp install(venv, python, extras) do
    File.rm(stamp(venv))
    Mix.shell().info("Installing snakepit#{with_words(extras)}")

    with_copy(fn package ->
      wanted = wanted(package, extras)

      case System.find_executable("uv") do
        nil ->
          check_pip!(venv, python)
          pip = ["-m", "pip", "--disable-pip-version-check", "install", "--no-input", "--progress-bar", "off"]
          run!(python, pip ++ wanted, "pip failed")

        uv ->
          run!(uv, ["pip", "install", "--python", python | wanted], "uv failed")
      end
    end)

    write_stamp(venv, python, extras)
  end

  # An environment that uv made has no pip.
  defp check_pip!(venv, python) do
    unless match?({_, 0}, command(python, ["-m", "pip", "--version"])) do
      fail("#{shown(venv)} has no pip; run again with --force, which makes it anew")
    end
  end

  defp wanted(package, extras) do
    of_package = Enum.filter(extras, &(&1 in ["numpy", "grpc"]))
    named = if of_package == [], do: package, else: "#{package}[#{Enum.join(of_package, ",")}]"
    [named] ++ if("ml_dtypes" in extras, do: ["ml_dtypes"], else: []) ++ pins(package, extras)
  end

  defp pins(package, extras) do
    if "test" in extras, do: ["-r", Path.join(package, "requirements-test.txt")], else: []
  end

  # A build leaves files beside the sources; these may be another's, or not writable.
  defp with_copy(fun) do
    dir = Path.join(System.tmp_dir!(), "snakepit-setup-#{System.pid()}")
    File.rm_rf!(dir)

    try do
      File.cp_r!(package(), dir)
      fun.(dir)
    after
      File.rm_rf(dir)
    end
  end

  # ---- commands and words -----------------------------------------------------------------------------------------

  defp run!(program, args, what, undo \\ fn -> :ok end) do
    case command(program, args) do
      {_, 0} ->
        :ok

      {text, _status} ->
        undo.()
        fail("#{what}; its last lines:\n\n#{last_lines(text, @tail)}")
    end
  end

  # Neither a module path nor another environment of the user's may lead it astray.
  defp command(program, args) do
    System.cmd(program, args,
      stderr_to_stdout: true,
      env: [{"PYTHONPATH", nil}, {"PYTHONHOME", nil}, {"VIRTUAL_ENV", nil}]
    )
  rescue
    error in [ErlangError, File.Error] -> {Exception.message(error), 127}
  end

  defp last_lines(text, count) do
    lines = text |> String.split("\n") |> Enum.map(&String.trim_trailing/1)
    # pip says the same of each of its tries, before it says what is wrong.
    lines = Enum.reject(lines, &(&1 == "" or &1 =~ "WARNING: Retrying"))
    lines |> Enum.take(-count) |> Enum.map_join("\n", &("  " <> &1))
  end

  defp with_words([]), do: ""
  defp with_words(extras), do: ", with " <> Enum.join(extras, ", ")

  defp shown(venv), do: Path.relative_to_cwd(venv)

  @spec fail(String.t()) :: no_return()
  defp fail(message), do: Mix.raise("snakepit.setup: " <> message)
end
