defmodule Snakepit.Python.ExtensionTest do
  # The native part of workers. Not async: it is one file for all of this VM's workers.
  use ExUnit.Case, async: false
  alias Snakepit.Python
  alias Snakepit.Python.Extension

  @moduletag :tmp_dir
  @moduletag vm: :second

  setup do
    test = self()
    %{say: &send(test, {:said, &1})}
  end

  defp digest_file do
    [file] = Path.wildcard(Path.join(:code.priv_dir(:snakepit), "python/snakepit/_native.*.so.digest"))
    file
  end

  test "what is there and fresh is not built", %{say: say} do
    assert :ok = Extension.complete(Python.venv_python(), say)
    assert :ok = Extension.refresh(say)
    refute_received {:said, _}
  end

  test "what was built from other sources is built anew", %{say: say} do
    fresh = File.read!(digest_file())
    on_exit(fn -> File.write!(digest_file(), fresh) end)
    File.write!(digest_file(), "0123\n#{Python.venv_python()}\n")
    assert :ok = Extension.refresh(say)
    assert_received {:said, "Building the native part of workers" <> _}
    [digest, _] = String.split(fresh, "\n", trim: true)
    assert [^digest, _] = String.split(File.read!(digest_file()), "\n", trim: true)
  end

  test "an interpreter that does not run is named", %{say: say, tmp_dir: dir} do
    python = Path.join(dir, "python")
    File.write!(python, "#!/bin/sh\necho broken >&2; exit 3\n")
    File.chmod!(python, 0o755)
    assert {:error, %{reason: :setup_failed, message: message}} = Extension.complete(python, say)
    assert message =~ python and message =~ "broken"
  end

  test "without it a worker says what to run", %{tmp_dir: dir} do
    package = Path.join(:code.priv_dir(:snakepit), "python/snakepit")
    File.cp_r!(package, Path.join(dir, "snakepit"))
    for file <- Path.wildcard(Path.join(dir, "snakepit/_native.*")), do: File.rm!(file)
    python = Python.venv_python()
    run = &System.cmd(python, ["-m" | &1], cd: dir, stderr_to_stdout: true, env: [{"PYTHONPATH", dir}])
    assert {text, 78} = run.(["snakepit.main"])
    assert text =~ "no native part of Snakepit" and text =~ "--build-for #{python}"
    assert {"preflight: snakepit._native\t" <> _, 1} = run.(["snakepit.preflight"])
  end
end
