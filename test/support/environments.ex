defmodule Snakepit.Environments do
  @moduledoc false
  # Real environments, made from wheels in a directory: without a network, without Mix, and each by a VM of its own. The
  # program `uv` is a stand-in that uses the tests' own pip: the tests are about who made what, not about uv.

  use ExUnit.CaseTemplate
  alias Snakepit.Wheels

  @uv ~S"""
  import importlib.util, os, subprocess, sys, time
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
  python = words[at + 1]
  args = [{"--reinstall": "--force-reinstall"}.get(word, word) for word in words[at + 2:] if word != "--offline"]
  # As `pip --python` does, without the pip that only starts the other one.
  runner = os.path.join(os.path.dirname(importlib.util.find_spec("pip").origin), "__pip-runner__.py")
  env = {**os.environ, "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
  os.execve(python, [python, runner, "install", "--quiet", *args], env)
  """

  using do
    quote do
      import Snakepit.Case
      import Snakepit.Environments
      import Snakepit.Wheels

      @moduletag :tmp_dir
      @moduletag :python
      @moduletag timeout: 300_000
    end
  end

  setup %{tmp_dir: dir} do
    links = Path.join(dir, "links")
    Wheels.wheel!(links, "tiny", "1.0", "X = 1\n")
    uv = Path.join(dir, "with_uv/uv")
    File.mkdir_p!(Path.dirname(uv))
    File.write!(uv, "#!#{Snakepit.Python.venv_python()}\n" <> @uv)
    File.chmod!(uv, 0o755)
    %{links: links}
  end

  @doc """
  What `Snakepit.setup(options)` prints, and its answer. `config:` is Snakepit's configuration, `uv: true` puts the
  stand-in into the path, `env:` is more of the environment.
  """
  def setup!(dir, options, opts \\ []) do
    [text] = setups!(dir, [{[], options, opts[:config] || []}], opts)
    text
  end

  @doc "The same for several setups, one after the other in one VM: each `{files, options, config}` writes its files first."
  def setups!(dir, runs, opts \\ []) do
    {text, 0} =
      System.cmd(System.find_executable("elixir"), command(dir, runs),
        env: env(dir, opts[:uv], opts[:env] || []),
        cd: dir,
        stderr_to_stdout: true
      )

    texts = String.split(text, "next setup\n", trim: true)
    ExUnit.Assertions.assert(length(texts) == length(runs), text)
    texts
  end

  @doc "A port in which a setup runs, with the stand-in for uv; it sends lines."
  def open_setup(dir, options, more) do
    env =
      for {name, value} <- env(dir, true, more),
          do: {to_charlist(name), (value && to_charlist(value)) || false}

    Port.open({:spawn_executable, System.find_executable("elixir")}, [
      :binary,
      :exit_status,
      :stderr_to_stdout,
      line: 10_000,
      args: command(dir, [{[], options, []}]),
      env: env,
      cd: dir
    ])
  end

  @doc "The value in the package tiny, as the environment has it."
  def tiny(dir) do
    python = Path.join(dir, "venv/bin/python")
    {text, status} = System.cmd(python, ["-c", "import tiny; print(tiny.X)"], stderr_to_stdout: true)
    if status == 0, do: String.trim(text), else: :none
  end

  def offline(links), do: [no_index: true, find_links: links]

  # The arguments of the VM.
  defp command(dir, runs) do
    runs =
      for {files, options, config} <- runs,
          do: {files, options, Keyword.put_new(config, :venv, Path.join(dir, "venv"))}

    code = """
    run = fn {files, options, config} ->
      for {path, text} <- files, do: File.write!(path, text)
      for {key, value} <- config, do: Application.put_env(:snakepit, key, value)

      case Snakepit.setup(options) do
        :ok -> IO.puts("answer: ok")
        {:error, error} -> IO.puts("answer: \#{inspect({error.category, error.reason, error.details[:cause]})}\\n" <> error.message)
      end
    end

    for setup <- #{inspect(runs, limit: :infinity, printable_limit: :infinity)} do
      run.(setup)
      IO.puts("next setup")
    end
    """

    ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
  end

  # A real uv of this machine is not in the path. What pip would compile, setup does afterwards.
  defp env(dir, uv?, more) do
    path = System.get_env("PATH") |> String.split(":") |> Enum.reject(&File.exists?(Path.join(&1, "uv")))
    path = if uv?, do: [Path.join(dir, "with_uv") | path], else: path

    own = [
      {"PATH", Enum.join(path, ":")},
      {"UV_LOG", Path.join(dir, "uv.log")},
      {"PIP_FIND_LINKS", nil},
      {"PIP_INDEX_URL", nil},
      {"PIP_NO_COMPILE", "1"},
      {"PIP_CONFIG_FILE", "/dev/null"}
    ]

    own ++ more
  end
end
