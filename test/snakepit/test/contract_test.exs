defmodule Snakepit.Test.ContractTest do
  # The same calls to real Python and to fakes of the same tools: results and errors must be equal.
  use Snakepit.Case, async: true
  import Snakepit.Test, only: [tool: 1, tool: 2]
  alias Snakepit.Test.PythonError

  @python ~S'''
  import os
  import time

  import numpy
  import snakepit
  from snakepit import tool


  @tool
  def add(a: int, b: int = 1):
      return a + b


  @tool
  def echo(x):
      return x


  @tool
  def typed(
      f: float = 0.0,
      s: str = "",
      b: bytes = b"",
      flag: bool = True,
      many: list = None,
      pair: tuple = None,
      named: dict = None,
      some: set = None,
      array: numpy.ndarray = None,
      either: int | str = 0,
  ):
      return "ok"


  @tool
  def now():
      return 1


  @tool
  def countdown(n: int):
      while n:
          yield n
          n -= 1


  @tool
  def fails(words):
      raise ValueError(words)


  @tool
  def missing(key):
      raise LookupError(key)


  @tool
  def silent():
      raise RuntimeError


  @tool
  def partly():
      yield 1
      raise ValueError("no more")


  @tool
  def hang():
      time.sleep(600)


  @tool
  def hangs_after_one():
      yield 1
      time.sleep(600)


  @tool
  def die():
      os.kill(os.getpid(), 9)


  @tool
  def remember(key, value):
      before = dict(snakepit.session())
      snakepit.session()[key] = value
      return before


  @tool
  def correlation():
      return snakepit.correlation_id()


  @tool
  def any_values():
      return {"bytes": b"\xff\x00", "nan": float("nan"), "set": {1, 2}, "tuple": (1, "a"), 3: 2**70}
  '''

  @either [:int, :str]

  defp fakes do
    %{
      add: tool(fn %{"a" => a, "b" => b} -> a + b end, params: [a: :int, b: {:int, 1}]),
      echo: tool(fn %{"x" => x} -> x end, params: [:x]),
      typed:
        tool(fn _ -> "ok" end,
          params: [
            f: {:float, 0.0},
            s: {:str, ""},
            b: {:bytes, ""},
            flag: {:bool, true},
            many: {:list, nil},
            pair: {:tuple, nil},
            named: {:dict, nil},
            some: {:set, nil},
            array: {:tensor, nil},
            either: {@either, 0}
          ]
        ),
      now: fn -> 1 end,
      countdown: tool(fn %{"n" => n} -> Enum.to_list(n..1//-1) end, params: [n: :int], stream: true),
      fails: tool(fn %{"words" => words} -> python("ValueError", words) end, params: [:words]),
      missing: tool(fn %{"key" => key} -> python("LookupError", key) end, params: [:key]),
      silent: fn -> python("RuntimeError", "") end,
      partly: fn -> Stream.map(1..2, &if(&1 == 1, do: 1, else: python("ValueError", "no more"))) end,
      hang: fn -> Process.sleep(:infinity) end,
      hangs_after_one: fn -> Stream.map(1..2, &if(&1 == 1, do: 1, else: Process.sleep(:infinity))) end,
      die: fn -> Snakepit.Test.kill_worker() end,
      remember: tool(&remember/1, params: [:key, :value]),
      correlation: tool(fn -> Snakepit.Test.correlation_id() end),
      any_values: fn ->
        %{
          "bytes" => <<255, 0>>,
          "nan" => :nan,
          "set" => MapSet.new([1, 2]),
          "tuple" => {1, "a"},
          3 => 2 ** 70
        }
      end
    }
  end

  defp python(type, message), do: raise(PythonError, type: type, message: message)

  defp remember(%{"key" => key, "value" => value}) do
    before = Snakepit.Test.session()
    Snakepit.Test.put_session(key, value)
    before
  end

  setup_all do
    dir = Path.join(System.tmp_dir!(), "snakepit-contract-#{System.pid()}")
    File.mkdir_p!(dir)
    on_exit(fn -> File.rm_rf!(dir) end)
    {:ok, real} = source_pool(dir, unindented(@python))
    fake = :"fake_#{System.unique_integer([:positive])}"
    start_supervised!({Snakepit.Test, name: fake, size: 1, tools: fakes()})
    %{real: real, fake: fake}
  end

  defp unindented(source), do: String.replace(source, ~r/^  /m, "")

  # What differs by nature: names of pools and workers, and places in source code.
  defp comparable({:ok, value}, _pool), do: {:ok, value}

  defp comparable({:error, %Error{} = error}, pool) do
    plain = &(&1 |> String.replace(inspect(pool), ":pool") |> String.replace("#{pool}-", "pool-"))
    traceback = error.python_traceback && error.python_traceback |> String.split("\n") |> Enum.take(-2)

    {:error,
     %{
       error
       | message: plain.(error.message),
         pool: error.pool == pool,
         worker: error.worker && plain.(error.worker),
         python_traceback: traceback
     }}
  end

  defp comparable(other, _pool), do: other

  defp same(pools, fun) do
    [real, fake] = for pool <- [pools.real, pools.fake], do: pool |> fun.() |> comparable(pool)
    assert fake == real
    real
  end

  defp execute(pools, command, args, opts \\ []),
    do: same(pools, &Snakepit.execute(command, args, [pool: &1] ++ opts))

  defp stream(pools, command, args, opts \\ []) do
    same(pools, fn pool ->
      try do
        {:ok, command |> Snakepit.stream(args, [pool: pool] ++ opts) |> Enum.to_list()}
      rescue
        error in Error -> {:error, error}
      end
    end)
  end

  test "every type that crosses comes back the same", pools do
    values = [
      nil,
      true,
      0,
      -1,
      200,
      70_000,
      -70_000,
      2 ** 40,
      -(2 ** 40),
      2 ** 63,
      2 ** 64,
      -(2 ** 100),
      1.5,
      -0.0,
      :nan,
      :infinity,
      :neg_infinity,
      "",
      "héllo",
      :atom,
      String.duplicate("x", 40),
      String.duplicate("x", 300),
      String.duplicate("ä", 40_000),
      Snakepit.bytes(""),
      Snakepit.bytes(<<255, 0>>),
      Snakepit.bytes(:binary.copy(<<255>>, 300)),
      Snakepit.bytes(:binary.copy(<<1, 255>>, 100_000)),
      [],
      [1, "a", nil],
      Enum.to_list(1..40),
      Enum.to_list(1..70_000),
      {},
      {1, {2, "b"}},
      MapSet.new(),
      MapSet.new([1, "a", {2, 3}]),
      %{},
      %{:a => 1, "b" => [2], 3 => %{c: 4}},
      Map.new(1..40, &{"k#{&1}", &1}),
      Map.new(1..40, &{&1, &1}),
      Tensor.new([[1.5, 2.5], [3.5, 4.5]], :f64),
      Tensor.new([1, 2, 3], :u8),
      Tensor.new([], :f32),
      Tensor.new(Enum.to_list(1..20_000), :s64),
      ~D[2024-02-29],
      ~T[12:30:45.5],
      ~N[2024-02-29 12:30:45.123],
      ~U[2024-02-29 12:30:45Z],
      Enum.reduce(1..60, 1, fn _, inner -> [inner] end),
      Enum.reduce(1..60, 1, fn _, inner -> {inner} end),
      [%{deep: [{MapSet.new(["x"]), Snakepit.bytes(<<254>>)}]}]
    ]

    for value <- values, do: assert({:ok, _} = execute(pools, "echo", %{x: value}))
    assert {:ok, _} = execute(pools, :any_values, %{})
  end

  test "any term comes back as the model says", %{fake: fake} do
    property =
      :proper.forall(Snakepit.Terms.term([16_384]), fn term ->
        {:ok, back} = Snakepit.execute("echo", %{x: term}, pool: fake)
        back == Snakepit.Terms.back(term)
      end)

    assert :proper.quickcheck(property, [:quiet, numtests: 100]) == true
  end

  for way <- [:inline, :zero_copy] do
    test "a call forced to go #{way} goes", pools do
      x = Snakepit.bytes(:binary.copy(<<1, 255>>, 100_000))
      y = Tensor.new(Enum.to_list(1..20_000), :s64)
      assert {:ok, _} = execute(pools, "echo", %{x: [x, y, 1, x]}, transfer: unquote(way))
      assert {:ok, _} = execute(pools, "echo", %{x: 1}, transfer: unquote(way))
    end
  end

  test "a value that cannot cross is refused before any tool runs, with the same place and message", pools do
    for value <- [
          self(),
          fn -> 1 end,
          <<255>>,
          <<1::3>>,
          [1 | 2],
          %{"a" => [1, %{b: self()}]},
          %{"a" => 1, a: 2},
          %{{1} => 2},
          URI.parse("http://a"),
          %Tensor{type: {:f, 32}, shape: {2}, data: "abc"},
          %{"x" => [1, MapSet.new([1, 1.0])]},
          MapSet.new([1, true]),
          {MapSet.new([[1]])},
          MapSet.new([%{a: 1}]),
          MapSet.new([{1, MapSet.new([2])}]),
          MapSet.new([Tensor.new([1], :u8)])
        ] do
      assert {:error, %Error{category: :validation}} = execute(pools, "echo", %{x: value})
    end
  end

  test "equal members of a set are refused at the same place", pools do
    assert {:bad_set, ~S(args["x"][0])} =
             same(pools, fn pool ->
               {:error, error} = Snakepit.execute("echo", %{x: [MapSet.new([:a, "a"])]}, pool: pool)
               {error.reason, error.details.path}
             end)
  end

  test "wrong arguments have the same errors", pools do
    for {command, args} <- [
          {"add", %{}},
          {"add", %{b: 1}},
          {"add", %{a: "1"}},
          {"add", %{a: 1, b: nil}},
          {"add", %{a: true}},
          {"add", %{a: 1.0}},
          {"add", %{a: 1, c: 2}},
          {"add", %{a: 1, bb: 2}},
          {"add", %{1 => 2}},
          {"now", %{a: 1}},
          {"echo", %{}},
          {"typed", %{f: "x"}},
          {"typed", %{s: 1}},
          {"typed", %{s: Snakepit.bytes("x")}},
          {"typed", %{s: Snakepit.bytes(:binary.copy("x", 20_000))}},
          {"typed", %{b: "text"}},
          {"typed", %{b: String.duplicate("text", 5_000)}},
          {"typed", %{flag: 1}},
          {"typed", %{many: {1}}},
          {"typed", %{pair: [1]}},
          {"typed", %{named: [1]}},
          {"typed", %{some: [1]}},
          {"typed", %{array: [1]}},
          {"typed", %{array: 1.5}},
          {"typed", %{either: ~D[2024-01-01]}},
          {"typed", %{either: ~T[12:00:00]}},
          {"typed", %{either: ~N[2024-01-01 12:00:00]}},
          {"typed", %{either: Tensor.new([1], :u8)}},
          {"typed", %{either: MapSet.new([1])}}
        ] do
      assert {:error, %Error{category: :validation, details: %{path: "args" <> _}}} =
               execute(pools, command, args)
    end
  end

  test "right arguments of every type pass, and defaults are filled in", pools do
    assert {:ok, 3} = execute(pools, "add", %{a: 1, b: 2})
    assert {:ok, 2} = execute(pools, "add", %{"a" => 1})
    array = Tensor.new([1], :u8)

    for args <- [
          %{},
          %{f: 1, s: "", b: Snakepit.bytes("x"), flag: false, many: [], pair: {}, named: %{}},
          %{f: 1.0, s: :atom, some: MapSet.new([1]), array: array, either: 1},
          %{many: nil, array: nil, either: "x"}
        ],
        do: assert({:ok, "ok"} = execute(pools, "typed", args))
  end

  test "unknown commands have the same errors", pools do
    for command <- ["ad", "ecco", "countup", :remembr, "xyzzyplugh"] do
      assert {:error, %Error{reason: :unknown_command, details: %{nearest: _}}} =
               same(pools, fn pool ->
                 # The names that are there come in another order.
                 with {:error, error} <- Snakepit.execute(command, %{}, pool: pool),
                      do: {:error, %{error | message: error.message |> String.split("; it has") |> hd()}}
               end)
    end
  end

  test "options of the call have the same effects and errors", pools do
    for opts <- [
          [timout: 1],
          [timeout: -1],
          [transfer: :carrier_pigeon],
          [session_id: :x],
          [affinity: :loose],
          [zero_copy: 1]
        ],
        do: assert({:error, %Error{reason: :invalid_option}} = execute(pools, "now", %{}, opts))

    assert {:error, %Error{}} = execute(pools, "now", [1])
    assert {:error, %Error{}} = execute(pools, 5, %{})
  end

  test "exceptions are the same errors", pools do
    assert {:error,
            %Error{python_type: "ValueError", message: "ValueError: bad: é", python_traceback: [_, ""]}} =
             execute(pools, "fails", %{words: "bad: é"})

    assert {:error, %Error{python_type: "LookupError"}} = execute(pools, "missing", %{key: "k"})
    assert {:error, %Error{message: "RuntimeError"}} = execute(pools, "silent", %{})
  end

  test "streams have the same items and errors, also of tools that do not yield", pools do
    assert {:ok, [3, 2, 1]} = stream(pools, "countdown", %{n: 3})
    assert {:ok, []} = stream(pools, "countdown", %{n: 0})
    assert {:ok, [3, 2, 1]} = execute(pools, "countdown", %{n: 3})
    assert {:ok, [1]} = stream(pools, "now", %{})
    assert {:ok, [[1, 2]]} = stream(pools, "echo", %{x: [1, 2]})
    assert {:error, %Error{reason: :wrong_type}} = stream(pools, "countdown", %{n: "3"})
    assert {:error, %Error{python_type: "ValueError"}} = stream(pools, "partly", %{})
    assert {:error, %Error{python_type: "ValueError"}} = execute(pools, "partly", %{})
    assert {:error, %Error{category: :timeout}} = stream(pools, "hangs_after_one", %{}, timeout: 100)
    assert [1] = same(pools, &Enum.take(Snakepit.stream("hangs_after_one", %{}, pool: &1), 1))

    assert {:ok, nil} =
             same(pools, &Snakepit.execute_stream("countdown", %{n: 500}, fn _ -> :ok end, pool: &1))

    assert {:ok, 1} = execute(pools, "now", %{})
  end

  test "a timeout ends the tool, and the worker takes the next call", pools do
    assert {:error, %Error{category: :timeout}} = execute(pools, "hang", %{}, timeout: 100)
    assert {:ok, 1} = execute(pools, "now", %{})
  end

  test "sessions and correlation ids", pools do
    assert {:error, %Error{python_type: "LookupError"}} = execute(pools, "remember", %{key: "k", value: 1})

    in_session = fn key, value ->
      same(pools, &Snakepit.execute_in_session("s", "remember", %{key: key, value: value}, pool: &1))
    end

    assert {:ok, %{}} = in_session.("k", 1)
    assert {:ok, %{"k" => 1}} = in_session.("l", 2)
    assert {:ok, %{"k" => 1, "l" => 2}} = in_session.("k", 3)
    assert {:ok, nil} = execute(pools, "correlation", %{})
    assert {:ok, nil} = execute(pools, "correlation", %{}, session_id: "s")
    assert {:ok, "c"} = execute(pools, "correlation", %{}, correlation_id: "c")
    assert {:ok, "c"} = execute(pools, "correlation", %{}, correlation_id: "c", session_id: "s")
  end

  test "map/3 and observe/3", pools do
    assert [{:ok, 2}, {:error, %Error{}}] =
             same(pools, fn pool ->
               [%{a: 1}, %{}] |> Snakepit.map("add", pool: pool) |> Enum.map(&comparable(&1, pool))
             end)

    for pool <- [pools.real, pools.fake] do
      {{:ok, 3}, seen} = Snakepit.observe("add", %{a: 1, b: 2}, pool: pool, correlation_id: "c")

      assert %{pool: ^pool, command: "add", correlation_id: "c", request_way: :inline, reply_way: :inline} =
               seen

      assert seen.request_bytes == 0 and seen.reply_bytes == 1 and seen.tool_ns > 0
      assert seen.total_ns > seen.tool_ns
    end
  end

  test "shared memory is passed to tools and returned by them", pools do
    data = :binary.copy(<<1, 255>>, 100_000)

    for pool <- [pools.real, pools.fake] do
      {:ok, shared} = Snakepit.share(Snakepit.bytes(data), pool: pool)
      {{:ok, ^data}, seen} = Snakepit.observe("echo", %{x: shared}, pool: pool, request_transfer: :zero_copy)
      assert %{request_way: :zero_copy, copied_bytes: 0, request_bytes: 200_000} = seen
      # Nothing of it is left once this process and the worker let go of it.
      Snakepit.release(shared)
      assert eventually(fn -> match?({:ok, %{memory: %{live_slots: 0}}}, Snakepit.get_stats(pool)) end)
    end
  end

  test "a worker's death is an error for its caller, and the pool recovers", pools do
    assert {:error, %Error{category: :worker, reason: :lost, message: message}} = execute(pools, "die", %{})
    assert message =~ "killed by signal 9 (SIGKILL)"
    assert {:ok, 1} = execute(pools, "now", %{})
  end
end
