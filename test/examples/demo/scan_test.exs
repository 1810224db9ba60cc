defmodule Snakepit.Demo.ScanTest do
  use ExUnit.Case, async: true
  alias Snakepit.Demo.Scan

  @moduletag :tmp_dir

  defp write(dir, name, data \\ "x") do
    path = dir <> "/" <> name
    File.mkdir_p!(Path.dirname(path))
    :ok = :file.write_file(path, data)
    path
  end

  defp names(scan), do: Enum.map(scan.files, & &1.shown)

  test "files of a tree, in order, with their sizes", %{tmp_dir: dir} do
    write(dir, "t/b", "12")
    write(dir, "t/a/c", "")
    scan = Scan.run(["t"], dir)
    assert [%{shown: "t/a/c", size: 0}, %{shown: "t/b", size: 2}] = scan.files
    assert scan.problems == [] and scan.skipped == []
  end

  test "a path that is relative, absolute, a file, or there twice", %{tmp_dir: dir} do
    path = write(dir, "t/a")
    assert Scan.run(["t/../t/a"], dir) |> names() == ["t/../t/a"]
    assert Scan.run([path], "/") |> names() == [path]
    assert [_one] = Scan.run(["t", path, "t/"], dir).files
  end

  test "what cannot be read has one line each, and the rest is found", %{tmp_dir: dir} do
    write(dir, "t/a")
    File.mkdir_p!(Path.join(dir, "empty/deep"))
    scan = Scan.run(["nope", "empty", "t", "/dev/null", "", "t/a/b"], dir)
    assert names(scan) == ["t/a"]

    assert scan.problems == [
             "nope: no such file or directory",
             "empty: there is no file in this directory",
             "/dev/null: is no file and no directory",
             ~s("": the path is empty),
             "t/a/b: not a directory"
           ]
  end

  test "links to files are followed, circles and loose ends are skipped", %{tmp_dir: dir} do
    write(dir, "t/a", "123")

    for {to, name} <- [{"a", "link"}, {"one", "two"}, {"two", "one"}, {"gone", "loose"}, {"..", "up"}] do
      File.ln_s!(to, Path.join([dir, "t", name]))
    end

    scan = Scan.run(["t"], dir)
    assert [%{shown: "t/a", size: 3}, %{shown: "t/link", size: 3}] = scan.files
    assert scan.problems == []

    assert scan.skipped == [
             "t/loose is a link that leads nowhere (no such file or directory): skipped",
             "t/one is a link that leads in a circle: skipped",
             "t/two is a link that leads in a circle: skipped"
           ]

    # Named by the user, a link to a directory is that directory.
    File.ln_s!("t", Path.join(dir, "named"))
    assert "named/a" in names(Scan.run(["named"], dir))
  end

  test "special files are skipped", %{tmp_dir: dir} do
    write(dir, "t/a")
    {_, 0} = System.cmd("mkfifo", [Path.join(dir, "t/fifo")])
    scan = Scan.run(["t"], dir)
    assert names(scan) == ["t/a"]
    assert scan.skipped == ["t/fifo is no ordinary file: skipped"]
  end

  test "names that are not UTF-8, or would drive a terminal", %{tmp_dir: dir} do
    raw = dir <> "/t/caf" <> <<0xE9>>
    write(dir, "t/caf" <> <<0xE9>>, "abc")
    write(dir, "t/new\nline")
    scan = Scan.run(["t"], dir)
    assert Enum.sort(names(scan)) == ["t/caf\\xE9", "t/new\\nline"]
    assert {:ok, "abc"} = :file.read_file(Enum.find(scan.files, &(&1.size == 3)).path)
    assert raw in Enum.map(scan.files, & &1.path)
  end

  test "a limit takes files from all of them" do
    files = Enum.to_list(1..10)
    assert Scan.limit(files, nil) == files
    assert Scan.limit(files, 10) == files
    assert Scan.limit(files, 5) == [1, 3, 5, 7, 9]
    assert Scan.limit(files, 1) == [1]
    assert Scan.limit([], 3) == []
  end
end
