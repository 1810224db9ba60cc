defmodule Snakepit.ToolTest do
  # What pools say of their tools.
  use Snakepit.Case, async: true
  alias Snakepit.Tool
  alias Snakepit.Tool.{Described, Page, Parameter}

  doctest Tool, only: [signature: 1]

  @source """
  from __future__ import annotations
  from snakepit import tool


  class Loud:
      def __repr__(self):
          raise RuntimeError("seen")


  @tool(writable=["x"])
  def first(a, /, x: bytearray, *, scale: float = 1.0, loud=Loud(), **rest: int) -> dict[str, int]:
      '''Does the first thing.

      And says how.
      '''
      return {}


  @tool
  async def later():
      return 1


  @tool(name="parts")
  def in_parts(n: int = 3):
      yield n


  @tool
  async def later_parts(n: int):
      yield n
  """

  @moduletag :tmp_dir

  test "a pool's tools are listed, with all that Python knows of them", %{tmp_dir: dir} do
    {:ok, pool} = source_pool(dir, @source)
    assert [first, later, later_parts, parts] = Snakepit.tools(pool)

    assert %Tool{
             name: "first",
             pool: ^pool,
             module: "source_" <> _,
             kind: :function,
             returns: "dict[str, int]",
             doc: "Does the first thing.\n\nAnd says how.",
             writable: ["x"],
             parameters: [
               %Parameter{name: "a", annotation: nil, default: nil, required?: true, keyword_only?: false},
               %Parameter{name: "x", annotation: "bytearray", required?: true},
               %Parameter{
                 name: "scale",
                 annotation: "float",
                 default: "1.0",
                 required?: false,
                 keyword_only?: true
               },
               %Parameter{name: "loud", default: "…"},
               %Parameter{name: "rest", rest?: true, required?: false}
             ]
           } = first

    assert first.file =~ dir and File.exists?(first.file)

    assert first.file |> File.read!() |> String.split("\n") |> Enum.at(first.line - 1) ==
             "@tool(writable=[\"x\"])"

    assert {later.kind, later.parameters, later.doc} == {:async, [], nil}
    assert {parts.name, parts.kind, later_parts.kind} == {"parts", :stream, :stream}

    signature = "first(a, x: bytearray, *, scale: float = 1.0, loud=…, **rest: int) -> dict[str, int]"
    assert Tool.signature(first) == signature

    assert ["#Snakepit.Tool<" <> ^signature, "  Does the first thing.", place] =
             first |> inspect() |> String.split("\n")

    assert place =~ ~r/^  function of pool :test_\d+, .*:\d+>$/
    page = to_string(first)
    assert page =~ signature and page =~ "\n\n  Does the first thing.\n\n  And says how.\n\n"
    assert page =~ "  x       bytearray, required, a private copy, which it may write to\n"
    assert page =~ "  scale   float, 1.0 by default\n"
    assert to_string(later) =~ "It takes no arguments."

    assert for(tool <- Snakepit.tools(), tool.pool == pool, do: tool.name) ==
             ~w(first later later_parts parts)

    assert [%{tools: ~w(first later later_parts parts)}] = Snakepit.list_workers(pool)
  end

  test "the descriptions are those of the worker that was ready last", %{tmp_dir: dir} do
    {:ok, pool} = source_pool(dir, @source)
    [%{module: module}] = pool |> Snakepit.tools() |> Enum.filter(&(&1.name == "later"))
    File.write!(Path.join(dir, module <> ".py"), "from snakepit import tool\n@tool\ndef newer(x): return x\n")
    [%{os_pid: pid}] = Snakepit.list_workers(pool)
    {_, 0} = System.cmd("kill", ["-KILL", "#{pid}"])
    eventually(fn -> match?([%Tool{name: "newer"}], Snakepit.tools(pool)) end)
  end

  test "tools/1 waits for a pool that is starting, and raises the error of one that failed", %{tmp_dir: dir} do
    go_on = Path.join(dir, "go_on")

    source = """
    import os, time
    while not os.path.exists(#{inspect(go_on)}):
        time.sleep(0.01)
    #{String.replace(@source, "from __future__ import annotations\n", "")}
    """

    File.write!(Path.join(dir, "slow_tools.py"), source)
    name = :"test_#{System.unique_integer([:positive])}"

    starting =
      Task.async(fn ->
        Snakepit.start_pool(name: name, size: 1, python_module: "slow_tools", python_path: [dir])
      end)

    on_exit(fn -> Snakepit.stop_pool(name) end)
    eventually(fn -> match?({:ok, _}, Snakepit.Pool.Handle.fetch(name)) end)
    asked = Task.async(fn -> Snakepit.tools(name) end)
    {:ok, handle} = Snakepit.Pool.Handle.fetch(name)
    eventually(fn -> :sys.get_state(GenServer.whereis(handle.pool)).awaiting_tools != [] end)
    File.write!(go_on, "")
    assert ["first" | _] = for(tool <- Task.await(asked, 30_000), do: tool.name)
    assert {:ok, _} = Task.await(starting, 30_000)

    error = assert_raise Error, fn -> Snakepit.tools(:no_such_pool) end
    assert error.reason == :unknown_pool

    broken = :"test_#{System.unique_integer([:positive])}"
    {:ok, options} = Snakepit.Pool.Options.new(name: broken, size: 1, python_module: "nowhere")
    {:ok, _} = DynamicSupervisor.start_child(Snakepit.Pools, Snakepit.Pool.Supervisor.child_spec(options))
    on_exit(fn -> Snakepit.stop_pool(broken) end)
    error = assert_raise Error, fn -> Snakepit.tools(broken) end
    assert {error.reason, error.pool} == {:import_failed, broken}
    assert error.message =~ "Snakepit.restart_pool(#{inspect(broken)})"
    # It hides no others.
    assert Enum.any?(Snakepit.tools(), &(&1.pool == name))
  end

  test "a call to the wrong pool names the right one", %{tmp_dir: dir} do
    unique = "only_here_#{System.unique_integer([:positive])}"
    {:ok, other} = source_pool(dir, "from snakepit import tool\n@tool\ndef #{unique}(): return 1\n")
    {:ok, pool} = source_pool(dir, @source)
    assert {:error, error} = Snakepit.execute(unique, %{}, pool: pool)

    assert error.message ==
             "pool #{inspect(pool)} has no tool '#{unique}'; pool #{inspect(other)} has it: pass pool: #{inspect(other)}"

    assert %{reason: :unknown_command, command: ^unique, details: %{pools: [^other]}} = error
    assert {:error, error} = Snakepit.execute("latr", %{}, pool: pool)
    assert error.message =~ "did you mean later"
    refute is_map_key(error.details, :pools)
  end

  test "the descriptions that a worker sends are checked" do
    good = %{
      "name" => "f",
      "module" => "m",
      "kind" => "function",
      "parameters" => [%{"name" => "x", "kind" => "plain", "annotation" => nil, "default" => nil}],
      "writable" => []
    }

    assert {:ok, [%Tool{name: "f", parameters: [%Parameter{required?: true}]}]} = Described.tools([good], :p)

    for {key, bad} <- [
          {"name", 1},
          {"name", <<255>>},
          {"kind", "class"},
          {"module", nil},
          {"line", -1},
          {"line", "1"},
          {"file", []},
          {"doc", %{}},
          {"parameters", nil},
          {"parameters", [1 | 2]},
          {"parameters", [%{"name" => "x", "kind" => "odd"}]},
          {"writable", [1]}
        ] do
      assert Described.tools([Map.put(good, key, bad)], :p) == :error, "#{key}: #{inspect(bad)}"
    end

    for bad <- [5, nil, [1], [good | 5], %{}], do: assert(Described.tools(bad, :p) == :error)
    {:ok, [odd]} = Described.tools([%{good | "name" => "a\e[31m\nb"}], :p)
    refute inspect(odd) <> Page.text(odd) =~ "\e"
  end
end
