defmodule Snakepit.Python.Environment do
  @moduledoc false
  # The virtual environment of workers: looks at the present one, makes a plan (`Plan`), and carries it out. Needs
  # neither Mix nor a running application. A run with nothing to do costs the start of an interpreter or two.

  alias Snakepit.{Error, Python}
  alias Snakepit.Options.Configured
  alias Snakepit.Python.Environment.{Check, Command, Contents, Installer, Interpreter, Options}
  alias Snakepit.Python.Environment.{Plan, Requirement, Stamp, Wheel}
  alias Snakepit.Python.Extension

  @typedoc "Gives the options of the workers that an interpreter runs, each environment once; may `say` what it cannot know."
  @type workers :: (Path.t(), say() -> [Python.options()])
  @type say :: (String.t() -> any())

  @doc "Makes the environment complete, and says what it does, a line at a time. `workers` must be able to start in it."
  @spec setup(keyword() | map(), say(), workers()) :: :ok | {:error, Error.t()}
  def setup(given, say, workers) do
    # A release's `eval` has not, and without it there is no configuration.
    _ = Application.load(:snakepit)
    with {:ok, options} <- Options.new(given), do: complete(options, say, workers)
  rescue
    error in Error -> {:error, error}
    # The file system refuses something.
    error in File.Error -> {:error, refused(error)}
  end

  defp refused(%File.Error{reason: reason} = error) do
    mend =
      if reason in [:erofs, :eacces, :eperm],
        do: ": run this as a user who may write there, or name another place with `config :snakepit, venv:`",
        else: ""

    failure(:pool, :setup_failed, Exception.message(error) <> mend)
  end

  defp complete(options, say, workers) do
    python = Python.venv_python()
    venv = python |> Path.dirname() |> Path.dirname()
    reachable!(python)
    base = if options.python, do: ok!(Interpreter.named(options.python))
    place = %{venv: venv, python: python, base: base, options: options, say: say}

    {wanted, facts} = look(place)

    extras =
      if Plan.decide(options, wanted, facts) == :nothing,
        do: facts.stamp.extras,
        else: under_lock(place)

    one_library_directory(venv)
    install = fn -> under_lock(place, true) end

    with :ok <- Extension.complete(python, say),
         :ok <- Check.run(venv, python, extras, workers.(python, say), install) do
      say.(
        "The Python environment #{Requirement.shown(venv)} is complete#{with_words(extras, wanted.requirements)}"
      )

      keep_out_of_git(venv)
      compile(python)
      with :ok <- Check.others(python, say), do: build_for(options.build_for, say)
    end
  end

  defp build_for(pythons, say) do
    Enum.reduce_while(pythons, :ok, fn named, :ok ->
      python = ok!(Interpreter.named(named, "--build-for")).path
      with :ok <- Extension.complete(python, say), do: {:cont, :ok}, else: (error -> {:halt, error})
    end)
  end

  # The wanted contents, and the present ones.
  defp look(%{venv: venv, python: python, base: base, options: options}) do
    stamp = Stamp.read(venv)
    wanted = ok!(Plan.wanted(options, configured!(), stamp))
    {digest, local} = contents!(wanted.requirements)
    found = with {:ok, found} <- Interpreter.probe(python), do: found, else: (_ -> nil)
    facts = %{stamp: stamp, package: Wheel.digest(), digest: digest, python: found, base: base}
    {wanted, Map.put(facts, :local, local)}
  end

  defp configured! do
    value = Configured.get(:requirements)

    unless Snakepit.Options.cast({:or, [{:in, [nil]}, :path, {:list_of, :path}]}, value) != :error,
      do:
        raise(
          failure(
            :validation,
            :invalid_config,
            "config :snakepit: expected :requirements to be a file, or a list, got: #{inspect(value)}"
          )
        )

    case Plan.parsed(Requirement.listed(value), " (config :snakepit, requirements:)") do
      {:ok, requirements} -> requirements
      {:error, message} -> raise failure(:validation, :invalid_config, message)
    end
  end

  defp contents!(requirements) do
    case Contents.read(requirements) do
      {:ok, digest, local} -> {digest, local}
      {:error, message} -> raise failure(:validation, :invalid_requirement, message)
    end
  end

  # ---- making and installing --------------------------------------------------------------------------------------

  # After a wait for another setup, the work may be done already. `repair?`: the contents are not those of the stamp.
  defp under_lock(place, repair? \\ false) do
    %{venv: venv, python: python, say: say} = place
    around = Path.dirname(venv)
    File.mkdir_p!(around)
    guard = if match?({:ok, _}, Interpreter.probe(python)), do: python, else: base!(place).path

    waiting = fn ->
      say.("Another setup of #{Requirement.shown(venv)} is under way: waiting for it to end")
    end

    Command.locked(guard_outside(guard, venv, place), around, waiting, fn ->
      {wanted, facts} = look(place)

      case if(repair?, do: :install, else: Plan.decide(place.options, wanted, facts)) do
        :nothing -> :ok
        :install -> install(place, wanted, facts, false)
        :make -> make(place) && install(place, wanted, facts, true)
      end

      wanted.extras
    end)
  end

  # An interpreter that is about to be removed must not be the one that holds the lock.
  defp guard_outside(guard, venv, place) do
    if place.options.force and String.starts_with?(guard, venv <> "/"), do: base!(place).path, else: guard
  end

  defp base!(%{base: nil}), do: ok!(Interpreter.find())
  defp base!(%{base: base}), do: base

  defp make(%{venv: venv, options: options, say: say} = place) do
    base = base!(place)
    Installer.check!(base, options)
    clear!(venv)
    say.("Making a virtual environment in #{Requirement.shown(venv)} (#{base.path})")
    Installer.make!(venv, base, options)
    # Before the installation, so that no file is recorded under the link.
    one_library_directory(venv)
  end

  defp install(%{venv: venv, python: python, options: options, say: say}, wanted, facts, fresh?) do
    earlier = unless options.forget, do: facts.stamp
    stamped!(venv, Stamp.begin(venv, earlier))
    say.("Installing snakepit#{with_words(wanted.extras, wanted.requirements)}")
    again = if fresh?, do: [], else: facts.local
    Installer.install!(python, wanted.extras, wanted.requirements, again, options, say)
    {:ok, %{version: version, prefix: prefix}} = Interpreter.probe(python)

    stamp = %Stamp{
      package: facts.package,
      version: version,
      base: prefix,
      extras: wanted.extras,
      digest: facts.digest,
      asked: Enum.map(wanted.asked, & &1.text)
    }

    stamped!(venv, Stamp.write(venv, stamp))
  end

  defp stamped!(_venv, :ok), do: :ok

  defp stamped!(venv, {:error, reason}),
    do: raise(File.Error, reason: reason, action: "write", path: Stamp.path(venv))

  # Removes virtual environments only: the configured place may be a typing error.
  defp clear!(venv) do
    cond do
      not File.exists?(venv) or File.ls(venv) == {:ok, []} ->
        :ok

      File.exists?(Path.join(venv, "pyvenv.cfg")) or File.exists?(Stamp.path(venv)) ->
        File.rm_rf!(venv)

      true ->
        raise failure(
                :validation,
                :setup_failed,
                "#{venv} is there and is no virtual environment; remove it, or set `config :snakepit, venv:`"
              )
    end
  end

  # ---- the place --------------------------------------------------------------------------------------------------

  # An environment that may not be read is not a missing one.
  defp reachable!(python) do
    case File.stat(python) do
      {:error, reason} when reason != :enoent ->
        at = blocked(python)

        raise failure(
                :pool,
                :setup_failed,
                "#{python} cannot be reached: #{at}: #{:file.format_error(reason)}. Run this as a user who may, mend the " <>
                  "rights of #{at}, or name another place with `config :snakepit, venv:`"
              )

      _ ->
        :ok
    end
  end

  # The first directory of the path that this user may not enter; links are followed.
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

  # `python -m venv` adds lib64 as a link to lib, which only old tools need: Python looks into lib as well. Whoever
  # copies the environment with its links followed, as `mix release` does, would have everything twice. Where it may not
  # be removed, it stays.
  defp one_library_directory(venv) do
    link = Path.join(venv, "lib64")
    if match?({:ok, "lib"}, File.read_link(link)), do: File.rm(link)
    :ok
  end

  # Workers import the package at every start, and where PYTHONDONTWRITEBYTECODE is set, as in many containers, they
  # would compile it every time. Checked by hash, since a release does not keep the times of files. Where the directory
  # may not be written, they do.
  defp compile(python) do
    dirs = Path.wildcard(Path.join(Wheel.source(), "snakepit{,_bench,_demo}"))
    Command.run(python, ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash" | dirs])
  end

  # The environment, and the directory around it where that is Snakepit's own. One that may not be written is no worse.
  defp keep_out_of_git(venv) do
    around = Path.dirname(venv)

    for dir <- [venv | if(Path.basename(around) == ".snakepit", do: [around], else: [])],
        ignore = Path.join(dir, ".gitignore"),
        not File.exists?(ignore),
        do: File.write(ignore, "*\n")
  end

  # ---- words ------------------------------------------------------------------------------------------------------

  defp with_words(extras, requirements) do
    case extras ++ Enum.map(requirements, &word/1) do
      [] -> ""
      words -> ", with " <> Enum.join(words, ", ")
    end
  end

  defp word(%Requirement{path: path}) when path != nil, do: Requirement.shown(path)
  defp word(%Requirement{text: text}), do: Requirement.scrub(text)

  defp ok!({:ok, value}), do: value
  defp ok!({:error, message}), do: raise(failure(:validation, :invalid_option, message))

  defp failure(category, reason, message), do: Error.new(category, reason, message)
end
