defmodule Snakepit.Python.PreflightTest do
  use ExUnit.Case, async: true
  alias Snakepit.{Pool, Python}
  alias Snakepit.Python.Preflight

  @moduletag :tmp_dir
  @moduletag :python

  defp options(options) do
    {:ok, options} = Pool.Options.new([name: :checked, python_module: "none", python_path: []] ++ options)
    options
  end

  defp fails(options, extras \\ []) do
    python = Python.venv_python()
    assert {:error, failure} = Preflight.run(python, options, extras)
    variable = Preflight.to_blame(python, options, extras)
    {failure, variable, Preflight.explain(failure, python, options, variable, "Mend it")}
  end

  test "the tests' own environment passes" do
    assert :ok = Preflight.run(Python.venv_python(), options([]), ~w(numpy grpc ml_dtypes))
  end

  test "a broken module is reported with its file and the variable that leads to it", %{tmp_dir: dir} do
    path = Path.join(dir, "inspect.py")
    File.write!(path, "raise RuntimeError('half a module')\n")
    {failure, variable, words} = fails(options(env: %{"PYTHONPATH" => dir, "PYTHONHASHSEED" => "0"}))
    assert %{module: "inspect", file: ^path, problem: "RuntimeError: half a module"} = failure
    refute Preflight.missing?(failure)
    assert variable == "PYTHONPATH"
    assert words =~ "in `env:` of pool :checked" and words =~ inspect(dir)

    # Imports, and is none.
    File.write!(path, "version = (1, 2, 3)\n")

    assert {%{module: "inspect", file: ^path, problem: "AttributeError: " <> _}, "PYTHONPATH", _} =
             fails(options(env: %{"PYTHONPATH" => dir}))
  end

  test "a broken extra, and a hidden module of Python's own, are reported in the same way", %{tmp_dir: dir} do
    File.mkdir_p!(Path.join(dir, "numpy"))
    path = Path.join(dir, "numpy/__init__.py")
    File.write!(path, "import no_such_module\n")
    options = options(env: %{"PYTHONPATH" => dir})

    assert {%{module: "numpy", file: ^path, problem: "ModuleNotFoundError" <> _}, "PYTHONPATH", _} =
             fails(options, ["numpy"])

    File.write!(path, "version = (0, 6)\n")

    assert {%{problem: "its version is 0.6; 1.24 or later is needed"}, "PYTHONPATH", _} =
             fails(options, ["numpy"])

    # Nobody asked for it: workers start.
    assert :ok = Preflight.run(Python.venv_python(), options, [])

    path = Path.join(dir, "struct.py")
    File.write!(path, "from _struct import *\nStruct = None\n")
    assert {%{module: "struct", file: ^path, problem: "TypeError: " <> _}, "PYTHONPATH", _} = fails(options)

    # The package itself needs this one.
    path = Path.join(dir, "typing.py")
    File.write!(path, "def f(:\n")
    assert {%{module: "typing", file: ^path, problem: "SyntaxError: " <> _}, "PYTHONPATH", _} = fails(options)
  end

  test "another Python's home is found to be the cause", %{tmp_dir: dir} do
    {failure, variable, words} = fails(options(env: %{"PYTHONHOME" => dir}))
    assert %{module: nil, problem: problem} = failure
    assert problem =~ "encodings"
    assert variable == "PYTHONHOME"
    assert words =~ "PYTHONHOME is to blame" and words =~ inspect(dir)
  end

  test "a pool's own directory that hides a module is named", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "inspect.py"), "")
    {_, variable, words} = fails(options(python_path: [dir]))
    assert variable == nil
    assert words =~ "#{dir} is in `python_path:` of pool :checked"
  end

  test "a package that is not installed is missing; a program that does not run is no Python", %{tmp_dir: dir} do
    {failure, nil, words} = fails(options([]), ["no_such_module"])
    assert Preflight.missing?(failure)

    assert words ==
             "workers cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'. Mend it"

    closed = Path.join(dir, "python")
    File.write!(closed, "#!/bin/sh\n")
    assert {:error, %{module: nil, problem: "permission denied"}} = Preflight.run(closed, options([]), [])
  end
end
