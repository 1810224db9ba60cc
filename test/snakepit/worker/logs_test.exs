defmodule Snakepit.Worker.LogsTest do
  # Python's log records in Logger. Levels below warning: log_level_test.exs.
  use Snakepit.Case, async: true
  alias Snakepit.LogCatcher
  @moduletag :capture_log

  setup context do
    pool = pool!([python_module: "logging_tools"] ++ (context[:options] || []))
    LogCatcher.start(pool)
    %{pool: pool}
  end

  # All that a call logged: what it says last is a mark.
  defp logged(pool, command, args \\ %{}, opts \\ []) do
    result = Snakepit.execute(command, args, [pool: pool] ++ opts)
    {result, until_mark(pool)}
  end

  defp until_mark(pool) do
    {records, _lost} = until_mark(pool, 0, [])
    records
  end

  # After a flood, marks may be dropped like any other record: how many were.
  defp until_mark(pool, lost, records) do
    mark = "mark #{System.unique_integer([:positive])}"
    {:ok, _} = Snakepit.execute("say", %{text: mark, level: 40}, pool: pool)

    case collect(mark, records) do
      {:found, records} -> {Enum.reverse(records), lost}
      {:not_found, records} when lost < 15 -> until_mark(pool, lost + 1, records)
      {:not_found, records} -> flunk("no mark came, but #{records |> Enum.reverse() |> inspect(limit: 5)}")
    end
  end

  defp collect(mark, records) do
    receive do
      {:logged, level, message, meta} ->
        if String.ends_with?(message, mark),
          do: {:found, records},
          else: collect(mark, [{level, message, meta} | records])
    after
      2_000 -> {:not_found, records}
    end
  end

  test "a record keeps its level, and says where it is from", %{pool: pool} do
    worker = "#{pool}-0"
    {_, records} = logged(pool, "levels")

    assert for({level, message, _} <- records, do: {level, message}) ==
             for(
               {level, n} <- [warning: 30, warning: 35, error: 40, error: 45, critical: 50, critical: 60],
               do: {level, "[#{worker} logging_tools] level #{n}"}
             )

    [%{os_pid: os_pid}] = Snakepit.list_workers(pool)
    before = System.system_time(:microsecond)
    {_, [{:error, _, meta}]} = logged(pool, "say", %{text: "x", level: 40}, correlation_id: "c-7")
    assert %{worker: ^worker, os_pid: ^os_pid, python_logger: "logging_tools", function: "say"} = meta
    assert %{command: "say", correlation_id: "c-7", line: line, file: file, time: time} = meta
    assert File.read!(file) |> String.split("\n") |> Enum.at(line - 1) =~ "log.log(level"
    assert abs(time - before) < 60_000_000
    {_, [{_, _, meta}]} = logged(pool, "say", %{text: "x", level: 40})
    refute is_map_key(meta, :correlation_id)
  end

  test "tools of every kind are named", %{pool: pool} do
    {_, [{_, _, meta}]} = logged(pool, "later")
    assert meta.command == "later"
    assert [0, 1] = Enum.to_list(Snakepit.stream("parts", %{n: 2}, pool: pool))
    assert ["parts", "parts"] = for({_, _, meta} <- until_mark(pool), do: meta.command)
    {_, records} = logged(pool, "in_threads", %{threads: 4, each: 50})
    assert length(records) == 200
    # A thread is nobody's call.
    refute Enum.any?(records, fn {_, _, meta} -> is_map_key(meta, :command) end)
  end

  test "an exception is one event, whole", %{pool: pool} do
    {_, [{:error, message, _}]} = logged(pool, "raises")
    assert message =~ "it failed\nin two lines\nTraceback (most recent call last):\n"
    assert message =~ "KeyError: 'missing'\nStack (most recent call last):\n"
  end

  test "what is extra comes with it, bounded", %{pool: pool} do
    {_, [{:warning, _, %{extra: extra}}]} = logged(pool, "extra")
    # The first 32 by name.
    assert map_size(extra) == 32
    assert %{"big" => "1180591620717411303424", "long" => long, "many_0" => 0} = extra
    assert byte_size(long) == 258 and String.ends_with?(long, "x…")
    {_, [{:warning, _, %{extra: extra}}]} = logged(pool, "few_extra")
    assert extra == %{"user" => "ann", "n" => 1, "ok" => true, "none" => nil, "odd" => "…"}
  end

  test "huge and broken texts are cut and escaped", %{pool: pool} do
    {_, [{:error, message, _}]} = logged(pool, "huge", %{n: 20_000_000})
    assert byte_size(message) < 25_000 and String.valid?(message)

    assert message =~ "] <é" and String.ends_with?(message, "é>") and
             message =~ ~r/… \d{8} characters left out …/

    {_, [{:error, message, _}]} = logged(pool, "broken_text")
    assert message =~ "lone \\ud800 surrogate and \0"
  end

  test "a record whose text cannot be formatted comes as it is, with the problem", %{pool: pool} do
    assert {{:ok, "fine"}, [{:error, message, %{command: "wrong_format"}}]} = logged(pool, "wrong_format")
    assert message =~ "%d | arguments: ('no number',) | cannot be formatted: TypeError: %d format"
  end

  test "Python's warnings are warnings", %{pool: pool} do
    {_, records} = logged(pool, "warn")
    # A DeprecationWarning is not shown by default.
    assert [{:warning, message, %{python_logger: "py.warnings", command: "warn"}}] = records
    assert message =~ ~r/logging_tools\.py:\d+: UserWarning: take care\n/
  end

  test "handlers of signals and destructors may log in the middle of it", %{pool: pool} do
    {{:ok, seen}, records} = logged(pool, "interrupted", %{n: 3000})

    texts =
      Enum.frequencies_by(records, fn {_, message, _} ->
        message |> String.split("] ") |> List.last() |> String.split(" ") |> hd()
      end)

    dropped = records |> Enum.map(&dropped/1) |> Enum.sum()
    assert seen > 0
    assert Map.get(texts, "signal", 0) > 0
    assert Enum.sum(Map.values(Map.take(texts, ["signal", "destroyed", "record"]))) + dropped >= 3000 + seen
  end

  defp dropped({:warning, message, _}) do
    case Regex.run(~r/: ([\d,]+) log records? of Python w/, message) do
      [_, n] -> n |> String.replace(",", "") |> String.to_integer()
      nil -> 0
    end
  end

  defp dropped(_record), do: 0

  test "what of a flood finds no room is counted, and reported", %{pool: pool} do
    n = 50_000
    {:ok, _} = Snakepit.execute("flood", %{n: n}, pool: pool, timeout: :infinity)
    {records, lost} = until_mark(pool, 0, [])
    came = Enum.count(records, fn {_, message, _} -> message =~ "flood" end)
    dropped = records |> Enum.map(&dropped/1) |> Enum.sum()
    assert came + dropped == n + lost
    assert [%{status: :ready, restarts: 0}] = Snakepit.list_workers(pool)
  end

  test "where Logger stands still, tools go on, and what finds no room is dropped", %{pool: pool} do
    LogCatcher.keep(pool, "now stop")
    {:ok, _} = Snakepit.execute("say", %{text: "now stop", level: 40}, pool: pool)
    assert_receive {:kept, reader}, 10_000
    n = 20_000
    assert {:ok, _} = Snakepit.execute("flood", %{n: n}, pool: pool, timeout: :infinity)
    assert {:ok, 1} = Snakepit.execute("nothing", %{x: 1}, pool: pool)
    LogCatcher.go_on(reader)
    {records, lost} = until_mark(pool, 0, [])
    dropped = records |> Enum.map(&dropped/1) |> Enum.sum()
    assert dropped > 0
    assert Enum.count(records, fn {_, message, _} -> message =~ "flood" end) + dropped == n + lost
  end

  test "a flood keeps neither a cancellation nor a heartbeat" do
    pool = pool!(python_module: "logging_tools", heartbeat_interval: 50, heartbeat_grace: 10_000)

    assert {:error, %Error{category: :timeout}} =
             Snakepit.execute("spin_and_log", %{seconds: 600}, pool: pool, timeout: 300)

    # It was cancelled, and its worker goes on.
    assert {:ok, 1} = Snakepit.execute("nothing", %{x: 1}, pool: pool)
    assert [%{restarts: 0}] = Snakepit.list_workers(pool)
  end

  @tag :tmp_dir
  @tag options: [worker_profile: :thread, threads_per_worker: 2]
  test "a tool that is cancelled in the middle of logging keeps no other from it", %{pool: pool, tmp_dir: dir} do
    for n <- 1..20 do
      path = Path.join(dir, "#{n}")
      caller = spawn(fn -> Snakepit.execute("logs_until_cancelled", %{path: path}, pool: pool) end)
      eventually(fn -> File.exists?(path) end)
      Process.exit(caller, :kill)
      assert {_, _} = logged(pool, "in_threads", %{threads: 1, each: 1})
    end

    assert [%{restarts: 0}] = Snakepit.list_workers(pool)
  end

  test "a forked child does not write on its parent's socket", %{pool: pool} do
    {{:ok, child}, records} = logged(pool, "forks")
    assert is_integer(child)
    assert [{:warning, message, _}] = Enum.reject(records, fn {_, message, _} -> message =~ "stderr]" end)
    assert message =~ "said by the parent"
  end

  for how <- ~w(exit kill segfault) do
    test "what was logged right before a worker's death by #{how} arrives", %{pool: pool} do
      assert {:error, %Error{category: :worker}} = Snakepit.execute("dies", %{how: unquote(how)}, pool: pool)
      assert_receive {:logged, :error, "[" <> message, %{command: "dies"}}, 10_000
      assert message =~ "last words"
      # The next run has a socket of its own.
      assert {_, []} = logged(pool, "nothing", %{x: 1})
    end
  end

  describe "logging that the user configures" do
    test "basicConfig sets the level, and prints nothing by default", %{pool: pool} do
      options = %{level: "ERROR", format: "%(levelname)s %(message)s"}
      assert {{:ok, 40}, []} = logged(pool, "basic_config", %{options: options})

      assert {_, [{:error, "[" <> _, %{python_logger: "logging_tools"}}]} =
               logged(pool, "say", %{text: "as a record", level: 40})

      assert {_, []} = logged(pool, "say", %{text: "below", level: 30})
    end

    @tag :tmp_dir
    test "a file of the user's is written beside, and dictConfig of the root logger takes over", %{
      pool: pool,
      tmp_dir: dir
    } do
      path = Path.join(dir, "a.log")
      assert {_, []} = logged(pool, "basic_config", %{options: %{filename: path}})
      assert {_, [{:warning, _, _}]} = logged(pool, "say", %{text: "both", level: 30})
      assert File.read!(path) =~ "WARNING:logging_tools:both"

      other = Path.join(dir, "b.log")
      {:ok, _} = Snakepit.execute("dict_config", %{path: other}, pool: pool)
      {:ok, _} = Snakepit.execute("say", %{text: "the file's alone", level: 30}, pool: pool)
      assert File.read!(other) == "the file's alone\n"
      refute_received {:logged, _, _, %{python_logger: _}}
    end

    test "what a handler prints is not sent as well", %{pool: pool} do
      {:ok, _} = Snakepit.execute("own_handler", %{}, pool: pool)
      {:ok, _} = Snakepit.execute("say", %{text: "printed once", level: 40}, pool: pool)
      {:ok, _} = Snakepit.execute("warn", %{}, pool: pool)
      # Not of that logger: it comes as a record, after what might have come before.
      assert_receive {:logged, :warning, _, %{python_logger: "py.warnings"}}, 10_000
      refute_received {:logged, :error, _, %{python_logger: _}}
    end

    @tag options: [log_level: :none]
    test "log_level: :none leaves Python's logging as it is", %{pool: pool} do
      assert {:ok, 30} = Snakepit.execute("say", %{text: "on stderr", level: 40}, pool: pool)
      assert [%{status: :ready}] = Snakepit.list_workers(pool)
      refute_received {:logged, _, _, %{python_logger: _}}
    end
  end

  test "no process that reads logs outlives its pool" do
    pool = pool!(python_module: "logging_tools", size: 2)
    {:ok, handle} = Snakepit.Pool.Handle.fetch(pool)
    readers = for pid <- Snakepit.Pool.Supervisor.workers(pool), do: elem(:sys.get_state(pid), 1).logs
    assert length(readers) == 2 and Enum.all?(readers, &Process.alive?/1)
    :ok = Snakepit.stop_pool(handle.name)
    refute Enum.any?(readers, &Process.alive?/1)
  end
end
