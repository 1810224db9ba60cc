defmodule Snakepit.Worker.ImportFailureTest do
  # A module that is missing, at a pool's start and in a tool: what to add where, and what to run.
  use Snakepit.Case, async: true

  @moduletag :python
  @moduletag :tmp_dir

  defp failed(dir, source, options \\ []) do
    assert {:error, %Error{category: :python_error, reason: :import_failed, message: message}} =
             source_pool(dir, "from snakepit import tool\n" <> source, options)

    message
  end

  test "a package is named by the name by which it is installed", %{tmp_dir: dir} do
    message = failed(dir, "import sklearn.linear_model\n")

    assert message =~
             "No module named 'sklearn'; add scikit-learn to `config :snakepit, requirements: [\"scikit-learn\"]`"

    assert message =~ "run `mix snakepit.setup --with scikit-learn`"
  end

  test "so it is where a tool imports it", %{tmp_dir: dir} do
    {:ok, pool} = source_pool(dir, "from snakepit import tool\n@tool\ndef late():\n    import cv2\n")

    assert {:error, %Error{category: :python_error, message: message}} =
             Snakepit.execute("late", %{}, pool: pool)

    assert message =~ "No module named 'cv2'; add opencv-python-headless to `config :snakepit, requirements:"
  end

  test "a module of the user's own is not to be installed", %{tmp_dir: dir} do
    File.mkdir_p!(Path.join(dir, "parts"))
    File.write!(Path.join(dir, "parts/helpers.py"), "")
    File.write!(Path.join(dir, "my_module.py"), "")

    for {source, words} <- [
          {"import helpers\n",
           "there is #{dir}/parts/helpers.py: import it as parts.helpers, or add #{dir}/parts to the pool's :python_path"},
          {"import parts.other\n", "parts is #{dir}/parts, which has no other"},
          {"import my_modul\n", "did you mean my_module?"}
        ] do
      message = failed(dir, source)
      assert message =~ words
      refute message =~ "snakepit.setup"
    end

    # One that nobody knows may be either.
    assert failed(dir, "import quite_unknown\n") =~
             ~r/if quite_unknown is a module of yours, its directory is not in the pool's :python_path \(#{dir}\); if it is a package of PyPI, add/

    assert {:error, %Error{message: message}} =
             Snakepit.start_pool(name: :none, size: 1, python_module: "sklearn_none", python_path: [dir])

    assert message =~ "looked for in #{dir}"
    refute message =~ "snakepit.setup"
  end

  test "a pool with an interpreter of its own is advised how that one gets it", %{tmp_dir: dir} do
    python = bare_python(dir)
    message = failed(dir, "import yaml\n", python: python)
    assert message =~ "install it for the pool's own interpreter: uv pip install --python #{python} PyYAML"
    refute message =~ "snakepit.setup"
    # The one of the setup is that, however it is named.
    assert failed(dir, "import yaml\n", python: Snakepit.Python.venv_python()) =~
             "mix snakepit.setup --with PyYAML"
  end

  test "words that are no text are left out" do
    {:ok, options} = Snakepit.Pool.Options.new(name: :x, python_module: "m")
    failure = %{"type" => "ImportError", "message" => "no", "traceback" => "", "advice" => 1, "line" => "x"}

    assert Snakepit.Worker.ImportFailure.error(options, failure).message ==
             "pool :x: m could not be imported: ImportError: no"
  end
end
