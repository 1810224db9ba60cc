defmodule Snakepit.Bench.FootprintTest do
  # What finds leaks must find one when there is one.
  use Snakepit.Case, async: false
  alias Snakepit.Bench.Footprint

  @moduletag vm: :second

  @tag :tmp_dir
  test "an open file, a chunk that a binary lies in, a process that left its parent: each is seen, and seen to go",
       %{
         tmp_dir: dir
       } do
    mark = "footprint-#{System.unique_integer([:positive])}"
    pool = pool!(env: %{"MARK" => mark})
    grown = fn before -> Footprint.growth(before, Footprint.take(mark)) end
    before = eventually(fn -> Footprint.take(mark) == Footprint.take(mark) && Footprint.take(mark) end)
    assert [worker] = before.processes
    assert worker == Snakepit.execute!("pid", %{}, pool: pool)

    file = File.open!(Path.join(dir, "file"), [:write, :raw])
    assert %{descriptors: 1, chunks: 0} = grown.(before)
    :ok = File.close(file)

    {:ok, shared} = Snakepit.share(:binary.copy("x", 20_000_000), pool: pool)
    assert %{chunks: 1, bytes: bytes} = grown.(before)
    assert bytes >= byte_size(shared)

    code = "import subprocess\nx = subprocess.Popen(['sleep', '100'], start_new_session=True).pid"
    {:ok, child} = Snakepit.execute("python_value", %{code: code}, pool: pool)
    # It is seen by its environment, which it has once it is the program it was started as.
    assert eventually(fn -> grown.(before).processes == 1 end)
    {_, 0} = System.cmd("kill", ["-9", to_string(child)])
    assert eventually(fn -> grown.(before).processes == 0 end)

    :ok = Snakepit.stop_pool(pool)
    assert eventually(fn -> Footprint.processes(mark) == [] end)
    # A binary outlives its pool, and its chunk with it.
    assert byte_size(shared) == 20_000_000
  end
end
