defmodule Snakepit.CallTest do
  use Snakepit.Case, async: true
  alias Snakepit.Error

  describe "correlation_id" do
    test "the tool, the observation and the error have it; the next call does not" do
      pool = pool!(size: 1)
      opts = [pool: pool, correlation_id: "order-7"]

      assert {{:ok, ["order-7", nil]}, %{correlation_id: "order-7"}} =
               Snakepit.observe("who_calls", %{}, opts)

      assert {{:ok, [nil, nil]}, %{correlation_id: nil}} = Snakepit.observe("who_calls", %{}, pool: pool)

      assert {:ok, ["x", 1]} =
               Snakepit.execute("who_calls", %{}, pool: pool, session_id: "s", correlation_id: "x")

      assert {:ok, [nil, 2]} = Snakepit.execute("who_calls", %{}, pool: pool, session_id: "s")
      assert {:error, %Error{details: %{correlation_id: "order-7"}}} = Snakepit.execute("fail", %{}, opts)

      assert {:error, %Error{reason: :invalid_option}} =
               Snakepit.execute("add", %{}, pool: pool, correlation_id: 7)
    end
  end

  describe "idempotent" do
    @describetag :tmp_dir

    test "a lost worker's call is answered by another, and counted", %{tmp_dir: dir} do
      pool = pool!(size: 2)
      args = %{path: Path.join(dir, "tries"), times: 2}

      assert {{:ok, 3}, %{retries: 2}} = Snakepit.observe("die_first", args, pool: pool, idempotent: true)
      assert {:ok, %{retries: 2, errors: 2}} = Snakepit.get_stats(pool)
    end

    test "without it, and after three retries, the error comes back", %{tmp_dir: dir} do
      # As many deaths as workers open the command's breaker.
      pool = pool!(size: 5)

      assert {{:error, %Error{category: :worker}}, %{retries: 0}} =
               Snakepit.observe("die_first", %{path: Path.join(dir, "a")}, pool: pool)

      args = %{path: Path.join(dir, "b"), times: 100}

      assert {{:error, %Error{category: :worker}}, %{retries: 3}} =
               Snakepit.observe("die_first", args, pool: pool, idempotent: true)

      assert File.stat!(Path.join(dir, "b")).size == 4
    end

    test "a tool that raises is not run again", %{tmp_dir: _} do
      pool = pool!(size: 1)

      assert {{:error, %Error{category: :python_error}}, %{retries: 0}} =
               Snakepit.observe("fail", %{}, pool: pool, idempotent: true)
    end

    test "a stream refuses it", %{tmp_dir: _} do
      pool = pool!(size: 1)

      assert {:error, %Error{category: :validation, message: message}} =
               Snakepit.execute_stream("count", %{n: 3}, &send(self(), &1), pool: pool, idempotent: true)

      assert message =~ "not for streams"
    end
  end
end
