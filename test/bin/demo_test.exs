defmodule Bin.DemoTest do
  # What bin/demo says before it installs or builds anything: here it could do neither.
  use ExUnit.Case, async: true

  @moduletag :tmp_dir

  # mix and apt-get of this directory tell that they were called.
  defp demo(args, dir) do
    for name <- ~w(mix apt-get cargo) do
      path = Path.join(dir, name)
      File.write!(path, "#!/bin/sh\necho built; exit 3\n")
      File.chmod!(path, 0o755)
    end

    path = "#{dir}:#{System.get_env("PATH")}"
    System.cmd(Path.expand("bin/demo"), args, cd: dir, stderr_to_stdout: true, env: [{"PATH", path}])
  end

  test "nothing is built for arguments that are wrong", %{tmp_dir: dir} do
    assert demo(["no", "such path"], dir) ==
             {"no: no such file or directory\nsuch\\ path: no such file or directory\nThere is nothing to read.\n",
              1}

    assert {"--limit: expected a number of files above 0, got: x\n", 1} = demo(["--limit", "x"], dir)
    assert {"--limit: " <> _, 1} = demo(["--limit"], dir)
    assert {"--limit: " <> _, 1} = demo(["--limit=0"], dir)
    assert {"unknown option --bogus; " <> _, 1} = demo(["--bogus"], dir)
    assert {"bin/demo " <> _, 0} = demo(["no", "--help"], dir)
  end

  test "a path that is there is read, whatever the others are", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "there"), "x")
    assert {out, status} = demo(["no", "there", "--limit", "3"], dir)
    assert status != 0
    assert out =~ "built" or out =~ "needed"
  end
end
