defmodule Mix.Tasks.Snakepit.SetupTest do
  # Only what needs no network: the environment the tests run with is there already.
  use ExUnit.Case, async: true

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
    path = Path.join(dir, "msgpack.py")
    File.write!(path, "x = (")

    assert {"** (Mix) snakepit.setup: workers cannot import msgpack: SyntaxError" <> words, 1} =
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
    File.write!(Path.join(dir, "msgpack.py"), "x = (")

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
    assert {"** (Mix) snakepit.setup: \"pandas=2\" is no requirement; did you mean pandas==2?" <> _, 1} =
             mix(["--with", "numpy,pandas=2"])

    assert {"** (Mix) snakepit.setup: there is no file none.txt" <> _, 1} = mix(["-r", "none.txt"])

    assert {"** (Mix) snakepit.setup: --installer conda: expected uv or pip" <> _, 1} =
             mix(["--installer", "conda"])

    assert {"** (Mix) snakepit.setup: :forget is only of use with" <> _, 1} = mix(["--forget"])
    assert {"** (Mix) snakepit.setup: unknown option --bogus" <> _, 1} = mix(["--bogus"])
    assert {"** (Mix) snakepit.setup: unexpected argument \"x\"" <> _, 1} = mix(["x"])

    assert {"** (Mix) snakepit.setup: --python /nope: there is no such program" <> _, 1} =
             mix(["--python", "/nope"])

    old = Path.join(dir, "python3")
    File.write!(old, "#!/bin/sh\nprintf '3\\n9\\n/usr\\n3.9.2 (old)\\n'\n")
    File.chmod!(old, 0o755)
    assert {"** (Mix) snakepit.setup: --python " <> words, 1} = mix(["--python", old])
    assert words =~ "is Python 3.9.2 (old); Python 3.11 or later is needed"
  end
end
