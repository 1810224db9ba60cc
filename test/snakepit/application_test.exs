defmodule Snakepit.ApplicationTest do
  # Not async: it stops the application.
  use Snakepit.Case, async: false
  import ExUnit.CaptureLog

  defp restarted(env) do
    _ = Application.stop(:snakepit)
    for {key, value} <- env, do: Application.put_env(:snakepit, key, value)
    Application.ensure_all_started(:snakepit)
  end

  setup do
    on_exit(fn ->
      for key <- [:pools, :default_pool], do: Application.delete_env(:snakepit, key)
      capture_log(fn -> {:ok, _} = restarted([]) end)
    end)
  end

  test "when the application is not started, every function says so" do
    capture_log(fn -> Application.stop(:snakepit) end)

    for answer <- [
          Snakepit.start_pool(pool_options(name: :too_early)),
          Snakepit.execute("x"),
          Snakepit.execute("x", %{}, pool: :tools),
          Snakepit.map([%{}], "x"),
          Snakepit.get_stats(),
          Snakepit.stop_pool(:tools),
          Snakepit.restart_pool(:tools)
        ] do
      assert {:error, %Error{category: :pool, reason: :not_started, message: message}} = answer
      assert message =~ "the application :snakepit is not started"
    end
  end

  @tag :tmp_dir
  test "a configured pool that cannot start is logged, and starts once it is mended", %{tmp_dir: dir} do
    pool = %{name: :mended, size: 1, python_module: "mended", python_path: [dir]}

    log =
      capture_log(fn ->
        assert {:ok, _} = restarted(pools: [pool])
        assert {:error, %Error{reason: :import_failed}} = Snakepit.Pool.await_ready(:mended)
        assert {:error, %Error{message: message}} = Snakepit.execute("x")
        assert message =~ "Snakepit.restart_pool(:mended)"
        # Not mended yet: it stays.
        assert {:error, %Error{reason: :import_failed}} = Snakepit.restart_pool(:mended)
        Process.sleep(50)
      end)

    assert log =~ "Snakepit.restart_pool(:mended)"

    write = fn n ->
      source = "from snakepit import tool\n@tool\ndef x():\n    return #{n}\n"
      File.write!(Path.join(dir, "mended.py"), source)
      # Python takes a cached module of the same size and second for this one.
      File.rm_rf!(Path.join(dir, "__pycache__"))
    end

    write.(1)
    assert {:ok, pid} = Snakepit.restart_pool(:mended)
    assert Process.alive?(pid)
    assert Snakepit.execute("x") == {:ok, 1}
    write.(2)
    assert {:ok, _} = Snakepit.restart_pool(:mended)
    assert Snakepit.execute("x") == {:ok, 2}
    assert {:error, %Error{reason: :unknown_pool}} = Snakepit.restart_pool(:no_such_pool)
  end

  test "calls to a pool that is being restarted say so" do
    name = :between_stop_and_start

    Snakepit.Pool.Handle.restarting(name, fn ->
      assert {:error, %Error{category: :pool, reason: :stopping, message: message}} =
               Snakepit.execute("x", %{}, pool: name)

      assert message =~ "is being restarted"
    end)

    assert {:error, %Error{reason: :unknown_pool}} = Snakepit.execute("x", %{}, pool: name)
  end

  @tag :tmp_dir
  test "a pool stopped while it starts is no error", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "slow.py"), "import time\ntime.sleep(600)")

    log =
      capture_log(fn ->
        assert {:ok, _} =
                 restarted(pools: [%{name: :slow, size: 1, python_module: "slow", python_path: [dir]}])

        assert :ok = Snakepit.stop_pool(:slow)
        Process.sleep(50)
      end)

    refute log =~ "[error]"
  end

  test "a misspelt option keeps it from starting" do
    capture_log(fn ->
      assert {:error, {:snakepit, reason}} = restarted(pools: [%{name: :a, python_module: "a", sise: 1}])
      assert inspect(reason) =~ "did you mean :size?"
    end)
  end
end
