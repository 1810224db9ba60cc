defmodule Mix.Tasks.Snakepit.ToolsTest do
  # The task as its user runs it: a VM of its own, with pools from a configuration.
  use ExUnit.Case, async: true

  @tools Path.expand("../../support/python", __DIR__)

  # The environment's own configuration has no pools, so the task is run with some put there first.
  defp mix(args, pools) do
    code = """
    Application.put_env(:snakepit, :pools, #{inspect(pools)})
    Mix.Task.run("snakepit.tools", #{inspect(args)})
    """

    System.cmd("mix", ["run", "--no-start", "-e", code], stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])
  end

  defp pool(name, options \\ []),
    do:
      Map.merge(
        %{name: name, size: 1, python_module: "snakepit_test_tools", python_path: [@tools]},
        Map.new(options)
      )

  test "lists the tools of all pools, shows one, and suggests the nearest name" do
    pools = [pool(:a), pool(:b)]
    assert {out, 0} = mix([], pools)
    assert out =~ ~r/^pool :a: \d+ tools$/m and out =~ ~r/^pool :b: \d+ tools$/m
    assert out =~ ~r/^  add\(a: int, b: int\) -> int$/m
    assert out =~ ~r/^  fresh\(x: Any\) -> Any +The same value in memory of its own/m
    assert out =~ ~r/^  count\(n: int\) -> Any \(stream\)$/m
    refute out =~ "\e"

    assert {out, 0} = mix(["write_to", "--pool", "b"], pools)

    assert out =~
             "write_to(x: Any) -> str\n\nfunction of pool :b, test/support/python/snakepit_test_tools.py:"

    assert out =~ "\n\n  Tries what a tool might, to have `x` for itself. It writes only if it may.\n"
    assert out =~ "Arguments:\n  x  Any, required\n"
    refute out =~ "pool :a"

    assert {out, 1} = mix(["write_too"], pools)
    assert out =~ "snakepit.tools: no tool write_too in pools :a, :b; did you mean write_to?"
    assert {out, 1} = mix(["add", "--pool", "c"], pools)
    assert out =~ "there is no pool c; configured are: a, b"
  end

  test "a pool that cannot start is an error after the tools of the others" do
    assert {out, 1} = mix([], [pool(:a), pool(:broken, python_module: "nowhere")])
    assert out =~ ~r/^pool :a: \d+ tools/m
    assert out =~ "snakepit.tools: pool :broken: nowhere could not be imported"
  end

  test "prints help; wrong arguments are errors" do
    assert {out, 0} = System.cmd("mix", ~w(snakepit.tools --help), env: [{"MIX_ENV", "test"}])
    assert out =~ "mix snakepit.tools [NAME]"

    for args <- [~w(snakepit.tools a b), ~w(snakepit.tools --pol x)] do
      assert {"** (Mix) snakepit.tools: un" <> _, 1} =
               System.cmd("mix", args, stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])
    end

    assert {out, 1} = mix([], [])
    assert out =~ "no pool is configured"
  end
end
