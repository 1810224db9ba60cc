defmodule Snakepit.Python.Environment.ContentsTest do
  use ExUnit.Case, async: true
  alias Snakepit.Python.Environment.{Contents, Requirement}

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    write = fn name, text ->
      path = Path.join(dir, name)
      File.mkdir_p!(Path.dirname(path))
      File.write!(path, text)
      path
    end

    %{write: write}
  end

  defp digest(texts) do
    requirements = for text <- texts, do: elem(Requirement.parse(text), 1)
    Contents.read(requirements)
  end

  # Whether `change` changes the digest.
  defp changes?(texts, change) do
    {:ok, before, _} = digest(texts)
    change.()
    {:ok, later, _} = digest(texts)
    before != later
  end

  test "the digest depends on versions, not on the order of requirements" do
    {:ok, one, []} = digest(["a", "b"])
    assert {:ok, ^one, []} = digest(["b", "a"])
    assert {:ok, other, []} = digest(["a==1", "b"])
    assert one != other
  end

  test "the digest covers a requirements file and all files that it includes", %{write: write} do
    file =
      write.("r.txt", """
      # -r no-such-file.txt
      pandas \\
        >= 2
      -r sub/more.txt  # and more
      --constraint=c.txt
      -rsub/short.txt
      https://host/x.whl
      """)

    write.("sub/more.txt", "-r deep.txt\n")
    write.("sub/deep.txt", "a\n-r short.txt\n")
    write.("sub/short.txt", "")
    write.("c.txt", "")

    for {name, text} <- [{"r.txt", nil}, {"sub/deep.txt", "b"}, {"c.txt", "x<2"}, {"sub/short.txt", "y"}] do
      text = text || File.read!(file) <> "\nz\n"
      assert changes?([file], fn -> write.(name, text) end), name
      refute changes?([file], fn -> write.(name, text) end), name
    end

    refute changes?([file], fn -> write.("sub/unrelated.txt", "x") end)
  end

  test "a missing file is named with the line that includes it", %{write: write} do
    file = write.("r.txt", "a\n\n-r none.txt\n")
    assert {:error, message} = digest([file])
    assert message =~ ~r"none.txt cannot be read: no such file or directory \(line 3 of .*r.txt\)"
  end

  test "files that include each other are an error; a file that is included twice is not", %{write: write} do
    shown = fn path -> Snakepit.Terminal.Name.from_here(path) end
    a = write.("a.txt", "-r b.txt\n")
    b = write.("b.txt", "pandas\n-c c.txt\n")
    c = write.("c.txt", "-r b.txt\n")

    assert digest([a]) ==
             {:error, "requirements files include each other: #{shown.(b)} > #{shown.(c)} > #{shown.(b)}"}

    write.("c.txt", "-r c.txt\n")
    assert {:error, "requirements files include each other: " <> cycle} = digest([a])
    assert cycle == "#{shown.(c)} > #{shown.(c)}"
    write.("a.txt", "-r b.txt\n-r c.txt\n")
    write.("c.txt", "numpy\n")
    assert {:ok, _, _} = digest([a])
  end

  test "a directory that is no package is not searched", %{write: write} do
    assert {:ok, _, []} = digest([write.("root.txt", "/\n-e /\n")])
  end

  test "the digest covers the files of local packages, and these are listed to be installed again", %{
    write: write,
    tmp_dir: dir
  } do
    write.("pkg/pyproject.toml", "")
    write.("pkg/src/x.py", "1")
    pkg = Path.join(dir, "pkg")
    file = write.("r.txt", "#{pkg} --hash=sha256:0\n")
    assert {:ok, _, [^pkg]} = digest([file])
    assert {:ok, _, [^pkg]} = digest([pkg])

    for texts <- [[file], [pkg], ["pkg @ file://" <> pkg]] do
      assert changes?(texts, fn -> write.("pkg/src/x.py", inspect(make_ref())) end)

      for name <- ~w(__pycache__/x.pyc .git/x build/x pkg.egg-info/x),
          do: refute(changes?(texts, fn -> write.("pkg/" <> name, inspect(make_ref())) end), name)
    end

    # The code of an editable one is used where it lies.
    refute changes?(["-e " <> pkg], fn -> write.("pkg/src/x.py", "2") end)
    assert changes?(["-e " <> pkg], fn -> write.("pkg/pyproject.toml", "[project]") end)
    wheel = write.("x-1-py3-none-any.whl", "1")
    assert changes?([wheel], fn -> write.("x-1-py3-none-any.whl", "2") end)
  end

  test "the digest covers the whole pyproject.toml", %{write: write} do
    file = write.("pyproject.toml", "")
    assert changes?([file], fn -> write.("pyproject.toml", "[project]") end)
  end
end
