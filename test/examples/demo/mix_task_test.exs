defmodule Mix.Tasks.Snakepit.DemoTest do
  # The task as its user runs it: a VM of its own.
  use ExUnit.Case, async: true

  @moduletag :tmp_dir
  @moduletag :python

  defp mix(args) do
    System.cmd("mix", args, stderr_to_stdout: true, env: [{"MIX_ENV", "test"}, {"ELIXIR_ERL_OPTIONS", "+fnu"}])
  end

  test "the status is that of the work, and no process stays", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "a"), "abc")
    assert {out, 0} = mix(["snakepit.demo", "--cwd", dir, "a"])
    assert out =~ "1 file, 3 B, calls inline 3"
    refute out =~ "\e"
    refute out =~ "notice"
    assert {out, 1} = mix(["snakepit.demo", "--cwd", dir, "a", "b"])
    assert out =~ "b: no such file or directory"
    assert out =~ "all SHA-256 agree: yes"
  end

  test "options that are wrong" do
    assert {"** (Mix) snakepit.demo: unknown option --bogus" <> _, 1} = mix(["snakepit.demo", "--bogus"])
    assert {"** (Mix) snakepit.demo: --limit" <> _, 1} = mix(["snakepit.demo", "--limit", "x"])
    assert {"** (Mix) snakepit.demo: --limit" <> _, 1} = mix(["snakepit.demo", "--limit", "0"])
    assert {out, 0} = mix(["snakepit.demo", "--help"])
    assert out =~ "--limit N"
  end
end
