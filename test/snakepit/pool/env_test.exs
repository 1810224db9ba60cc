defmodule Snakepit.Pool.EnvTest do
  use Snakepit.Case, async: true
  alias Snakepit.Pool.{Env, Options}

  @moduletag :python
  @moduletag :tmp_dir

  @own "SNAKEPIT_TEST_DEVICE"

  def env(index), do: %{@own => "gpu #{index}"}

  # Snakepit's own test module asks what it has.
  defp devices(pool, size) do
    for n <- 0..(size - 1) do
      # A session of each worker.
      session =
        Enum.find(
          Stream.map(Stream.iterate(0, &(&1 + 1)), &"s#{&1}"),
          &(Snakepit.Pool.Session.worker(&1, size) == n)
        )

      Snakepit.execute!("environment", %{name: @own}, pool: pool, session_id: session)
    end
  end

  defp refused(env) do
    assert {:error, %Error{category: :validation, reason: :invalid_env, details: %{key: :env}} = error} =
             [name: :"test_#{System.unique_integer([:positive])}", env: env]
             |> pool_options()
             |> Snakepit.start_pool()

    refute error.message =~ "\n"
    error.message
  end

  test "each worker has the variables that the function gives for its number" do
    assert devices(pool!(size: 3, env: fn index -> %{@own => "gpu #{index}"} end), 3) == [
             "gpu 0",
             "gpu 1",
             "gpu 2"
           ]

    assert devices(pool!(size: 2, env: {__MODULE__, :env}), 2) == ["gpu 0", "gpu 1"]
    assert devices(pool!(size: 2, env: &__MODULE__.env/1), 2) == ["gpu 0", "gpu 1"]
    assert devices(pool!(size: 2, env: %{@own => "any"}), 2) == ["any", "any"]
  end

  test "it is asked again at every start of a worker" do
    asked = :counters.new(1, [])

    pool =
      pool!(
        env: fn 0 ->
          :counters.add(asked, 1, 1)
          %{@own => "start #{:counters.get(asked, 1)}"}
        end
      )

    device = fn -> Snakepit.execute("environment", %{name: @own}, pool: pool, idempotent: true) end
    assert device.() == {:ok, "start 1"}
    {:error, _} = Snakepit.execute("die", %{}, pool: pool)
    assert device.() == {:ok, "start 2"}
  end

  test "one that fails, or gives what is no environment, fails the start with one clear error" do
    assert refused(fn 0 -> raise "no GPU" end) =~
             ~r/env: #Function<.*> failed: \(RuntimeError\) no GPU \(test.*env_test\.exs:\d+: .*\), for worker 0$/

    assert refused(fn 0 -> throw(:up) end) =~ "failed: (throw) :up"
    assert refused(fn 0 -> exit(:now) end) =~ "failed: (exit) :now"
    assert refused(fn 0 -> Process.exit(self(), :kill) end) =~ "ended: killed, for worker 0"

    assert refused({__MODULE__, :none}) =~
             "env: #{inspect(__MODULE__)}.none/1 failed: (UndefinedFunctionError)"

    assert refused(fn _ -> [a: 1] end) =~ "gave [a: 1], where a map of strings to strings is expected"
    assert refused(fn _ -> %{"A" => 1} end) =~ ~s(gave {"A", 1}, where name and value must be strings)
    assert refused(fn _ -> %{"A" => "\0"} end) =~ "without a zero byte"

    for name <- ~w(SNAKEPIT_SOCKET SNAKEPIT_TOKEN) do
      words = "gave #{inspect(name)}, which Snakepit itself sets for each worker: leave it out"
      assert refused(fn _ -> %{name => "x"} end) =~ words
      assert {:error, error} = Options.new(name: :own_names, python_module: "m", env: %{name => "x"})
      assert error.message =~ ":env " <> words
    end

    assert refused(fn _ -> %{"A=B" => "c"} end) =~
             ~s(gave "A=B", which cannot be the name of an environment variable)
  end

  test "one that takes its time keeps nobody from asking about the worker, nor the pool from its end" do
    held = :counters.new(1, [])

    wait = fn wait ->
      if :counters.get(held, 1) > 0 do
        Process.sleep(5)
        wait.(wait)
      end
    end

    test = self()

    env = fn _ ->
      send(test, {:asked, :counters.get(held, 1)})
      wait.(wait)
      %{}
    end

    pool = pool!(env: env)
    assert_receive {:asked, 0}, 10_000
    :counters.add(held, 1, 1)
    pid = Snakepit.execute!("pid", %{}, pool: pool)
    {_, 0} = System.cmd("kill", ["-9", "#{pid}"])
    assert_receive {:asked, 1}, 30_000
    assert [%{status: :waiting, os_pid: nil}] = Snakepit.list_workers(pool)
    :counters.sub(held, 1, 1)
    assert {:ok, other} = Snakepit.execute("pid", %{}, pool: pool)
    assert other != pid

    :counters.add(held, 1, 1)
    {_, 0} = System.cmd("kill", ["-9", "#{other}"])
    assert_receive {:asked, 1}, 30_000
    assert Snakepit.stop_pool(pool) == :ok
  end

  test "one that takes too long when its worker is started again is asked again" do
    late = :counters.new(1, [])
    test = self()

    env = fn _ ->
      send(test, :asked)
      if :counters.get(late, 1) == 1, do: Process.sleep(:infinity)
      %{}
    end

    pool = pool!(env: env, startup_timeout: 5_000)
    assert_receive :asked, 10_000
    :counters.put(late, 1, 1)
    pid = Snakepit.execute!("pid", %{}, pool: pool)
    {_, 0} = System.cmd("kill", ["-9", "#{pid}"])
    assert_receive :asked, 30_000
    late? = &String.contains?(&1.last_error || "", "did not return within 5000 ms")
    assert eventually(fn -> Enum.any?(Snakepit.list_workers(pool), late?) end)
    :counters.put(late, 1, 0)
    assert {:ok, other} = Snakepit.execute("pid", %{}, pool: pool)
    assert other != pid
  end

  test "one that does not return is not waited for longer than a start may take" do
    assert refused_slow =
             pool_options(name: :x, startup_timeout: 100, env: fn _ -> Process.sleep(:infinity) end)

    {:ok, options} = Options.new(refused_slow)
    assert {:error, %Error{message: message}} = Env.resolve(options, 3)
    assert message =~ "did not return within 100 ms (startup_timeout: of the pool), for worker 3"
  end

  test "a function of another kind, and variables that no system takes, are refused with the options" do
    options = fn env -> Options.new(pool_options(name: :x, env: env)) end
    assert {:error, %Error{message: message}} = options.(fn -> %{} end)
    assert message =~ "pool :x: expected :env to be a map of a string to a string or a function of 1 argument"
    assert {:error, %Error{message: message}} = options.(%{"A=B" => ""})
    assert message =~ ~s(pool :x: :env gave "A=B", which cannot be the name)
    assert {:error, _} = options.({nil, :env})
  end

  test "a failing start names the variable of this worker that leads to what failed", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "colorsys.py"), "raise RuntimeError('hidden')\n")
    tools = Path.join(dir, "tools")
    File.mkdir_p!(tools)

    assert {:error, %Error{message: message}} =
             source_pool(tools, "import colorsys\n", env: fn 0 -> %{"PYTHONPATH" => dir} end)

    assert message =~ "#{dir} comes from PYTHONPATH of the pool's :env."
  end

  test "for checks without a start, environments that differ in nothing that matters are listed once" do
    {:ok, options} = Options.new(pool_options(name: :x, size: 4, env: &__MODULE__.env/1))
    concerned? = &Snakepit.Python.Preflight.concerned?/1
    assert {:ok, [%{env: %{@own => "gpu 0"}}]} = Env.each(options, concerned?)
    by_path = %{options | env: fn index -> %{"PYTHONPATH" => "/#{div(index, 2)}"} end}

    assert {:ok, [%{env: %{"PYTHONPATH" => "/0"}}, %{env: %{"PYTHONPATH" => "/1"}}]} =
             Env.each(by_path, concerned?)

    assert {:error, %Error{reason: :invalid_env}} = Env.each(%{options | env: fn 2 -> %{} end}, concerned?)
    fixed = %{options | env: %{"A" => "b"}}
    assert Env.each(fixed, concerned?) == {:ok, [fixed]}
  end
end
