defmodule Snakepit.Python.Environment.RequirementsTest do
  # What is asked for: by arguments, by the configuration, by a pyproject.toml.
  use Snakepit.Environments, async: true

  @moduletag vm: :second

  test "a pyproject.toml's dependencies, and those of an extra and a group", %{tmp_dir: dir, links: links} do
    for name <- ~w(one two three), do: wheel!(links, name, "1", "")

    File.write!(Path.join(dir, "pyproject.toml"), """
    [project]
    name = "mine"
    version = "1"
    dependencies = ["tiny>=1,<2"]
    optional-dependencies = {gpu = ["one"]}

    [dependency-groups]
    dev = ["two", {include-group = "more"}]
    more = ["three"]
    """)

    has = fn name -> Path.wildcard(Path.join(dir, "venv/lib/python3*/site-packages/#{name}.py")) != [] end
    assert setup!(dir, [requirements: "pyproject.toml"] ++ offline(links), uv: true) =~ "answer: ok"
    assert Enum.map(~w(tiny one two three), has) == [true, false, false, false]
    assert setup!(dir, [requirements: "pyproject.toml[gpu,dev]"] ++ offline(links), uv: true) =~ "answer: ok"
    assert Enum.map(~w(tiny one two three), has) == [true, true, true, true]
    said = setup!(dir, [requirements: "pyproject.toml[gqu]"] ++ offline(links), uv: true)
    assert said =~ "{:validation, :invalid_option, nil}"
    assert said =~ "pyproject.toml: it has neither an extra nor a group 'gqu'; there are: gpu, dev, more"

    # An item that is no requirement is never given to an installer.
    broken = [
      {"[project]\ndependencies = 'notalist'", "project.dependencies is no list of strings: 'notalist'"},
      {"[project]\ndependencies = ['--index-url=http://x']",
       "project.dependencies: '--index-url=http://x' is no requirement"},
      {"[project]\ndependencies = [\"a\\n-e .\"]", ~S(project.dependencies: 'a\n-e .' is no requirement)},
      {"[project]\ndependencies = [1]", "project.dependencies: 1 is no string"},
      {"project = 1", "project is no table"},
      {"[project]\noptional-dependencies = {dev = 'abc'}",
       "project.optional-dependencies.dev is no list of strings: 'abc'"},
      {"[project]\noptional-dependencies = {dev = [' -r x']}",
       "project.optional-dependencies.dev: ' -r x' is no requirement"},
      {"[dependency-groups]\ndev = 'abc'", "dependency-groups.dev is no list of strings: 'abc'"},
      {"[dependency-groups]\ndev = ['-e .']", "dependency-groups.dev: '-e .' is no requirement"},
      {"[dependency-groups]\ndev = [{include-group = 'more'}]\nmore = [{x = 1}]",
       "dependency-groups.more: {'x': 1} is no string"}
    ]

    runs =
      for {toml, _} <- broken,
          do: {[{"pyproject.toml", toml}], [requirements: "pyproject.toml[dev]"] ++ offline(links), []}

    for {said, {_, words}} <- Enum.zip(setups!(dir, runs, uv: true), broken) do
      assert said =~ "{:validation, :invalid_option, nil}\npyproject.toml: #{words}\n"
    end
  end

  for {tool, uv?} <- [pip: false, uv: true] do
    test "a package in a directory of any name is installed, and again after a change: #{tool}", %{
      tmp_dir: dir,
      links: links
    } do
      odd = Path.join(dir, "a;b #c é")
      for place <- [odd, Path.join(dir, "t;m#p")], do: File.mkdir_p!(place)
      asked = [with: ["./a;b #c é/odd-1-py3-none-any.whl"]] ++ offline(links)
      opts = [uv: unquote(uv?), env: [{"TMPDIR", Path.join(dir, "t;m#p")}]]

      for value <- ~w(1 2) do
        wheel!(odd, "odd", "1", "value = #{value}\n")
        said = setup!(dir, asked, opts)
        assert said =~ "answer: ok", said
        assert [module] = Path.wildcard(Path.join(dir, "venv/lib/python3*/site-packages/odd.py"))
        assert File.read!(module) == "value = #{value}\n"
      end
    end
  end

  test "configured requirements are checked, and the error names the setting", %{tmp_dir: dir} do
    broken = [
      {["pandas=2"],
       ~s("pandas=2" is no requirement; did you mean pandas==2? \(config :snakepit, requirements:\))},
      {"none.txt", "there is no file none.txt (config :snakepit, requirements:)"},
      {"pandas", "there is no file pandas (config :snakepit, requirements:)"},
      {:pandas, "expected :requirements to be a file, or a list"}
    ]

    runs = for {value, _} <- broken, do: {[], [], [requirements: value]}

    for {said, {_, words}} <- Enum.zip(setups!(dir, runs, uv: true), broken) do
      assert said =~ "answer: {:validation, :invalid_config, nil}"
      assert said =~ words
    end
  end
end
