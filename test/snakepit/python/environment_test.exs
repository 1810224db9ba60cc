defmodule Snakepit.Python.EnvironmentTest do
  # Real environments, made from wheels in a directory, without a network and without Mix: each run is a VM of its own.
  # uv is a program that does by the tests' own pip what uv does: what matters here is which of the two made what.
  use Snakepit.Case, async: true
  import Snakepit.Wheels

  @moduletag :tmp_dir
  @moduletag :python
  @moduletag timeout: 300_000

  @uv ~S"""
  import os, subprocess, sys, time
  words = sys.argv[1:]
  with open(os.environ["UV_LOG"], "a") as log:
      log.write(" ".join(words) + "\n")
  if words[0] == "venv":
      if hold := os.environ.get("UV_HOLD_VENV"):
          with open(hold, "w") as file:
              file.write(str(os.getpid()))
          time.sleep(120)
      sys.exit(subprocess.call([words[words.index("--python") + 1], "-m", "venv", "--without-pip", words[-1]]))
  if hold := os.environ.get("UV_HOLD"):
      with open(hold, "w") as file:
          file.write(str(os.getpid()))
      while not os.path.exists(hold + ".go"):
          time.sleep(0.01)
  if os.environ.get("UV_FAIL"):
      sys.exit("error: Failed to fetch: `%s/simple/x/`\n  Caused by: dns error" % words[words.index("--index-url") + 1])
  at = words.index("--python")
  args = [{"--reinstall": "--force-reinstall"}.get(word, word) for word in words[at + 2:] if word != "--offline"]
  pip = [sys.executable, "-m", "pip", "--python", words[at + 1], "install", "--quiet", *args]
  sys.exit(subprocess.call(pip, env={**os.environ, "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}))
  """

  setup %{tmp_dir: dir} do
    links = Path.join(dir, "links")
    msgpack!(links)
    wheel!(links, "tiny", "1.0", "X = 1\n")
    uv = Path.join(dir, "with_uv/uv")
    File.mkdir_p!(Path.dirname(uv))
    File.write!(uv, "#!#{Snakepit.Python.venv_python()}\n" <> @uv)
    File.chmod!(uv, 0o755)
    %{links: links}
  end

  # The arguments of a VM that does it; a real uv of this machine is not in its path.
  defp command(dir, options, config) do
    config = Keyword.put_new(config, :venv, Path.join(dir, "venv"))

    code = """
    for {key, value} <- #{inspect(config)}, do: Application.put_env(:snakepit, key, value)

    case Snakepit.setup(#{inspect(options, limit: :infinity)}) do
      :ok -> IO.puts("answer: ok")
      {:error, error} -> IO.puts("answer: \#{inspect({error.category, error.reason, error.details[:cause]})}\\n" <> error.message)
    end
    """

    ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
  end

  defp env(dir, uv?, more) do
    path = System.get_env("PATH") |> String.split(":") |> Enum.reject(&File.exists?(Path.join(&1, "uv")))
    path = if uv?, do: [Path.join(dir, "with_uv") | path], else: path

    own = [
      {"PATH", Enum.join(path, ":")},
      {"UV_LOG", Path.join(dir, "uv.log")},
      {"PIP_FIND_LINKS", nil},
      {"PIP_INDEX_URL", nil}
    ]

    own ++ [{"PIP_CONFIG_FILE", "/dev/null"} | more]
  end

  defp setup!(dir, options, opts \\ []) do
    {text, 0} =
      System.cmd(System.find_executable("elixir"), command(dir, options, opts[:config] || []),
        env: env(dir, opts[:uv], opts[:env] || []),
        cd: dir,
        stderr_to_stdout: true
      )

    text
  end

  defp tiny(dir) do
    python = Path.join(dir, "venv/bin/python")
    {text, status} = System.cmd(python, ["-c", "import tiny, msgpack; print(tiny.X)"], stderr_to_stdout: true)
    if status == 0, do: String.trim(text), else: :none
  end

  defp offline(links), do: [no_index: true, find_links: links]

  test "made by venv and pip, from wheels alone, what was asked for is kept, and installed again when it changes",
       %{
         tmp_dir: dir,
         links: links
       } do
    file = Path.join(dir, "r.txt")
    File.write!(file, "tiny==1.0\n")
    said = setup!(dir, offline(links), config: [requirements: "r.txt"])
    assert said =~ "Making a virtual environment in venv"
    assert said =~ "is complete, with r.txt\nanswer: ok"
    assert tiny(dir) == "1"

    # Nothing to do, by whoever runs it: nobody is asked for anything.
    said = setup!(dir, [], config: [requirements: "r.txt"], uv: true)
    assert said =~ ~r/\AThe Python environment venv is complete, with r.txt\nanswer: ok/
    refute File.exists?(Path.join(dir, "uv.log"))

    # A line more, and a wheel of the same version with something else in it.
    again = wheel!(Path.join(dir, "local"), "tiny", "1.0", "X = 2\n")
    File.write!(file, "#{again}\n")

    said = setup!(dir, offline(links), config: [requirements: ["-r r.txt"]])
    assert said =~ "Installing snakepit, with r.txt"
    assert said =~ "answer: ok"

    assert tiny(dir) == "2"
    wheel!(Path.join(dir, "local"), "tiny", "1.0", "X = 3\n")
    # uv extends what it did not make.
    assert setup!(dir, offline(links), config: [requirements: ["-r r.txt"]], uv: true) =~ "answer: ok"
    assert tiny(dir) == "3"

    # Taken out of the file it stays, except by force.
    File.write!(file, "")
    setup!(dir, offline(links), config: [requirements: "r.txt"], uv: true)
    assert tiny(dir) == "3"
    setup!(dir, [force: true] ++ offline(links), config: [requirements: "r.txt"], uv: true)
    assert tiny(dir) == :none
  end

  test "one that uv made, without pip, is extended where uv is gone", %{tmp_dir: dir, links: links} do
    assert setup!(dir, offline(links), uv: true) =~ "answer: ok"
    refute File.exists?(Path.join(dir, "venv/bin/pip"))
    assert setup!(dir, [with: "tiny"] ++ offline(links)) =~ "is complete, with tiny\nanswer: ok"
    assert tiny(dir) == "1"
    # Made anew, it has what was asked for before.
    assert setup!(dir, [force: true] ++ offline(links), uv: true) =~ "is complete, with tiny\nanswer: ok"
    assert tiny(dir) == "1"

    assert setup!(dir, [force: true, forget: true] ++ offline(links), uv: true) =~
             "venv is complete\nanswer: ok"

    assert tiny(dir) == :none
  end

  test "a pyproject.toml's dependencies, and those of an extra and a group", %{tmp_dir: dir, links: links} do
    for name <- ~w(one two three), do: wheel!(links, name, "1", "")

    File.write!(Path.join(dir, "pyproject.toml"), """
    [project]
    name = "mine"
    version = "1"
    dependencies = ["tiny>=1,<2"]
    optional-dependencies = {gpu = ["one"]}

    [dependency-groups]
    dev = ["two", {include-group = "more"}]
    more = ["three"]
    """)

    has = fn name -> Path.wildcard(Path.join(dir, "venv/lib/python3*/site-packages/#{name}.py")) != [] end
    assert setup!(dir, [requirements: "pyproject.toml"] ++ offline(links), uv: true) =~ "answer: ok"
    assert Enum.map(~w(tiny one two three), has) == [true, false, false, false]
    assert setup!(dir, [requirements: "pyproject.toml[gpu,dev]"] ++ offline(links), uv: true) =~ "answer: ok"
    assert Enum.map(~w(tiny one two three), has) == [true, true, true, true]
    said = setup!(dir, [requirements: "pyproject.toml[gqu]"] ++ offline(links), uv: true)
    assert said =~ "{:validation, :invalid_option, nil}"
    assert said =~ "pyproject.toml: it has neither an extra nor a group 'gqu'; there are: gpu, dev, more"

    # What is no list of requirements is never given to an installer.
    for {toml, words} <- [
          {"[project]\ndependencies = 'notalist'", "project.dependencies is no list of strings: 'notalist'"},
          {"[project]\ndependencies = ['--index-url=http://x']",
           "project.dependencies: '--index-url=http://x' is no requirement"},
          {"[project]\ndependencies = [\"a\\n-e .\"]", ~S(project.dependencies: 'a\n-e .' is no requirement)},
          {"[project]\ndependencies = [1]", "project.dependencies: 1 is no string"},
          {"project = 1", "project is no table"},
          {"[project]\noptional-dependencies = {dev = 'abc'}",
           "project.optional-dependencies.dev is no list of strings: 'abc'"},
          {"[project]\noptional-dependencies = {dev = [' -r x']}",
           "project.optional-dependencies.dev: ' -r x' is no requirement"},
          {"[dependency-groups]\ndev = 'abc'", "dependency-groups.dev is no list of strings: 'abc'"},
          {"[dependency-groups]\ndev = ['-e .']", "dependency-groups.dev: '-e .' is no requirement"},
          {"[dependency-groups]\ndev = [{include-group = 'more'}]\nmore = [{x = 1}]",
           "dependency-groups.more: {'x': 1} is no string"}
        ] do
      File.write!(Path.join(dir, "pyproject.toml"), toml)
      said = setup!(dir, [requirements: "pyproject.toml[dev]"] ++ offline(links), uv: true)
      assert said =~ "{:validation, :invalid_option, nil}\npyproject.toml: #{words}\n"
    end
  end

  test "what cannot be installed is an error, keeps what is there, and is asked for again", %{
    tmp_dir: dir,
    links: links
  } do
    assert setup!(dir, [with: "tiny"] ++ offline(links), uv: true) =~ "answer: ok"
    said = setup!(dir, [with: "no-such-package", installer: :pip] ++ offline(links), uv: true)
    assert said =~ "answer: {:validation, :setup_failed, :not_found}"
    assert said =~ "pip finds no such package"
    assert tiny(dir) == "1"
    # That name is not kept, tiny is; what is installed counts as unfinished.
    said = setup!(dir, offline(links), uv: true)
    assert said =~ "Installing snakepit, with tiny"
    assert said =~ "is complete, with tiny\nanswer: ok"
    refute File.read!(Path.join(dir, "venv/snakepit.stamp")) =~ "no-such-package"
  end

  test "indexes and arguments reach the installer, and a password neither the output nor the stamp", %{
    tmp_dir: dir,
    links: links
  } do
    index = "https://me:secret@h.invalid"
    options = [with: "tiny", index_url: index, offline: true, installer_args: ["--pre"]]
    said = setup!(dir, options, uv: true, env: [{"UV_FAIL", "1"}])
    assert said =~ "answer: {:pool, :setup_failed, :no_network}"
    assert said =~ "uv cannot reach https://****@h.invalid"
    refute said =~ "secret"
    assert File.read!(Path.join(dir, "uv.log")) =~ ~r/ --index-url #{index} --offline .* tiny --pre$/m
    # The directory is made by then.
    assert setup!(dir, [with: "tiny", extra_index_url: [index]] ++ offline(links), uv: true) =~ "answer: ok"
    refute File.read!(Path.join(dir, "venv/snakepit.stamp")) =~ ~r/secret|h\.invalid/

    said = setup!(dir, [find_links: "nowhere"], uv: true, config: [requirements: ["six"]])
    assert said =~ "--find-links nowhere: there is no such directory"
  end

  test "of two at once one waits, and has nothing to do then", %{tmp_dir: dir, links: links} do
    hold = Path.join(dir, "hold")

    first =
      Task.async(fn -> setup!(dir, [with: "tiny"] ++ offline(links), uv: true, env: [{"UV_HOLD", hold}]) end)

    eventually(fn -> File.exists?(hold) end)
    second = open(dir, [with: "tiny"] ++ offline(links), [])

    assert_receive {^second, {:data, {:eol, "Another setup of venv is under way: waiting for it to end"}}},
                   60_000

    File.write!(hold <> ".go", "")
    assert Task.await(first, 120_000) =~ "answer: ok"
    assert_receive {^second, {:data, {:eol, "The Python environment venv is complete, with tiny"}}}, 60_000
    assert_receive {^second, {:exit_status, 0}}, 60_000
    assert File.read!(Path.join(dir, "uv.log")) |> String.split("pip install") |> length() == 2
  end

  test "one that was killed leaves no installer behind, and the next one begins again", %{
    tmp_dir: dir,
    links: links
  } do
    # While it makes the environment, and while it installs.
    for variable <- ["UV_HOLD_VENV", "UV_HOLD"] do
      hold = Path.join(dir, variable)
      port = open(dir, [with: "tiny"] ++ offline(links), [{variable, hold}])

      pid =
        eventually(fn -> with({:ok, text} <- File.read(hold), do: text != "" && text, else: (_ -> nil)) end)

      {:os_pid, vm} = Port.info(port, :os_pid)
      {_, 0} = System.cmd("kill", ["-9", to_string(vm)])
      assert eventually(fn -> not alive?(pid) end)
    end

    said = setup!(dir, [with: "tiny"] ++ offline(links), uv: true)
    assert said =~ "Installing snakepit, with tiny"
    assert said =~ "answer: ok"
    assert tiny(dir) == "1"
  end

  defp open(dir, options, more) do
    env =
      for {name, value} <- env(dir, true, more),
          do: {to_charlist(name), (value && to_charlist(value)) || false}

    args = command(dir, options, [])

    Port.open({:spawn_executable, System.find_executable("elixir")}, [
      :binary,
      :exit_status,
      :stderr_to_stdout,
      line: 10_000,
      args: args,
      env: env,
      cd: dir
    ])
  end

  test "a place that may not be written, or is something else, is told with the setting that names another",
       %{tmp_dir: dir} do
    said = setup!(dir, [], uv: true, config: [venv: "/sys/snakepit/venv"])
    assert said =~ "answer: {:pool, :setup_failed, nil}"

    assert said =~
             ~r/could not make directory.*"\/sys\/snakepit": .*name another place with `config :snakepit, venv:`/

    File.mkdir_p!(Path.join(dir, "venv"))
    File.write!(Path.join(dir, "venv/mine.txt"), "")
    assert setup!(dir, [], uv: true) =~ "is there and is no virtual environment"
    assert File.exists?(Path.join(dir, "venv/mine.txt"))
  end

  test "configured requirements are checked, and say where they stand", %{tmp_dir: dir} do
    for {value, words} <- [
          {["pandas=2"],
           ~s("pandas=2" is no requirement; did you mean pandas==2? \(config :snakepit, requirements:\))},
          {"none.txt", "there is no file none.txt (config :snakepit, requirements:)"},
          {"pandas", "there is no file pandas (config :snakepit, requirements:)"},
          {:pandas, "expected :requirements to be a file, or a list"}
        ] do
      said = setup!(dir, [], uv: true, config: [requirements: value])
      assert said =~ "answer: {:validation, :invalid_config, nil}"
      assert said =~ words
    end
  end
end
