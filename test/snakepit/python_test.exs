defmodule Snakepit.PythonTest do
  use Snakepit.Case, async: true
  alias Snakepit.{Machine, Pool, Python}

  @threads ~w(OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS)

  defp env(options) do
    {:ok, options} = [name: :x] |> Keyword.merge(options) |> pool_options() |> Pool.Options.new()
    Map.new(Python.env(options))
  end

  describe "threads of numeric libraries" do
    test "are the cores divided by the pool's lanes, at least one" do
      lots = [size: 2, worker_profile: :thread, threads_per_worker: 500]

      for {options, threads} <- [
            {[size: 1], Machine.cores()},
            {lots, 1},
            {[size: 1, limits: [cpus: [0]]], 1}
          ] do
        assert Map.take(env(options), @threads) == Map.new(@threads, &{&1, to_string(threads)})
      end
    end

    test "are those of the pool's or the VM's environment, if set there" do
      name = "NUMEXPR_NUM_THREADS"
      on_exit(fn -> System.delete_env(name) end)
      System.put_env(name, "17")
      given = env(env: %{"OMP_NUM_THREADS" => "9"}, size: 100)
      assert Enum.map(@threads, &given[&1]) == ["9", "1", "1", "17"]
    end

    test "reach the worker" do
      pool = pool!(env: %{"MKL_NUM_THREADS" => "3"})
      of = fn name -> Snakepit.execute!("environment", %{name: name}, pool: pool) end
      assert of.("MKL_NUM_THREADS") == "3"
      assert of.("OMP_NUM_THREADS") == to_string(Machine.cores())
    end
  end

  describe "the VM's environment:" do
    test "variables of Erlang and Mix do not reach the worker, others do" do
      pool = pool!(env: %{"MIX_ENV" => "given"})
      of = fn name -> Snakepit.execute!("environment", %{name: name}, pool: pool) end

      for name <- ~w(ROOTDIR BINDIR EMU PROGNAME) do
        assert System.get_env(name)
        assert of.(name) == nil
      end

      assert of.("PATH") == System.get_env("PATH")
      assert of.("MIX_ENV") == "given"
    end

    test "a release's cookie reaches neither worker nor companion" do
      code = """
      {:ok, _} = Application.ensure_all_started(:snakepit)
      {:ok, _} = Snakepit.start_pool(#{inspect(pool_options(name: :curious))})
      code = "import os\\nx = [dict(os.environ), open(f'/proc/{os.getppid()}/environ').read()]"
      {:ok, found} = Snakepit.execute("python_value", %{code: code}, pool: :curious)
      IO.write(["found: ", inspect(found, limit: :infinity, printable_limit: :infinity)])
      """

      args = ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
      env = [{"RELEASE_COOKIE", "top secret"}, {"HEX_API_KEY", "top secret"}, {"FOR_TOOLS", "of use"}]
      {said, 0} = System.cmd(System.find_executable("elixir"), args, env: env, stderr_to_stdout: true)
      assert said =~ "found: "
      assert said =~ "of use"
      refute said =~ "top secret"
      refute said =~ "RELEASE_COOKIE"
    end
  end

  test "paths are relative to the working directory or to an application's directory" do
    assert Python.expand("priv/python") == Path.join(File.cwd!(), "priv/python")
    assert Python.expand("/x/../y") == "/y"
    assert Python.expand({:logger, "priv/python"}) == Path.expand(Application.app_dir(:logger, "priv/python"))
    # The project's own: where its sources lie, compiled or not.
    assert Python.expand({:snakepit, "priv/python"}) == Path.join(File.cwd!(), "priv/python")

    assert Python.expandable?("x") and Python.expandable?({:logger, "x"}) and
             Python.expandable?({:snakepit, "x"})

    refute Python.expandable?({:no_such_app, "x"})
  end

  test "a pool's directories come behind Snakepit's own, which has no module that a user's may be named like" do
    {:ok, options} = Pool.Options.new(%{name: :x, python_module: "x", python_path: ["/a", {:logger, "b"}]})
    assert Python.directories(options) == ["/a", Path.expand(Application.app_dir(:logger, "b"))]
    {_, path} = options |> Python.env() |> List.keyfind("PYTHONPATH", 0)
    assert [own, "/a", _ | _] = String.split(path, ":")
    assert own |> Path.join("*/__init__.py") |> Path.wildcard() |> Enum.all?(&(&1 =~ "/snakepit"))
  end

  describe "an interpreter that cannot be used is an error with its path and the reason:" do
    @describetag :tmp_dir

    defp refused(python) do
      {:ok, options} = [name: :x, python: python] |> pool_options() |> Pool.Options.new()

      assert {:error, %Error{category: :pool, reason: :no_python, message: message}} =
               Python.interpreter(options)

      message
    end

    test "missing, not executable, a directory, a dangling link", %{
      tmp_dir: dir
    } do
      file = Path.join(dir, "file")
      File.write!(file, "")
      link = Path.join(dir, "link")
      File.ln_s!("/no/such/python", link)
      assert refused(Path.join(dir, "none")) =~ "#{dir}/none\" does not exist: no such file"
      assert refused(file) =~ "#{file} is not executable"
      assert refused(dir) =~ "is a directory"
      assert refused(link) =~ "it is a link to /no/such/python, which is not there"
      assert refused("no-such-python-anywhere") =~ "no such program in PATH"
    end

    test "behind a directory that this user may not enter", %{tmp_dir: dir} do
      # Root may pass every directory, so another user looks.
      code = """
      Application.load(:snakepit)
      options = #{inspect(pool_options(name: :x, python: Path.join(dir, "venv/bin/python")))}
      {:ok, options} = Snakepit.Pool.Options.new(options)
      {:error, error} = Snakepit.Python.interpreter(options)
      IO.write("said: " <> error.message)
      """

      bin = Path.join(dir, "venv/bin")
      File.mkdir_p!(bin)
      File.write!(Path.join(bin, "python"), "")
      File.chmod!(Path.join(bin, "python"), 0o755)
      on_exit(fn -> File.chmod(Path.join(dir, "venv"), 0o755) end)
      File.chmod!(Path.join(dir, "venv"), 0o700)
      if root?(), do: {_, 0} = System.cmd("chown", ["12345", Path.join(dir, "venv")])
      unless root?(), do: File.chmod!(Path.join(dir, "venv"), 0)
      {said, _} = as_nobody(["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code])
      assert said =~ "cannot be used: #{dir}/venv: permission denied"
    end

    defp root?, do: File.stat!("/proc/self").uid == 0

    # Of root, without the capabilities that pass permissions.
    defp as_nobody(args) do
      elixir = System.find_executable("elixir")

      if root?(),
        do:
          System.cmd("setpriv", ["--bounding-set=-all", "--inh-caps=-all", elixir | args],
            stderr_to_stdout: true
          ),
        else: System.cmd(elixir, args, stderr_to_stdout: true)
    end
  end

  describe "a worker that does not start because of its environment:" do
    @describetag :tmp_dir

    defp start(options) do
      name = :"test_#{System.unique_integer([:positive])}"
      on_exit(fn -> Snakepit.stop_pool(name) end)

      case options |> pool_options() |> Map.put(:name, name) |> Snakepit.start_pool() do
        {:ok, _} -> {:ok, name}
        error -> error
      end
    end

    test "a broken module of Python's own name on PYTHONPATH is named by its file, and so is the entry", %{
      tmp_dir: dir
    } do
      for {n, source, said} <- [
            {1, "raise RuntimeError('broken on purpose')", "RuntimeError: broken on purpose"},
            {2, "def f(:", "SyntaxError"},
            {3, "import no_such_module", "No module named 'no_such_module'"},
            {4, "x = 1", "module 'inspect' has no attribute"}
          ] do
        path = Path.join(dir, to_string(n))
        File.mkdir_p!(path)
        File.write!(Path.join(path, "inspect.py"), source)
        assert {:error, %Error{message: message}} = start(env: %{"PYTHONPATH" => path})

        for part <- ["inspect at #{path}/inspect.py", said, "take #{path} out of PYTHONPATH"],
            do: assert(message =~ part)

        assert message =~ "#{path} comes from PYTHONPATH of the pool's :env"
        refute message =~ "no native part"
      end
    end

    test "the error says whether PYTHONPATH is the VM's or the pool's", %{tmp_dir: dir} do
      File.write!(Path.join(dir, "inspect.py"), "raise RuntimeError('no')")
      {said, _} = other_vm([{"PYTHONPATH", dir}])
      assert said =~ "inspect at #{dir}/inspect.py"
      assert said =~ "#{dir} comes from PYTHONPATH of the VM's environment"
    end

    test "PYTHONHOME of another Python does not reach a virtual environment", %{tmp_dir: dir} do
      {said, 0} = other_vm([{"PYTHONHOME", dir}])
      assert said =~ "started"
    end

    test "PYTHONHOME is named in the error if the pool sets it, or if there is no virtual environment", %{
      tmp_dir: dir
    } do
      assert {:error, %Error{message: message}} = start(env: %{"PYTHONHOME" => dir})
      assert message =~ "PYTHONHOME is #{dir} in the pool's :env"
    end

    defp other_vm(env) do
      code = """
      {:ok, _} = Application.ensure_all_started(:snakepit)

      case Snakepit.start_pool(#{inspect(pool_options(name: :elsewhere))}) do
        {:ok, _} -> IO.write("started")
        {:error, error} -> IO.write(error.message)
      end
      """

      args = ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
      System.cmd(System.find_executable("elixir"), args, env: env, stderr_to_stdout: true)
    end
  end
end
