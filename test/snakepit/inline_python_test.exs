defmodule Snakepit.InlinePythonTest do
  # Pools whose `python:` is source.
  use Snakepit.Case, async: true

  @moduletag :python

  @source """
  import os
  from snakepit import tool

  @tool
  def add(a: int, b: int) -> int:
      return a + b

  @tool
  def fail():
      raise ValueError("on purpose")

  @tool
  def die():
      os._exit(3)

  @tool
  def own_source():
      import inspect
      return inspect.getsource(add)
  """

  defp start(source, options \\ []) do
    name = options[:name] || :"test_#{System.unique_integer([:positive])}"
    on_exit(fn -> Snakepit.stop_pool(name) end)
    with {:ok, _} <- Snakepit.start_pool([name: name, size: 1, python: source] ++ options), do: {:ok, name}
  end

  defp wrong(source, options \\ []) do
    assert {:error, %Error{category: :python_error} = error} = start(source, options)
    error
  end

  test "its tools are served, their lines shown, and a worker that is started again has them too" do
    {:ok, pool} = start(@source)
    assert Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) == {:ok, 3}
    assert {:error, %Error{category: :validation}} = Snakepit.execute("add", %{a: "1", b: 2}, pool: pool)

    assert {:error, %Error{python_traceback: trace}} = Snakepit.execute("fail", %{}, pool: pool)
    assert trace =~ ~s(File "<pool #{inspect(pool)}>", line 10, in fail\n    raise ValueError\("on purpose"\))
    refute trace =~ "inline.py"
    assert {:ok, "@tool\ndef add" <> _} = Snakepit.execute("own_source", %{}, pool: pool)

    assert {:error, %Error{category: :worker}} = Snakepit.execute("die", %{}, pool: pool)
    assert Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) == {:ok, 3}
    assert {:ok, _} = Snakepit.restart_pool(pool)
    assert Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) == {:ok, 3}
  end

  test "started again, it replaces the pool before it, whether the source changed or not" do
    {:ok, pool} =
      start(
        "STATE = []\n" <> @source <> "\n@tool\ndef count():\n    STATE.append(1)\n    return len(STATE)\n"
      )

    assert Snakepit.execute("count", %{}, pool: pool) == {:ok, 1}
    assert Snakepit.execute("count", %{}, pool: pool) == {:ok, 2}
    {:ok, %{options: %{source: source}}} = Snakepit.Pool.Handle.fetch(pool)
    assert {:ok, ^pool} = start(source, name: pool)
    assert Snakepit.execute("count", %{}, pool: pool) == {:ok, 1}
    assert {:ok, ^pool} = start(String.replace(@source, "a + b", "a * b"), name: pool)
    assert Snakepit.execute("add", %{a: 5, b: 2}, pool: pool) == {:ok, 10}
    # Cells evaluated at once: each finds a pool, and one of them is the last.
    started =
      1..3
      |> Enum.map(fn _ -> Task.async(fn -> Snakepit.start_pool(name: pool, size: 1, python: @source) end) end)

    assert Enum.all?(
             Task.await_many(started, 60_000),
             &(match?({:ok, _}, &1) or match?({:error, %Error{reason: :stopped}}, &1))
           )

    assert Snakepit.execute("add", %{a: 5, b: 2}, pool: pool) == {:ok, 7}
  end

  test "a pool of a module neither is replaced nor replaces another" do
    pool = pool!()
    assert {:error, %Error{reason: :already_started}} = Snakepit.start_pool(name: pool, python: @source)
    {:ok, inline} = start(@source)

    assert {:error, %Error{reason: :already_started}} =
             [name: inline] |> pool_options() |> Snakepit.start_pool()

    assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: inline)
  end

  test "an error in the source is one error with the line" do
    error = wrong("x = 1\ndef f(:\n    pass\n")
    assert error.message =~ ~r/line 2 of its source: SyntaxError: invalid syntax$/
    assert error.python_traceback =~ "def f(:"
    assert error.reason == :import_failed

    assert wrong("\n\nimport no_such.module\n").message =~
             "line 3 of its source: ModuleNotFoundError: No module named 'no_such'; if no_such is a module of yours"

    assert wrong("def f():\n    return 1 / 0\n\nf()\n").message =~ "line 2 of its source: ZeroDivisionError"

    assert wrong("@tool\ndef f(): pass\n").message =~
             "line 1 of its source: NameError: name 'tool' is not defined; begin with `from snakepit import tool`"

    error = wrong("x = 1\n")
    assert error.reason == :no_tools
    assert error.message =~ "its source has no function with @tool"
  end

  test "modules may stand beside it" do
    tools = Path.expand("../support/python", __DIR__)

    source =
      "from snakepit import tool\nimport snakepit_test_tools\n@tool\ndef own(): return snakepit_test_tools.__name__\n"

    {:ok, pool} = start(source, python_module: "snakepit_test_tools", python_path: [tools])
    assert Snakepit.execute("own", %{}, pool: pool) == {:ok, "snakepit_test_tools"}
    assert {:ok, _} = Snakepit.execute("identity", %{x: 1}, pool: pool)
  end

  test "data classes and pickle find its module" do
    {:ok, pool} =
      start("""
      from __future__ import annotations
      import pickle
      from dataclasses import dataclass
      from snakepit import tool

      @dataclass
      class Point:
          x: int

      @tool
      def there_and_back():
          return pickle.loads(pickle.dumps(Point(3))).x
      """)

    assert Snakepit.execute("there_and_back", %{}, pool: pool) == {:ok, 3}
  end

  test "options: a line break makes it source, its pool is called :python, a configured one too" do
    alias Snakepit.Pool.Options

    assert {:ok, %Options{name: :python, source: "x\n", python: nil, python_module: []}} =
             Options.new(python: "x\n")

    assert {:ok, %Options{source: nil, python: "/x"}} =
             Options.new(name: :x, python: "/x", python_module: "m")

    assert {:error, %Error{message: "pool :x: :python_module is required"}} = Options.new(name: :x)

    assert {:error, %Error{message: "pool without a name: :name is required"}} =
             Options.new(python_module: "m")

    assert {:error, %Error{message: "pool :x: expected :python_module to name a module, got: []"}} =
             Options.new(name: :x, python_module: [])

    assert {:error, %Error{message: "pool :python: unknown option :sise" <> _}} =
             Options.new(python: "x\n", sise: 1)

    long = String.duplicate("x", 8 * 1024 * 1024) <> "\n"

    assert {:error,
            %Error{message: "pool :python: expected the source in :python to have at most 8 MiB" <> _}} =
             Options.new(python: long)

    assert {:ok, %{pools: [%Options{source: "x\n"}], default_pool: :python}} =
             Snakepit.Config.validate(pools: [%{python: "x\n"}])

    # No program, wherever a release finds itself.
    assert Snakepit.Release.problems([venv: "/v", pools: [%{python: "a/b\n"}]], %{
             app: :x,
             root: "/",
             runtime: []
           }) == []
  end
end
