defmodule Snakepit.OptionsTest do
  use ExUnit.Case, async: true
  import Snakepit.Properties
  alias Snakepit.Options

  @schema [
    name: [type: :atom, required: true, doc: "Its name."],
    size: [type: :pos_integer, default: 2, doc: "How many."],
    ways: [type: {:subset, [:a, :b]}, default: [:a], doc: "Some."],
    limit: [type: :bytes, default: 10, doc: "Bytes."],
    mode: [type: {:or, [{:in, [:fast, nil]}, :string]}, default: nil, doc: "Mode."],
    env: [type: {:map_of, :string, :string}, default: %{}, doc: "Variables."],
    more: [type: {:options, [depth: [type: {:range, -1, 2}, default: 0, doc: "How deep."]]}, doc: "Others."]
  ]

  test "defaults are filled in, whatever is given as a map or a keyword list" do
    full = %{name: :x, size: 2, ways: [:a], limit: 10, mode: nil, env: %{}, more: %{depth: 0}}
    assert Options.validate(%{name: :x}, @schema) == {:ok, full}
    assert Options.validate([name: :x, size: 3], @schema) == {:ok, %{full | size: 3}}
  end

  test "an unknown key suggests the nearest, or lists what is known" do
    assert {:error, :siz, message} = Options.validate(%{name: :x, siz: 3}, @schema)
    assert message =~ "did you mean :size?"
    assert {:error, :zzz, message} = Options.validate(%{name: :x, zzz: 3}, @schema)
    assert message =~ "known are: :name, :size"
    assert {:error, "size", message} = Options.validate(%{"size" => 3, name: :x}, @schema)
    assert message =~ "did you mean :size?"
  end

  test "a set within the set is complete, and its errors name both keys" do
    for depth <- -1..2,
        do:
          assert(
            {:ok, %{more: %{depth: ^depth}}} = Options.validate(%{name: :x, more: [depth: depth]}, @schema)
          )

    for {more, words} <- [
          {[depth: 3], "in :more: expected :depth to be an integer from -1 to 2, got: 3"},
          {%{depth: -2}, "in :more: expected :depth to be an integer from -1 to 2, got: -2"},
          {[dept: 1], "in :more: unknown option :dept; did you mean :depth?"},
          {nil, ":more: expected a map or a keyword list, got: nil"}
        ] do
      assert Options.validate(%{name: :x, more: more}, @schema) == {:error, :more, words}
    end
  end

  test "a missing key and a wrong type name the key and the type" do
    assert Options.validate(%{}, @schema) == {:error, :name, ":name is required"}

    for {key, value, words} <- [
          {:size, 0, "a positive integer"},
          {:name, "x", "an atom"},
          {:name, nil, "an atom"},
          {:ways, [], "a list of some of :a, :b, each once"},
          {:ways, [:a, :a], "each once"},
          {:ways, [:c], "some of"},
          {:ways, [:a | :b], "some of"},
          {:limit, "12 apples", "a number of bytes"},
          {:mode, :slow, "one of :fast, nil or a string"},
          {:mode, <<255>>, "a string"},
          {:env, %{a: "b"}, "a map of a string to a string"},
          {:env, [{"a", "b"}], "a map"}
        ] do
      assert {:error, ^key, message} = Options.validate(Map.put(%{name: :x}, key, value), @schema)
      assert message =~ "expected #{inspect(key)} to be"
      assert message =~ words
      assert message =~ "got: #{inspect(value)}"
    end
  end

  test "a set within a set has its own defaults and docs" do
    schema = [inner: [type: {:options, [ratio: [type: :ratio, default: 0.5, doc: "A share."]]}, doc: "More."]]
    assert Options.validate(%{}, schema) == {:ok, %{inner: %{ratio: 0.5}}}
    assert Options.validate(%{inner: [ratio: 1]}, schema) == {:ok, %{inner: %{ratio: 1}}}
    assert {:error, :inner, message} = Options.validate(%{inner: %{ratio: 0}}, schema)
    assert message == "in :inner: expected :ratio to be a number above 0 and at most 1, got: 0"

    assert Options.docs(schema) ==
             "  * `:inner` (options): More.\n    * `:ratio` (a number above 0 and at most 1): A share. Default: `0.5`."
  end

  test "a value that is no set of options is an error" do
    for given <- [nil, 1, "x", [1], [{:name, :x}, 2]] do
      assert {:error, nil, "expected a map or a keyword list" <> _} = Options.validate(given, @schema)
    end
  end

  test "sizes" do
    for {text, bytes} <- [
          {"1", 1},
          {"64MB", 64 * 1024 * 1024},
          {"64 MiB", 64 * 1024 * 1024},
          {" 1.5k ", 1536},
          {"2g", 2 * 1024 ** 3},
          {"1TiB", 1024 ** 4},
          {7, 7}
        ] do
      assert Options.bytes(text) == {:ok, bytes}
    end

    for bad <- ["", "0", "-1", "1XB", "0.1", "MB", 0, -1, 1.5, nil, :a, "1 2"],
        do: assert(Options.bytes(bad) == :error)
  end

  test "documentation comes from the same list" do
    docs = Options.docs(@schema)
    assert docs =~ "`:name` (an atom): Its name. Required."
    assert docs =~ "`:size` (a positive integer): How many. Default: `2`."

    assert docs =~
             "`:more` (options): Others.\n    * `:depth` (an integer from -1 to 2): How deep. Default: `0`."
  end

  test "it never raises, whatever is given" do
    any = :proper_types.any()
    key = :proper_types.oneof([any, :proper_types.oneof(Keyword.keys(@schema))])
    given = :proper_types.list({key, any})

    holds(given, 2_000, fn pairs ->
      Enum.all?([pairs, Map.new(pairs)], fn given ->
        case answer_of(fn -> Options.validate(given, @schema) end) do
          {:ok, %{name: name}} -> is_atom(name)
          {:error, _key, message} -> String.valid?(message)
          _ -> false
        end
      end)
    end)
  end
end
