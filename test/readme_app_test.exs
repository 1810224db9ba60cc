defmodule Snakepit.ReadmeAppTest do
  # Follows the README in a fresh application, in the order of the page: writes the files that its blocks name in their
  # first line, and runs the commands of its console blocks, whose output must be there.
  use ExUnit.Case, async: true

  @moduletag :python
  @moduletag vm: :second
  @moduletag timeout: 900_000
  @readme File.read!("README.md")
  @root File.cwd!()

  # Sections about a clone of Snakepit, not about an application.
  @elsewhere ["Try it on your own files", "How fast", "When not to use it", "More"]

  setup_all do
    dir = Path.join(System.tmp_dir!(), "snakepit-readme-#{System.pid()}")
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    # The README says `path: "../snakepit"`.
    File.ln_s!(@root, Path.join(dir, "snakepit"))
    run!("mix new my_app", dir)
    %{app: Path.join(dir, "my_app")}
  end

  test "the README's files and commands work in order in a fresh application", %{app: app} do
    steps = for section <- sections(), block <- blocks(section), do: block
    assert Enum.count(steps, &match?({:file, _, _}, &1)) >= 6
    assert Enum.count(steps, &match?({:run, _, _}, &1)) >= 6

    Enum.reduce(steps, MapSet.new(), fn step, written ->
      case step do
        {:file, "mix.exs", text} -> deps!(app, text)
        {:file, path, text} -> write!(Path.join(app, path), text, path in written)
        {:run, command, expected} -> printed!(run!(command, app), expected, command)
      end

      share_build(app)

      MapSet.put(written, elem(step, 1))
    end)
  end

  defp sections do
    for section <- String.split(@readme, ~r/^## /m),
        [title | _] = String.split(section, "\n", parts: 2),
        title not in @elsewhere,
        do: section
  end

  defp blocks(section) do
    Regex.scan(~r/^```(\w+)\n(.*?)^```$/ms, section, capture: :all_but_first)
    |> Enum.flat_map(fn
      ["console", text] -> commands(text)
      [_language, text] -> file(text)
    end)
  end

  # "# priv/python/my_tools.py"
  defp file(text) do
    case Regex.run(~r/\A# ([\w.\/-]+\.\w+|mix\.exs)\n/, text, capture: :all_but_first) do
      [path] -> [{:file, path, text}]
      nil -> []
    end
  end

  # A command goes on in the next line behind a backslash; below it stands what it prints.
  defp commands(text) do
    for part <- String.split(text, ~r/^\$ /m, trim: true) do
      [command | expected] = part |> String.replace("\\\n", "") |> String.split("\n", trim: true)
      # What stands behind two spaces and a # is for the reader.
      {:run, String.replace(command, ~r/\s{2,}# .*$/, ""), expected}
    end
  end

  defp deps!(app, text) do
    path = Path.join(app, "mix.exs")
    [deps] = Regex.run(~r/^def deps do\n.*^end\n/ms, text)

    mix =
      path
      |> File.read!()
      |> String.replace(~r/^  defp deps do\n.*?^  end\n/ms, String.replace(deps, "def ", "defp "))

    assert mix =~ "snakepit"
    File.write!(path, mix)
  end

  # The blocks of one file are its parts, in order; the first replaces the text that `mix new` wrote.
  defp write!(path, text, more?) do
    File.mkdir_p!(Path.dirname(path))
    if more?, do: File.write!(path, "\n" <> text, [:append]), else: File.write!(path, text)
  end

  # Mix would compile Snakepit once more, to the same modules, for each of the environments.
  defp share_build(app) do
    from = Path.join(app, "_build/dev/lib/snakepit")

    for env <- ["test", "prod"], to = Path.join(app, "_build/#{env}/lib/snakepit"), not File.exists?(to) do
      File.mkdir_p!(Path.dirname(to))
      if File.dir?(from), do: {_, 0} = System.cmd("cp", ["-a", from, to])
    end
  end

  # The reader's shell has no variables of this run of Mix.
  defp run!(command, dir) do
    unset =
      for {name, _} <- System.get_env(), name =~ ~r/^(MIX_|ERL_|ROOTDIR|BINDIR|RELEASE_)/, do: {name, nil}

    {said, status} = System.cmd("bash", ["-c", command], cd: dir, env: unset, stderr_to_stdout: true)
    assert status == 0, "`#{command}` exited with #{status}:\n#{said}"
    said
  end

  # Each line, in order; "…" stands for anything.
  defp printed!(said, expected, command) do
    Enum.reduce(expected, said, fn line, rest ->
      words = line |> String.trim() |> String.split("…") |> Enum.map_join(".*", &Regex.escape/1)

      case Regex.split(Regex.compile!(words, "u"), rest, parts: 2) do
        [_before, rest] -> rest
        [_] -> flunk("`#{command}` did not print #{inspect(line)}:\n#{said}")
      end
    end)
  end
end
