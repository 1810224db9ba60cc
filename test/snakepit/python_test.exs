defmodule Snakepit.PythonTest do
  use ExUnit.Case, async: true
  alias Snakepit.{Pool, Python}

  test "paths are seen from the working directory, or from an application's own" do
    assert Python.expand("priv/python") == Path.join(File.cwd!(), "priv/python")
    assert Python.expand("/x/../y") == "/y"
    assert Python.expand({:logger, "priv/python"}) == Path.expand(Application.app_dir(:logger, "priv/python"))
    # The project's own: where its sources lie, compiled or not.
    assert Python.expand({:snakepit, "priv/python"}) == Path.join(File.cwd!(), "priv/python")

    assert Python.expandable?("x") and Python.expandable?({:logger, "x"}) and
             Python.expandable?({:snakepit, "x"})

    refute Python.expandable?({:no_such_app, "x"})
  end

  test "a pool's directories come behind Snakepit's own, which has no module that a user's may be named like" do
    {:ok, options} = Pool.Options.new(%{name: :x, python_module: "x", python_path: ["/a", {:logger, "b"}]})
    assert Python.directories(options) == ["/a", Path.expand(Application.app_dir(:logger, "b"))]
    {_, path} = options |> Python.env() |> List.keyfind("PYTHONPATH", 0)
    assert [own, "/a", _ | _] = String.split(path, ":")
    assert own |> Path.join("*/__init__.py") |> Path.wildcard() |> Enum.all?(&(&1 =~ "/snakepit"))
  end
end
