defmodule Snakepit.Pool.SourcesTest do
  use ExUnit.Case, async: true
  alias Snakepit.Pool.Sources

  @moduletag :tmp_dir

  defp look(paths, before \\ %{}), do: Sources.look(paths, before, System.os_time(:second))

  test "a file that is written again in the same second, with as many bytes", %{tmp_dir: dir} do
    file = Path.join(dir, "a.py")
    File.write!(file, "x = 1")
    one = look([file])
    assert Sources.changed(one, look([file], one)) == []
    File.write!(file, "x = 2")
    assert Sources.changed(one, look([file], one)) == [file]
    File.write!(file, "x = 1")
    assert Sources.changed(one, look([file], one)) == []
  end

  test "an old file that is as it was is not read again, and one that only was touched is no other", %{
    tmp_dir: dir
  } do
    file = Path.join(dir, "a.py")
    File.write!(file, "x = 1")
    later = System.os_time(:second) + 10
    one = Sources.look([file], %{}, later)
    {_md5, stat, at} = one[file]
    # What the last look said is believed.
    assert %{^file => {"kept", _, _}} = Sources.look([file], %{file => {"kept", stat, at}}, later)
    File.touch!(file, later - 100)
    assert Sources.changed(one, Sources.look([file], one, later)) == []
  end

  test "gone, back, and replaced by a rename", %{tmp_dir: dir} do
    file = Path.join(dir, "a.py")
    File.write!(file, "x = 1")
    one = look([file])
    File.rm!(file)
    gone = look([file], one)
    assert Sources.changed(one, gone) == [file]
    File.write!(file <> ".new", "x = 1")
    File.rename!(file <> ".new", file)
    back = look([file], gone)
    assert Sources.changed(gone, back) == [file]
    assert Sources.changed(one, back) == []
  end

  test "a file that was a directory in between", %{tmp_dir: dir} do
    file = Path.join(dir, "a.py")
    File.write!(file, "x = 1")
    one = look([file])
    File.rm!(file)
    File.mkdir!(file)
    two = look([file], one)
    assert Sources.changed(one, two) == [file]
    File.rmdir!(file)
    File.write!(file, "x = 2")
    assert Sources.changed(two, look([file], two)) == [file]
  end

  test "a directory's modules, and nothing else that is in it", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "a.py"), "")
    one = look([dir])

    for other <- ~w(.#b.py b.py~ b.py.tmp 4913 notes.txt #b.py# b.pyc),
        do: File.write!(Path.join(dir, other), "")

    File.mkdir!(Path.join(dir, "__pycache__"))
    two = look([dir], one)
    assert Sources.changed(one, two) == []
    File.write!(Path.join(dir, "b.py"), "")
    File.rm!(Path.join(dir, "a.py"))
    assert Sources.changed(one, look([dir], two)) == [Path.join(dir, "a.py"), Path.join(dir, "b.py")]
    File.rm_rf!(dir)
    assert Sources.changed(one, look([dir], two)) == [Path.join(dir, "a.py")]
  end

  test "a file that cannot be read, or is none, is only that", %{tmp_dir: dir} do
    pipe = Path.join(dir, "pipe.py")
    {_, 0} = System.cmd("mkfifo", [pipe])
    assert %{^pipe => {:missing, _, _}} = look([pipe])
    assert %{"/nowhere/a.py" => {:missing, _, _}} = look(["/nowhere/a.py"])
    assert Sources.directories(["/a/b.py", "/a/c.py", "/d/e.py"]) == ["/a", "/d"]
  end
end
