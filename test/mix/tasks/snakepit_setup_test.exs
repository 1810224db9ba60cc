defmodule Mix.Tasks.Snakepit.SetupTest do
  # Only what needs no network: the environment the tests run with is there already.
  use ExUnit.Case, async: true

  @moduletag :tmp_dir
  @moduletag :python

  defp mix(args, env \\ []),
    do: System.cmd("mix", ["snakepit.setup" | args], stderr_to_stdout: true, env: [{"MIX_ENV", "test"} | env])

  test "what is there is not made again, and less than that is enough" do
    assert {out, 0} = mix(["--with", "test"])
    assert out =~ "is complete, with numpy, grpc, ml_dtypes, test"
    refute out =~ "Installing"
    assert File.read!(".snakepit/.gitignore") == "*\n"
    assert File.read!(".snakepit/venv/.gitignore") == "*\n"
    assert {out, 0} = mix(["--with", "grpc", "--with", "numpy"])
    refute out =~ "Installing"
  end

  test "what is wrong is said in one line", %{tmp_dir: dir} do
    assert {"** (Mix) snakepit.setup: --with nump: expected one of numpy, " <> _, 1} = mix(["--with", "nump"])
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
