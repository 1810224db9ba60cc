defmodule Snakepit.Python.Environment.FailureTest do
  # The words are those of pip 23 to 26 and uv 0.4 to 0.13.
  use ExUnit.Case, async: true
  alias Snakepit.Python.Environment.Failure

  @moduletag :tmp_dir

  test "an unreadable requirement is reported with its file and line, for uv and pip", %{tmp_dir: dir} do
    file = Path.join(dir, "r.txt")
    File.write!(file, "numpy\n# c\npandas=1\n")

    pip =
      "ERROR: Invalid requirement: 'pandas=1' (from line 3 of #{file})\nHint: = is not a valid operator. Did you mean == ?"

    uv = """
    error: Couldn't parse requirement in `#{file}` at position 10
      Caused by: no such comparison operator "=", must be one of ~= == != <= >= < > ===
    pandas=1
          ^^
    """

    for {tool, text} <- [{"pip", pip}, {"uv", uv}] do
      assert {:bad_requirement, message} = Failure.explain(tool, text)

      assert message =~
               "#{tool} cannot read a requirement, line 3 of #{Snakepit.Terminal.Name.from_here(file)}:"

      assert message =~ "pandas=1"
    end
  end

  @refused "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<x>: Failed to establish a new connection: [Errno -2] Name or service not known')': /simple/six/"

  test "each cause is recognized, and the message says what to do" do
    for {tool, text, cause, words} <- [
          {"pip",
           "Looking in indexes: https://u:secret@h.invalid/simple\n#{@refused}\n#{@refused}\nERROR: No matching distribution found for six",
           :no_network, "pip cannot reach https://****@h.invalid/simple."},
          {"uv",
           "error: Request failed after 3 retries\n  Caused by: Failed to fetch: `https://pypi.org/simple/six/`\n  Caused by: dns error",
           :no_network, "uv cannot reach https://pypi.org."},
          {"pip",
           "ERROR: Could not find a version that satisfies the requirement nope (from versions: none)\nERROR: No matching distribution found for nope",
           :not_found, "pip finds no such package"},
          {"uv",
           "  × No solution found when resolving dependencies:\n  ╰─▶ Because nope was not found in the package registry and you require nope, we can conclude that your requirements are unsatisfiable.",
           :not_found, "uv finds no such package"},
          {"pip",
           "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting dependencies.\n\nThe conflict is caused by:\n    a 1 depends on c<1\n    b 2 depends on c>=2\n\nTo fix this you could try to:\n1. loosen the range\nERROR: ResolutionImpossible: for help visit",
           :conflict, "loosen or take out one"},
          {"uv",
           "  × No solution found when resolving dependencies:\n  ╰─▶ Because a==1 depends on c<1 and b==2 depends on c>=2, we can conclude that a==1 and b==2 are incompatible.\n      And because you require a==1 and b==2, we can conclude that your requirements are unsatisfiable.",
           :conflict, "loosen or take out one"},
          {"uv",
           "  cause: Because you require numpy==1.26.0 and numpy==2.0.0, we can conclude that your requirements are unsatisfiable.",
           :conflict, "loosen or take out one"},
          {"pip",
           "Collecting fast\n  Processing /tmp/x.whl\nCollecting slow\n  error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory\nerror: metadata-generation-failed",
           :no_compiler, "slow has no wheel for this Python"},
          {"pip",
           "  ERROR: Failed building wheel for slow\n   fatal error: Python.h: No such file or directory",
           :no_compiler, "apt-get install build-essential python3-dev"},
          {"uv",
           "  × Failed to build `slow==1`\n  ├─▶ The build backend returned an error\n  RuntimeError: no",
           :build_failed, "slow==1 could not be built"},
          {"pip", "OSError: [Errno 28] No space left on device", :disk_full, "ran out of disk space"},
          {"uv", "error: failed to create directory `/x`: Permission denied (os error 13)", :not_writable,
           "config :snakepit, venv:"},
          {"pip", "something else\nentirely", :unknown, "something else\n  entirely"}
        ] do
      assert {^cause, message} = Failure.explain(tool, text)
      assert message =~ words
      refute message =~ "secret"
      refute message =~ "for help visit"
    end
  end

  test "a failure without output has its exit status" do
    assert Failure.error("pip", "\n", 3).message == "pip failed with exit status 3 and said nothing"
    assert Failure.error("uv", "", 137).message =~ "uv failed with exit status 137, killed by signal 9"
    assert Failure.error("pip", "odd", 1).message == "pip failed with exit status 1; its last lines:\n\n  odd"
  end

  test "pip's repeated tries are reported once" do
    {_, message} =
      Failure.explain("pip", Enum.join([@refused, @refused, "ERROR: No matching distribution found"], "\n"))

    assert length(String.split(message, "connection broken")) == 2
  end
end
