defmodule Mix.Tasks.Snakepit.SetupTest do
  # Only what needs no network: the environment the tests run with is there already.
  use Snakepit.Case, async: true

  @moduletag :tmp_dir
  @moduletag :python

  defp mix(args, env \\ []),
    do: System.cmd("mix", ["snakepit.setup" | args], stderr_to_stdout: true, env: [{"MIX_ENV", "test"} | env])

  test "a complete environment is not made again, also when fewer extras are asked for" do
    assert {out, 0} = mix(["--with", "test"])
    assert out =~ "is complete, with numpy, grpc, ml_dtypes, test"
    refute out =~ "Installing"
    assert File.read!(".snakepit/.gitignore") == "*\n"
    assert File.read!(".snakepit/venv/.gitignore") == "*\n"
    assert {out, 0} = mix(["--with", "grpc", "--with", "numpy"])
    refute out =~ "Installing"
  end

  test "an environment is complete if workers can start in it, with the variables that they get", %{
    tmp_dir: dir
  } do
    path = Path.join(dir, "inspect.py")
    File.write!(path, "x = (")

    assert {"** (Mix) snakepit.setup: workers cannot import inspect: SyntaxError" <> words, 1} =
             mix([], [{"PYTHONPATH", dir}])

    assert words =~ "It comes from #{path}. PYTHONPATH is to blame, which is #{inspect(dir)}"
    refute words =~ "is complete"

    # Kept from the workers of a virtual environment, which knows its home by itself.
    assert {out, 0} = mix([], [{"PYTHONHOME", dir}])
    assert out =~ "is complete"
  end

  test "the variables that a pool's function gives are checked for all workers, or a line says why they cannot be",
       %{
         tmp_dir: dir
       } do
    File.write!(Path.join(dir, "inspect.py"), "x = (")

    setup = fn env ->
      code = """
      pool = %{name: :x, size: 2, python_module: "x", env: #{env}}
      Application.put_env(:snakepit, :pools, [pool])
      Mix.Task.run("snakepit.setup")
      """

      System.cmd("mix", ["run", "--no-start", "-e", code], stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])
    end

    {out, 1} = setup.("fn index -> %{\"PYTHONPATH\" => if(index == 1, do: #{inspect(dir)}, else: \"\")} end")
    assert out =~ "PYTHONPATH is to blame, which is #{inspect(dir)} in `env:` of pool :x"
    {out, 0} = setup.("{NoSuchModule, :env}")
    assert out =~ "Not checked: the variables that workers get. pool :x: env: NoSuchModule.env/1 failed"
    assert out =~ "is complete"
  end

  test "an interpreter of the configuration's own in which no worker starts is named", %{tmp_dir: dir} do
    python = bare_python(dir)
    code = "Application.put_env(:snakepit, :python, #{inspect(python)}); Mix.Task.run(\"snakepit.setup\")"

    setup = fn ->
      System.cmd("mix", ["run", "--no-start", "-e", code], stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])
    end

    # It needs no package.
    assert {out, 0} = setup.()
    assert out =~ "Pools use #{python} instead"

    File.mkdir_p!(Path.join(dir, "first"))
    File.write!(Path.join(dir, "first/inspect.py"), "x = (")
    at_start(python, "sys.path.insert(0, #{inspect(Path.join(dir, "first"))})")
    assert {out, 1} = setup.()
    assert out =~ "workers cannot import inspect: SyntaxError"
    assert out =~ "It comes from #{dir}/first/inspect.py. Mend #{python}, or name another interpreter"
  end

  test "an environment that cannot be reached is not made anew", %{tmp_dir: dir} do
    file = Path.join(dir, "file")
    File.write!(file, "")

    code =
      "Application.put_env(:snakepit, :venv, #{inspect(Path.join(file, "venv"))}); Mix.Task.run(\"snakepit.setup\")"

    {out, 1} =
      System.cmd("mix", ["run", "--no-start", "-e", code], stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])

    assert out =~ "#{file}/venv/bin/python cannot be reached: #{file}: not a directory."
    refute out =~ "Making"
  end

  test "the link lib64 is removed, because a release would copy its directory twice" do
    link = ".snakepit/venv/lib64"
    File.rm(link)
    File.ln_s!("lib", link)
    assert {_, 0} = mix([])
    assert {:error, :enoent} = File.read_link(link)
  end

  test "an error is one line", %{tmp_dir: dir} do
    assert {"** (Mix) snakepit.setup: unknown option --bogus" <> _, 1} = mix(["--bogus"])

    old = Path.join(dir, "python3")
    File.write!(old, "#!/bin/sh\nprintf '3\\n9\\n/usr\\n3.9.2 (old)\\n'\n")
    File.chmod!(old, 0o755)

    wrong = [
      {["--with", "numpy,pandas=2"], "\"pandas=2\" is no requirement; did you mean pandas==2?"},
      {["-r", "none.txt"], "there is no file none.txt"},
      {["--installer", "conda"], "--installer conda: expected uv or pip"},
      {["--forget"], ":forget is only of use with"},
      {["x"], "unexpected argument \"x\""},
      {["--python", "/nope"], "--python /nope: there is no such program"},
      {["--python", old], "--python #{old} is Python 3.9.2 (old); Python 3.11 or later is needed"}
    ]

    # All in one VM: starting Mix takes longer than the task.
    code = """
    for args <- #{inspect(Enum.map(wrong, &elem(&1, 0)))} do
      try do
        Mix.Task.rerun("snakepit.setup", args)
      rescue
        error in Mix.Error -> IO.puts("error: " <> error.message)
      end
    end
    """

    {out, 0} =
      System.cmd("mix", ["run", "--no-start", "-e", code], stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])

    errors = String.split(out, "error: snakepit.setup: ", trim: true)
    assert length(errors) == length(wrong), out
    for {error, {_, words}} <- Enum.zip(errors, wrong), do: assert(String.starts_with?(error, words))
  end
end
