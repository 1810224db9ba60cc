defmodule Snakepit.Python.Environment.RequirementTest do
  # Not async: it changes the working directory, which is the VM's.
  use ExUnit.Case, async: false
  alias Snakepit.Python.Environment.Requirement

  @moduletag :tmp_dir

  test "packages are parsed, with and without versions, extras and markers" do
    for {text, name} <- [
          {"pandas", "pandas"},
          {"scikit-learn==1.5.2", "scikit-learn"},
          {"Ruamel_YAML >= 0.17, < 1", "ruamel-yaml"},
          {"fastapi[all,dev]~=0.1", "fastapi"},
          {"x (>=1)", "x"},
          {"x==1.*", "x"},
          {"x>=1; python_version < '3.13'", "x"},
          {"x @ https://host/x.whl", "x"}
        ] do
      assert {:ok, %Requirement{name: ^name, text: ^text}} = Requirement.parse(text)
    end
  end

  test "an invalid requirement is an error with a suggestion" do
    for {text, words} <- [
          {"pandas=2.0", "; did you mean pandas==2.0?"},
          {"pandas 2.0", "; did you mean pandas==2.0?"},
          {"pandas==", "write a package's name"},
          {"two words", "write a package's name"},
          {"--pre", "give them after `--`"},
          {"./no/such/directory", "there is nothing at no/such/directory"},
          {"/", "the directory / is no Python project: it has neither a pyproject.toml nor a setup.py"},
          {"-e /", "the directory / is no Python project"},
          {"x @ file:///", "the directory / is no Python project"},
          {"no-such.txt", "there is no file no-such.txt"},
          {"no.txt[x]", "there is no file"}
        ] do
      assert {:error, message} = Requirement.parse(text)
      assert message =~ words
    end
  end

  test "files, directories and archives have absolute paths, and their texts parse to the same", %{
    tmp_dir: dir
  } do
    for name <- ~w(r.txt pyproject.toml x-1-py3-none-any.whl reqs), do: File.write!(Path.join(dir, name), "")
    File.mkdir_p!(Path.join(dir, "pkg"))
    File.write!(Path.join(dir, "pkg/setup.py"), "")
    here = &Path.relative_to_cwd(Path.join(dir, &1))

    for {text, kind, path, extras} <- [
          {here.("r.txt"), :file, "r.txt", ""},
          {"-r " <> here.("reqs"), :file, "reqs", ""},
          {"--requirement=" <> here.("reqs"), :file, "reqs", ""},
          {"-c " <> here.("r.txt"), :constraint, "r.txt", ""},
          {here.("pyproject.toml[dev,gpu]"), :pyproject, "pyproject.toml", "[dev,gpu]"},
          {"./" <> here.("pkg[a]"), :local, "pkg", "[a]"},
          {"-e " <> here.("pkg"), :editable, "pkg", ""},
          {here.("x-1-py3-none-any.whl"), :local, "x-1-py3-none-any.whl", ""},
          {"file://" <> Path.join(dir, "pkg"), :local, "pkg", ""},
          {"pkg @ file://" <> Path.join(dir, "pkg"), :local, "pkg", ""}
        ] do
      path = Path.join(dir, path)

      assert {:ok, %Requirement{kind: ^kind, path: ^path, extras: ^extras} = requirement} =
               Requirement.parse(text)

      File.cd!("/", fn -> assert {:ok, ^requirement} = Requirement.parse(requirement.text) end)
    end

    app = Path.join(File.cwd!(), "mix.exs")
    assert {:ok, %Requirement{kind: :file, path: ^app}} = Requirement.parse({:snakepit, "mix.exs"})
  end

  test "a password is neither kept nor shown" do
    for text <- ["x @ https://me:secret@h/x.whl", "git+https://secret@h/x"] do
      assert {:error, message} = Requirement.parse(text)
      refute message =~ "secret"
      assert message =~ "${VARIABLE}"
    end

    assert {:ok, _} = Requirement.parse("git+ssh://git@github.com/a/b")

    assert Requirement.scrub("at https://u:p@a/ and http://t@b:1/x@y") ==
             "at https://****@a/ and http://****@b:1/x@y"
  end

  test "a later requirement of a package replaces the earlier one" do
    [old, other, new] = for text <- ["Pandas==1", "x", "pandas>=2"], do: elem(Requirement.parse(text), 1)
    assert Requirement.merge([old, other], [new]) == [other, new]
  end
end
