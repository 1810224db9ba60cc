defmodule Snakepit.Case do
  @moduledoc false
  # Real pools for tests, and ways to wait for what they do.

  use ExUnit.CaseTemplate

  @tools Path.expand("python", __DIR__)

  using do
    quote do
      import Snakepit.Case
      alias Snakepit.{Error, Tensor}
    end
  end

  @doc "Starts a pool of the test tools under a name of its own, stopped when the test (or module) ends."
  def pool!(options \\ []) do
    name = :"test_#{System.unique_integer([:positive])}"
    {:ok, _} = options |> pool_options() |> Map.put_new(:name, name) |> Snakepit.start_pool()
    name = Keyword.get(options, :name, name)
    on_exit(fn -> Snakepit.stop_pool(name) end)
    name
  end

  def pool_options(options) do
    # Values need not be as large as by default to have a way of their own.
    usual = %{size: 1, python_module: "snakepit_test_tools", python_path: [@tools], inline_limit: 4_096}
    Map.merge(usual, Map.new(options))
  end

  @doc "A pool whose module is the given source."
  def source_pool(dir, source, options \\ []) do
    module = "source_#{System.unique_integer([:positive])}"
    File.write!(Path.join(dir, module <> ".py"), source)
    name = :"test_#{System.unique_integer([:positive])}"
    on_exit(fn -> Snakepit.stop_pool(name) end)

    Snakepit.start_pool(
      Map.merge(%{name: name, size: 1, python_module: module, python_path: [dir]}, Map.new(options))
    )
    |> case do
      {:ok, _} -> {:ok, name}
      error -> error
    end
  end

  @doc "A virtual environment in `dir` without any package; its interpreter."
  def bare_python(dir) do
    python = Snakepit.Python.venv_python()
    venv = Path.join(dir, "bare")
    {_, 0} = System.cmd(python, ["-m", "venv", "--without-pip", venv], env: [{"PYTHONPATH", nil}])
    Path.join(venv, "bin/python")
  end

  @doc "Has the interpreter of a virtual environment run this line of Python whenever it starts."
  def at_start(python, line) do
    [site] = python |> Path.join("../../lib/python3*/site-packages") |> Path.expand() |> Path.wildcard()
    File.write!(Path.join(site, "at_start.pth"), "import sys; " <> line <> "\n")
    python
  end

  @doc "Hides the native part of workers from the interpreter of a virtual environment."
  def without_native(python), do: at_start(python, "sys.modules['snakepit._native'] = None")

  @doc "Waits until `fun` is true: for what another process does in its own time."
  def eventually(fun, tries \\ 2000) do
    cond do
      result = fun.() -> result
      tries == 0 -> ExUnit.Assertions.flunk("it did not become true")
      true -> Process.sleep(5) && eventually(fun, tries - 1)
    end
  end

  @doc "Whether an OS process exists and is no zombie."
  def alive?(os_pid) do
    case File.read("/proc/#{os_pid}/stat") do
      {:ok, stat} -> not String.contains?(stat, ") Z ")
      {:error, _} -> false
    end
  end

  @doc "A call in a process of its own, begun for certain: the tool made the file."
  def busy(pool, dir) do
    started = Path.join(dir, "started-#{System.unique_integer([:positive])}")
    go_on = started <> ".go"

    task =
      Task.async(fn ->
        Snakepit.execute("touch_and_wait", %{started: started, go_on: go_on}, pool: pool)
      end)

    eventually(fn -> File.exists?(started) end)
    {task, fn -> File.write!(go_on, "") end}
  end
end
