defmodule Snakepit.Python.Environment.StampTest do
  use ExUnit.Case, async: true
  alias Snakepit.Python.Environment.Stamp

  @moduletag :tmp_dir
  @stamp %Stamp{
    package: "p",
    version: "3.11",
    base: "/usr",
    extras: ["numpy"],
    digest: "d",
    asked: ["a>=1,<2", "-r /r"]
  }

  test "a stamp is read as it was written; during an installation it has no package", %{tmp_dir: dir} do
    assert Stamp.read(dir) == nil
    assert :ok = Stamp.write(dir, @stamp)
    assert Stamp.read(dir) == @stamp
    assert File.ls!(dir) == ["snakepit.stamp"]
    assert :ok = Stamp.begin(dir, @stamp)
    assert %Stamp{asked: ["a>=1,<2", "-r /r"], extras: ["numpy"], package: package} = Stamp.read(dir)
    assert package != "p"
    assert :ok = Stamp.begin(dir, nil)
    assert :ok = Stamp.begin(dir, nil)
    assert Stamp.read(dir) == nil
  end

  test "a stamp of a version without user requirements is complete", %{tmp_dir: dir} do
    File.write!(Stamp.path(dir), "p\n3.11\n/usr\n-,numpy,grpc\n")
    nothing = Stamp.nothing()
    assert %Stamp{extras: ["numpy", "grpc"], asked: [], digest: ^nothing} = Stamp.read(dir)
  end

  test "half a stamp is none", %{tmp_dir: dir} do
    File.write!(Stamp.path(dir), "p\n3.11\n")
    assert Stamp.read(dir) == nil
  end
end
