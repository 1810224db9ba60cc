defmodule Mix.Tasks.Snakepit.ModelsTest do
  # The task as its user runs it: a VM of its own, about files and about a running node.
  use ExUnit.Case, async: true

  @moduletag :tmp_dir

  defp mix(args, dir) do
    args = if "--node" in args, do: args, else: args ++ ["--dir", Path.join(dir, "snakepit")]
    System.cmd("mix", args, stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])
  end

  # A node with a pool that set a threshold, and says so; it ends with its standard input.
  @script """
  Application.put_env(:snakepit, :performance_optimization, [keep_models: true, calibrate: false])
  {:ok, _} = Application.ensure_all_started(:snakepit)
  source = "from snakepit import tool\\n\\n@tool\\ndef nothing() -> None: ...\\n"
  {:ok, _} = Snakepit.start_pool(name: :kept, size: 1, python: source, performance_policy: [enabled: true])
  {:ok, handle} = Snakepit.Pool.Handle.fetch(:kept)
  alias Snakepit.Performance.{Model, ThresholdManager}
  Snakepit.Performance.Model.Learning.await_calibrated(:kept)
  :ok = ThresholdManager.adjust_threshold(:kept, %{bytes: 5_000})
  for n <- 1..100 do
    Model.calibrate(handle.performance, %{direction: :request, way: :inline, type: :binary, size: n * 1000}, 30.0e3, 20.0e3)
  end
  learned = Model.counts(handle.performance).version
  IO.puts("ready \#{node()} \#{learned}")
  IO.gets("")
  IO.puts("left \#{Model.counts(handle.performance).version}")
  Snakepit.stop_pool(:kept)
  System.stop(0)
  """

  defp node!(dir) do
    name = "models_#{System.pid()}_#{System.unique_integer([:positive])}"

    args = [
      "--sname",
      name,
      "--cookie",
      "some",
      "-S",
      "mix",
      "run",
      "--no-start",
      "--no-compile",
      "-e",
      @script
    ]

    env =
      for {k, v} <- [{"MIX_ENV", "test"}, {"XDG_CACHE_HOME", dir}],
          do: {String.to_charlist(k), String.to_charlist(v)}

    elixir = System.find_executable("elixir")

    port =
      Port.open({:spawn_executable, elixir}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 10_000,
        args: args,
        env: env
      ])

    port
  end

  defp line(port, wanted) do
    receive do
      {^port, {:data, {:eol, line}}} -> if line =~ wanted, do: line, else: line(port, wanted)
      {^port, {:exit_status, status}} -> flunk("the node ended with #{status}")
    after
      60_000 -> flunk("the node does not say #{inspect(wanted)}")
    end
  end

  test "lists what is kept and clears it, of a running node too", %{tmp_dir: dir} do
    assert {out, 0} = mix(~w(snakepit.models), dir)
    assert out =~ "Nothing is kept in #{dir}/snakepit."

    port = node!(dir)
    ["ready", node, learned] = port |> line("ready ") |> String.split()
    assert String.to_integer(learned) >= 100
    assert {out, 1} = mix(~w(snakepit.models clear nowhere --node #{node} --cookie some), dir)
    assert out =~ "there is no pool nowhere on #{node}; running are: kept"
    assert {out, 1} = mix(~w(snakepit.models clear --node #{node} --cookie other), dir)
    assert out =~ "is not there, or has another cookie"
    assert {out, 0} = mix(~w(snakepit.models clear kept --node #{node} --cookie some), dir)
    assert out =~ "kept: cleared"
    Port.command(port, "\n")
    assert line(port, "left ") == "left 0"
    assert_receive {^port, {:exit_status, 0}}, 30_000

    # The threshold that was set stayed.
    assert {out, 0} = mix(~w(snakepit.models), dir)
    assert out =~ ~r/kept-[0-9a-f]{12}\s+thresholds\s+\d+ B\s+\d{4}-\d\d-\d\d/
    assert {out, 1} = mix(~w(snakepit.models clear other), dir)
    assert out =~ "nothing is kept of a pool other"
    assert {out, 0} = mix(~w(snakepit.models clear kept), dir)
    assert out =~ "1 file removed."
    assert {out, 0} = mix(~w(snakepit.models clear), dir)
    assert out =~ "0 files removed."
  end

  test "options that are wrong", %{tmp_dir: dir} do
    assert {"** (Mix) snakepit.models: unexpected argument no" <> _, 1} = mix(~w(snakepit.models no), dir)

    assert {"** (Mix) snakepit.models: unexpected argument b" <> _, 1} =
             mix(~w(snakepit.models clear a b), dir)

    assert {"** (Mix) snakepit.models: --node and --cookie are for clear" <> _, 1} =
             mix(~w(snakepit.models --node x), dir)

    assert {"** (Mix) snakepit.models: unknown option --colour" <> _, 1} =
             mix(~w(snakepit.models --colour), dir)

    assert {_, 0} = mix(~w(snakepit.models --help), dir)
  end
end
