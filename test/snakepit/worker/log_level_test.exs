defmodule Snakepit.Worker.LogLevelTest do
  # Logger's level decides which records a worker sends. Not async: it is the VM's.
  use Snakepit.Case, async: false
  alias Snakepit.LogCatcher
  @moduletag :capture_log

  setup do
    before = Logger.level()
    on_exit(fn -> Logger.configure(level: before) end)
  end

  defp levels(pool) do
    {:ok, _} = Snakepit.execute("levels", %{}, pool: pool)
    {:ok, _} = Snakepit.execute("say", %{text: "mark", level: 60}, pool: pool)
    collect([])
  end

  defp collect(done) do
    receive do
      {:logged, level, message, %{python_logger: "logging_tools"}} ->
        cond do
          message =~ "mark" -> Enum.reverse(done)
          message =~ "level " -> collect([level | done])
          true -> collect(done)
        end
    after
      20_000 -> flunk("the mark did not come")
    end
  end

  test "what Logger drops is not sent; a change of its level is sent with the next heartbeat" do
    Logger.configure(level: :debug)
    pool = pool!(python_module: "logging_tools", log_level: :debug, heartbeat_interval: 20)
    LogCatcher.start(pool)
    all = [:debug, :debug, :info, :info, :warning, :warning, :error, :error, :critical, :critical]
    assert levels(pool) == all
    assert Snakepit.execute!("say", %{text: "x"}, pool: pool) == 10

    Logger.configure(level: :error)
    eventually(fn -> Snakepit.execute!("say", %{text: "y", level: 10}, pool: pool) == 40 end)
    assert levels(pool) == Enum.drop(all, 6)

    Logger.configure(level: :debug)
    eventually(fn -> Snakepit.execute!("say", %{text: "z", level: 1}, pool: pool) == 10 end)
    assert levels(pool) == all
  end

  test "a pool's own level is :info, and records of imports come, too" do
    Logger.configure(level: :debug)
    name = :"test_#{System.unique_integer([:positive])}"
    LogCatcher.start(name)
    pool = pool!(name: name, python_module: "logging_tools")
    assert_receive {:logged, :info, "[" <> message, %{python_logger: "logging_tools"}}, 10_000
    assert message =~ "imported"
    assert levels(pool) == [:info, :info, :warning, :warning, :error, :error, :critical, :critical]
    # What is printed names its pool as well.
    {:ok, _} = Snakepit.execute("printed", %{}, pool: pool)

    assert_receive {:logged, :info, "[" <> _, %{stream: :stderr, worker: _, os_pid: pid}}
                   when is_integer(pid),
                   10_000
  end
end
