defmodule Snakepit.LayersTest do
  # lib/layers.exs has the order of the layers.
  #
  # Not async: Mix's graph of files is read by a task of this VM.
  use ExUnit.Case, async: false
  alias Snakepit.Layers

  @moduletag :layers

  setup_all do
    %{read: Layers.read()}
  end

  test "every module has a layer", %{read: read} do
    assert Layers.homeless(read) == [], "add these modules, or the module above them, to lib/layers.exs"
  end

  test "every entry of lib/layers.exs names modules that exist", %{read: read} do
    used = for {module, _} <- read.files, entry = Layers.entry(read, module), into: MapSet.new(), do: entry
    assert for({layer, entries} <- read.layers, entry <- entries, entry not in used, do: {layer, entry}) == []
  end

  test "no module refers to a layer above its own", %{read: read} do
    found = for {_edge, reference} <- Enum.sort(Layers.upwards(read)), do: upward(read, reference)

    assert found == [], """
    These references go to a layer above:

    #{Enum.join(found, "\n")}

    Let the upper module subscribe to an event of the lower one, or pass it a function; or move what both need down.
    """
  end

  test "no files of a layer refer to each other in a circle", %{read: read} do
    found = Layers.cycles(read)

    assert found == [], """
    These files refer to each other in a circle:

    #{Enum.map_join(found, "\n\n", &cycle(read, &1))}

    Move what two of them need into a third one.
    """
  end

  test "the product does not name the bench or the demo" do
    for path <- Path.wildcard("lib/**/*.ex"), text = File.read!(path) do
      refute text =~ ~r/Snakepit\.(Bench|Demo)\b|snakepit_(bench|demo)\b/,
             "#{path} names the bench or the demo"
    end
  end

  defp upward(read, reference) do
    {_, from} = Layers.level(read, reference.from)
    {_, to} = Layers.level(read, reference.to)
    place = if reference.line, do: "#{reference.file}:#{reference.line}", else: reference.file

    "  #{place}: #{inspect(reference.from)} (#{from}) refers to #{inspect(reference.to)} (#{to}), by #{reference.kind}"
  end

  defp cycle(read, files) do
    for file <- files do
      to =
        for r <- read.references,
            r.file == file,
            r.kind != :type,
            to = read.files[r.to],
            to in files,
            do: {to, r.line}

      places =
        for {to, line} <- Enum.uniq_by(to, &elem(&1, 0)),
            to != file,
            do: "#{to}#{if line, do: " in line #{line}"}"

      "  #{file} refers to #{Enum.join(places, ", ")}"
    end
    |> Enum.join("\n")
  end

  describe "what the check finds" do
    test "references in calls, structs, values, types and behaviours" do
      files = %{Low => "low.ex", High => "high.ex"}

      for {kind, code} <- [
            code: "def f, do: High.f()",
            code: "def f(module) when module == High, do: module",
            code: "@module High\n def f, do: apply(@module, :f, [])",
            code: "def f(%High{}), do: 1",
            type: "@spec f() :: High.t()\n def f, do: 1",
            type: "@behaviour High"
          ] do
        path = compiled(code)
        assert [%{from: Low, to: High, kind: ^kind, line: line}] = Layers.references(path, files), code
        assert line > 0
      end

      assert [] = Layers.references(compiled("def f, do: :high"), files)
    end

    test "an edge upwards, and none downwards or within a layer" do
      read = %Layers{
        layers: [low: [Snakepit.Low], high: [Snakepit.High, Snakepit.Low.Door]],
        files: %{Snakepit.Low => "low.ex", Snakepit.Low.Door => "door.ex", Snakepit.High.Room => "room.ex"},
        references: [
          %Layers.Reference{from: Snakepit.Low, to: Snakepit.High.Room, kind: :code, file: "low.ex", line: 1},
          %Layers.Reference{
            from: Snakepit.High.Room,
            to: Snakepit.Low,
            kind: :code,
            file: "room.ex",
            line: 1
          },
          %Layers.Reference{
            from: Snakepit.High.Room,
            to: Snakepit.Low.Door,
            kind: :code,
            file: "room.ex",
            line: 2
          },
          %Layers.Reference{
            from: Snakepit.Low.Door,
            to: Snakepit.High.Room,
            kind: :code,
            file: "door.ex",
            line: 1
          }
        ]
      }

      assert [{Snakepit.Low, Snakepit.High.Room}] = Map.keys(Layers.upwards(read))
      assert [["door.ex", "room.ex"]] = Layers.cycles(read)
      assert [] = Layers.homeless(read)
      assert [Snakepit.Cellar] = Layers.homeless(put_in(read.files[Snakepit.Cellar], "cellar.ex"))
    end
  end

  # The compiled module Low, which refers to High in some way.
  defp compiled(code) do
    other =
      "defmodule High do\n defstruct [:a]\n @type t :: %__MODULE__{}\n @callback g() :: term()\n @optional_callbacks g: 0\n def f, do: 1\nend\n"

    options = Code.compiler_options()
    Code.put_compiler_option(:ignore_module_conflict, true)
    Code.put_compiler_option(:debug_info, true)
    compiled = Code.compile_string(other <> "defmodule Low do\n #{code}\nend")
    for {name, value} <- options, do: Code.put_compiler_option(name, value)
    for module <- [High, Low], do: :code.purge(module) && :code.delete(module)
    {Low, binary} = List.keyfind(compiled, Low, 0)
    binary
  end
end
