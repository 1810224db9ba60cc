defmodule Snakepit.Python.Environment.OptionsTest do
  use ExUnit.Case, async: true
  alias Snakepit.Python.Environment.Options

  test "a comma separates two requirements, and is kept within one" do
    for {given, words} <- [
          {"numpy,grpc", ~w(numpy grpc)},
          {"ruamel.yaml>=0.17,<1", ["ruamel.yaml>=0.17,<1"]},
          {"ruamel.yaml>=0.17, <1 , pandas", ["ruamel.yaml>=0.17, <1", "pandas"]},
          {"fastapi[all,dev]>=0.1,!=0.2,numpy", ["fastapi[all,dev]>=0.1,!=0.2", "numpy"]},
          {"x~=1.0,==1.*", ["x~=1.0,==1.*"]},
          {" , numpy,", ["numpy"]},
          {"x @ https://h/a,b.whl", ["x @ https://h/a,b.whl"]}
        ],
        do: assert(Options.split(given) == words)
  end

  test "every option is checked, and one that would be ignored is refused" do
    assert {:ok, %Options{with: ["a", "b"], requirements: [], find_links: ["x"]}} =
             Options.new(with: "a,b", find_links: "x")

    assert {:ok, %Options{requirements: ["r.txt"]}} = Options.new(requirements: "r.txt")
    assert {:ok, %Options{requirements: ["-r reqs"]}} = Options.new(requirements: "reqs")
    assert {:ok, %Options{requirements: ["reqs"]}} = Options.new(requirements: ["reqs"])
    assert {:ok, %Options{requirements: [{:logger, "r.txt"}]}} = Options.new(requirements: {:logger, "r.txt"})

    for {given, words} <- [
          {[wiht: "a"], "setup: unknown option :wiht; did you mean :with?"},
          {[with: :pandas], "setup: expected :with to be a string or a list of a string, got: :pandas"},
          {[forget: true], "setup: :forget is only of use with :force"},
          {[no_index: true, index_url: "x"], "setup: :index_url would be ignored with :no_index"},
          {[installer: :conda], "setup: expected :installer to be one of nil, :uv, :pip"}
        ] do
      assert {:error, %Snakepit.Error{category: :validation, message: message}} = Options.new(given)
      assert message =~ words
    end
  end
end
