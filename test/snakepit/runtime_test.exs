defmodule Snakepit.RuntimeTest do
  # The directory is the whole VM's: nothing else runs while it is removed.
  use Snakepit.Case, async: false
  import Bitwise, only: [&&&: 2]
  alias Snakepit.Runtime

  @moduletag :tmp_dir

  defp pid(pool), do: Snakepit.execute("pid", %{}, pool: pool)

  defp kill(pool),
    do: for(%{os_pid: pid} <- Snakepit.list_workers(pool), do: System.cmd("kill", ["-9", "#{pid}"]))

  defp mode(path), do: File.lstat!(path).mode &&& 0o777

  test "a removed directory is made again, for workers and for gRPC" do
    pool = pool!()
    {:ok, old} = pid(pool)
    gone = Runtime.dir()
    File.rm_rf!(gone)
    kill(pool)
    assert eventually(fn -> match?({:ok, new} when new != old, pid(pool)) end)
    assert mode(Runtime.dir()) == 0o700
    assert Runtime.ensure() == {:ok, Runtime.dir()}

    File.rm_rf!(Runtime.dir())
    assert {:ok, _} = Snakepit.execute("pid", %{}, pool: pool, transfer: :grpc)
    File.rm_rf!(Runtime.dir())
    assert {:ok, _} = Snakepit.restart_pool(pool)
    assert {:ok, _} = pid(pool)
  end

  test "a directory of another user, or open to others, is not used", %{tmp_dir: dir} do
    ours = Runtime.dir()

    for spoil <- [
          fn -> File.chmod!(ours, 0o755) end,
          fn -> File.rm_rf!(ours) && File.ln_s!(dir, ours) end,
          fn -> File.rm_rf!(ours) && File.write!(ours, "") end
        ] do
      {:ok, dir} = Runtime.ensure()
      File.rename!(dir, ours)
      :persistent_term.put(Runtime, {ours, File.lstat!(ours).uid})
      spoil.()
      assert {:ok, other} = Runtime.ensure()
      assert other != ours
      assert mode(other) == 0o700
      File.rm_rf!(ours)
    end
  end

  test "workers that start at the same time make one directory" do
    File.rm_rf!(Runtime.dir())
    tasks = for _ <- 1..50, do: Task.async(&Runtime.ensure/0)
    assert [{:ok, _}] = tasks |> Task.await_many() |> Enum.uniq()
  end

  test "if no directory can be made, the error names each place, the reason and what to do", %{tmp_dir: dir} do
    before = Runtime.dir()
    long = Path.join(dir, String.duplicate("x", 101))
    file = Path.join(System.tmp_dir!(), "file-#{System.unique_integer([:positive])}-#{System.pid()}")
    File.write!(file, "")
    on_exit(fn -> File.rm(file) end)

    assert {:error, %Error{category: :pool, reason: :no_runtime_dir} = error} =
             Runtime.open([long, file, "/proc"])

    assert error.message =~ "#{long}: its path is too long for a Unix socket"
    assert error.message =~ "#{file}: not a directory (enotdir)"
    assert error.message =~ "/proc: "
    assert error.message =~ "TMPDIR"
    assert Runtime.dir() == before
  end

  defp vm(code, env) do
    args = ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
    System.cmd(System.find_executable("elixir"), args, env: env, stderr_to_stdout: true)
  end

  test "pools start with a long TMPDIR, also with gRPC", %{tmp_dir: dir} do
    long = Path.join(dir, String.duplicate("x", 101))
    File.mkdir_p!(long)

    code = """
    {:ok, _} = Application.ensure_all_started(:snakepit)
    {:ok, _} = Snakepit.start_pool(#{inspect(pool_options(name: :far))})
    {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: :far)
    {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: :far, transfer: :grpc)
    IO.write("fine: " <> Snakepit.Runtime.dir())
    """

    {said, status} = vm(code, [{"TMPDIR", long}])
    assert status == 0, said
    assert [_, runtime] = String.split(said, "fine: ")
    refute String.starts_with?(runtime, long)
  end
end
