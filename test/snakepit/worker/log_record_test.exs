defmodule Snakepit.Worker.LogRecordTest do
  use ExUnit.Case, async: true
  alias Snakepit.Worker.{LogLevel, LogRecord}

  @who %{pool: :p, worker: "p-0", os_pid: 7}
  @good [20, 1_000_000, "a.b", "text", "/f.py", 3, "f", nil, nil, nil]

  test "a record is read, with what is known alone" do
    assert {:ok, {:record, :info, "[p-0 a.b] text", meta}} = LogRecord.read(@good, @who, 2_000_000)

    assert Keyword.take(meta, [:pool, :worker, :os_pid, :time, :command]) == [
             pool: :p,
             worker: "p-0",
             os_pid: 7,
             time: 1_000_000
           ]

    full = List.replace_at(@good, 9, %{"k" => 1}) |> List.replace_at(7, "tool") |> List.replace_at(8, "id")
    assert {:ok, {:record, _, _, meta}} = LogRecord.read(full, @who, 0)
    assert {meta[:command], meta[:correlation_id], meta[:extra]} == {"tool", "id", %{"k" => 1}}
  end

  test "a time that no clock shows is not believed" do
    for time <- [-1, 1_000_000_000_000_000_000_000, 0] do
      assert {:ok, {:record, _, _, meta}} =
               LogRecord.read(List.replace_at(@good, 1, time), @who, 1_700_000_000_000_000)

      assert meta[:time] == 1_700_000_000_000_000
    end
  end

  test "whatever else a worker says is no record" do
    for at <- 0..9, bad <- [%{1 => 2}, [1], {1}, 1.5] do
      assert LogRecord.read(List.replace_at(@good, at, bad), @who, 0) == :error, inspect({at, bad})
    end

    for bad <- [nil, [], ["dropped"], ["dropped", 0], ["dropped", "1"], ["dropped", 2 ** 100], [1], %{}, 5],
        do: assert(LogRecord.read(bad, @who, 0) == :error)

    for line <- [-1, 2 ** 31], do: assert(LogRecord.read(List.replace_at(@good, 5, line), @who, 0) == :error)
    assert LogRecord.read(["dropped", 3], @who, 0) == {:ok, {:dropped, 3}}
    assert {:ok, {:record, _, text, _}} = LogRecord.read(List.replace_at(@good, 3, <<255>>), @who, 0)
    assert String.valid?(text)
  end

  test "levels there and back" do
    assert for(n <- [-1, 0, 10, 19, 20, 30, 39, 40, 50, 1_000_000], do: LogLevel.elixir(n)) ==
             [:debug, :debug, :debug, :debug, :info, :warning, :warning, :error, :critical, :critical]

    assert LogLevel.wanted(:debug, :all) == 10
    assert LogLevel.wanted(:debug, :debug) == 10
    assert LogLevel.wanted(:info, :debug) == 20
    assert LogLevel.wanted(:info, :notice) == 30
    assert LogLevel.wanted(:info, :error) == 40
    for none <- [:alert, :emergency, :none], do: assert(LogLevel.wanted(:debug, none) == 1000)
    assert LogLevel.wanted(:none, :debug) == nil
  end
end
