defmodule Snakepit.PythonTest do
  use Snakepit.Case, async: true
  alias Snakepit.{Machine, Pool, Python}

  @threads ~w(OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS)

  defp env(options) do
    {:ok, options} = [name: :x] |> Keyword.merge(options) |> pool_options() |> Pool.Options.new()
    Map.new(Python.env(options))
  end

  describe "threads of numeric libraries" do
    test "are the cores divided by the lanes of the pool, at least one" do
      lots = [size: 2, worker_profile: :thread, threads_per_worker: 500]

      for {options, threads} <- [
            {[size: 1], Machine.cores()},
            {lots, 1},
            {[size: 1, limits: [cpus: [0]]], 1}
          ] do
        assert Map.take(env(options), @threads) == Map.new(@threads, &{&1, to_string(threads)})
      end
    end

    test "are what the pool's or the VM's environment says" do
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

  describe "of the VM's environment" do
    test "what concerns only Erlang and Mix does not reach the worker, and the rest does" do
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

  test "paths are seen from the working directory, or from an application's own" do
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
end
