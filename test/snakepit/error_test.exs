defmodule Snakepit.ErrorTest do
  # What the caller did wrong is :validation and says where; what Python did wrong says what Python said.
  use Snakepit.Case, async: true
  doctest Snakepit.Error.Text

  setup_all do
    %{pool: pool!()}
  end

  # Each must leave the worker usable.
  setup %{pool: pool} do
    before = Snakepit.execute!("pid", %{}, pool: pool)
    on_exit(fn -> assert Snakepit.execute!("pid", %{}, pool: pool) == before end)
  end

  defp error(pool, command, args, opts \\ []) do
    assert {:error, %Error{} = error} = Snakepit.execute(command, args, [pool: pool] ++ opts)
    assert error.category in Error.categories()
    assert error.message != "" and String.valid?(error.message)
    assert error.reason in Error.reasons(error.category), inspect(error)
    if is_binary(command) and String.valid?(command), do: assert(error.command == command)
    assert error.pool == pool or error.reason == :invalid_option
    error
  end

  describe "commands and pools" do
    test "an unknown command suggests the nearest", %{pool: pool} do
      error = error(pool, "identty", %{x: 1})
      assert {error.category, error.reason} == {:validation, :unknown_command}
      assert error.message =~ "did you mean"
      assert error.message =~ "identity"
      assert error.message =~ "pool #{inspect(pool)} has no tool 'identty'"
      assert error(pool, "zzzzzzzzzz", %{}).message =~ ~r/; it has (\w+, ){9}\w+ and \d+ more/
    end

    test "an unknown pool suggests the nearest" do
      assert %{category: :validation, reason: :unknown_pool} = error(:no_such_pool, "identity", %{x: 1})
      name = pool!(name: :a_well_known_pool)
      assert name == :a_well_known_pool
      assert error(:a_well_known_pol, "identity", %{x: 1}).message =~ "did you mean :a_well_known_pool?"
    end

    test "a command that is no name, arguments that are no map, and invalid options are errors", %{pool: pool} do
      assert %{category: :validation, reason: :invalid_command} = error(pool, 12, %{})
      assert %{category: :validation, reason: :invalid_command} = error(pool, <<255>>, %{})
      assert %{category: :validation, reason: :invalid_arguments} = error(pool, "identity", [1])
      assert error(pool, "identity", x: "a").message =~ ~S(got: [x: "a"]; write %{x: "a"})

      for value <- [%{a: 1}, [1], nil] do
        assert {:error, %Error{category: :validation, message: message}} = Snakepit.share(value, pool: pool)
        assert message =~ inspect(value)
      end

      assert %{category: :validation, reason: :invalid_arguments} = error(pool, "identity", ~D[2024-01-01])

      assert %{category: :validation, reason: :invalid_option, message: message} =
               error(pool, "pid", %{}, timout: 1)

      assert message =~ "did you mean :timeout?"
      assert %{reason: :invalid_option} = error(pool, "pid", %{}, timeout: -1)
      assert %{reason: :invalid_option} = error(pool, "pid", %{}, transfer: :pigeon)
      assert {:error, %Error{reason: :invalid_option}} = Snakepit.execute("pid", %{}, [1])
    end
  end

  describe "arguments" do
    test "missing, unknown and wrongly typed arguments are refused before the tool runs", %{pool: pool} do
      assert %{category: :validation, reason: :missing_argument} = e = error(pool, "add", %{a: 1})
      assert e.message =~ "b"
      assert %{category: :validation, reason: :unknown_argument} = error(pool, "add", %{a: 1, b: 2, c: 3})

      for {name, value, path} <- [
            {:i, "1", ~s(args["i"])},
            {:i, true, ~s(args["i"])},
            {:i, 1.0, ~s(args["i"])},
            {:f, "x", ~s(args["f"])},
            {:s, 1, ~s(args["s"])},
            {:b, "text", ~s(args["b"])},
            {:items, [1, "2"], ~s(args["items"][1])},
            {:table, %{"k" => "v"}, ~s(args["table"]["k"])}
          ] do
        assert %{category: :validation, reason: :wrong_type, details: details} =
                 error(pool, "typed", %{name => value})

        assert details.path == path
      end

      fine = %{i: 1, f: 1, s: "s", b: Snakepit.bytes("b"), items: [1], table: %{"k" => 1}}
      assert Snakepit.execute("typed", fine, pool: pool) == {:ok, "fine"}

      assert Snakepit.execute("typed", %{"i" => 1, b: Snakepit.bytes(:binary.copy("b", 5000))}, pool: pool) ==
               {:ok, "fine"}
    end

    test "an unsupported value is named with its place", %{pool: pool} do
      for {value, what} <- [
            {self(), "pid"},
            {make_ref(), "reference"},
            {fn -> 1 end, "function"},
            {<<1::3>>, "bitstring"},
            {1..2, "Range"},
            {[1 | 2], "improper list"},
            {%URI{}, "URI"}
          ] do
        error = error(pool, "identity", %{"x" => %{"items" => [0, 1, 2, %{x: value}]}})
        assert {error.category, error.reason} == {:validation, :unsupported_type}
        assert error.message =~ what
        assert error.details.path == ~s(args["x"]["items"][3].x)
        assert error.details.type =~ what
      end
    end

    test "a binary that is not UTF-8 asks for Snakepit.bytes/1", %{pool: pool} do
      error = error(pool, "identity", %{x: [<<0xFF>>]})
      assert {error.category, error.reason, error.details.path} == {:validation, :not_utf8, "args.x[0]"}
      assert error.message =~ "Snakepit.bytes/1"
      assert %{reason: :not_utf8} = error(pool, "identity", %{x: :binary.copy(<<0xFF>>, 2_000_000)})
    end

    test "keys that Python would merge or cannot have are refused", %{pool: pool} do
      assert %{category: :validation, reason: :key_collision} =
               error(pool, "identity", %{x: %{"a" => 2, a: 1}})

      for key <- [1.5, [1], {1}, <<255>>, self(), Integer.pow(2, 70)] do
        assert %{category: :validation, reason: :unsupported_key} = error(pool, "identity", %{x: %{key => 1}})
      end
    end

    test "sets that Python would shrink are refused", %{pool: pool} do
      for set <- [[1, 1.0], [1, true], [0, false], [[1]], [%{}]] do
        error = error(pool, "identity", %{x: MapSet.new(set)})
        assert error.category == :validation
        assert error.details.path =~ "x"
      end
    end

    test "tensors whose data do not have the size of their shape are refused", %{pool: pool} do
      for {shape, type, data} <- [
            {{3}, {:u, 8}, <<1, 2>>},
            {{1}, {:u, 8}, <<1, 2>>},
            {{-1}, {:u, 8}, ""},
            {{2}, {:x, 8}, <<1, 2>>},
            {[2], {:u, 8}, <<1, 2>>}
          ] do
        tensor = %Tensor{type: type, shape: shape, data: data}
        error = error(pool, "identity", %{x: tensor})
        assert {error.category, error.reason} == {:validation, :bad_tensor}
        assert error.details.path =~ "args.x."
      end
    end

    test "values that are nested too deep are refused", %{pool: pool} do
      deep = fn n -> Enum.reduce(1..n, 1, fn _, acc -> [acc] end) end
      assert {:ok, _} = Snakepit.execute("identity", %{x: deep.(120)}, pool: pool)
      assert %{category: :validation, reason: :too_deep} = error(pool, "identity", %{x: deep.(200)})
      assert %{category: :validation, reason: :too_deep} = error(pool, "identity", %{x: deep.(100_000)})
    end

    test "what is too deep for the worker is refused before it is sent, and nothing else is", %{pool: pool} do
      for {wrap, inner} <- [
            {&[&1], 1},
            {&%{"k" => &1}, nil},
            {&{&1}, 1},
            {&[&1], MapSet.new(["member"])},
            {&[{&1}], "x"},
            {&{&1}, ~D[2024-01-01]},
            {&[&1], ~T[01:02:03.000004]},
            {&[&1], %Snakepit.Decimal{coef: 15, exp: -1}},
            {&[&1], Tensor.new(<<1, 2>>, :u8)}
          ],
          depth <- [40..44, 60..66, 120..130] |> Enum.concat() do
        value = Enum.reduce(1..depth, inner, fn _, acc -> wrap.(acc) end)

        case Snakepit.execute("identity", %{x: value}, pool: pool) do
          {:ok, same} ->
            assert same == value

          {:error, error} ->
            assert {error.reason, error.message =~ "nested deeper than 128"} == {:too_deep, true}
        end

        assert match?({:ok, _}, Snakepit.execute("identity", %{x: value}, pool: pool)) ==
                 match?({:ok, _, _, _}, Snakepit.Native.encode("identity", %{x: value}, nil, 4096))
      end
    end

    test "dates that Python cannot hold are refused", %{pool: pool} do
      assert %{category: :validation, reason: :bad_date} = error(pool, "identity", %{x: ~D[0000-01-01]})
      unknown_zone = %{~U[2024-01-01 00:00:00Z] | time_zone: "Mars/Olympus"}
      assert %{category: :validation} = error(pool, "identity", %{x: unknown_zone})
    end
  end

  describe "results" do
    test "a result that Elixir cannot hold is an error with its place", %{pool: pool} do
      for {code, path} <- [
            {"x = {'items': [1, object()]}", ~s(result["items"][1])},
            {"x = [1, 2j]", "result[1]"},
            {"x = collections.namedtuple('P', 'x')(1)", "result"},
            {"x = {'a': {1.5: 1}}", ~s(result["a"][1.5])},
            {"x = {float('nan'): 1}", "result[nan]"},
            {"x = {None: 1}", "result[None]"},
            {"x = {(1, 2): 1}", "result[<tuple>]"},
            {"x = {b'k': 1}", "result[b'k']"},
            {"x = {True: 1}", "result[True]"},
            {"x = ['\\ud800']", "result[0]"},
            {"x = []; x.append(x)", "result[0]"},
            {"x = {}; x['me'] = [x]", ~s(result["me"][0])},
            {"x = enum.Enum('E', 'A').A", "result"},
            {"x = datetime.time(1, tzinfo=datetime.timezone.utc)", "result"}
          ] do
        error = error(pool, "python_value", %{code: code})
        assert error.category == :python_error, code
        assert error.details.path == path, "#{code}: #{inspect(error)}"
      end

      # The VM's tuples have no more than 2^24 - 1 elements.
      wide = error(pool, "python_value", %{code: "x = [1, (None,) * 2**24]"})
      assert {wide.reason, wide.details.path} == {:too_large, "result[1]"}

      deep = error(pool, "python_value", %{code: "x = 1\nfor _ in range(5000): x = [x]"})
      assert deep.reason == :too_deep
    end

    test "arrays of other things than numbers are errors", %{pool: pool} do
      for code <- [
            "np.array(['a'])",
            "np.array([object()])",
            "np.zeros(2, 'M8[s]')",
            "np.zeros(2, 'i4,f4')",
            "np.complex64(1)"
          ] do
        assert error(pool, "numpy_value", %{code: code}).category == :python_error
      end

      assert error(pool, "numpy_value", %{code: "np.array(['a'])"}).reason == :unsupported_dtype
    end

    test "a set that Elixir would shrink is an error", %{pool: pool} do
      assert %{category: :python_error, reason: :key_collision} =
               error(pool, "python_value", %{code: "x = {'a', b'a'}"})
    end

    test "a result over the limit is an error" do
      pool = pool!(max_result: 10_000)
      assert %{category: :transfer, reason: :too_large} = error(pool, "ones", %{n: 20_000})

      assert %{category: :transfer, reason: :too_large} =
               error(pool, "python_value", %{code: "x = list(range(20000))"})

      assert {:ok, _} = Snakepit.execute("ones", %{n: 5_000}, pool: pool)
    end
  end

  test "an error of a worker's that is no plain map, or has other things in it than it should, is an error all the same" do
    for reply <- [~D[2024-02-29], MapSet.new(["reason"]), Tensor.new([1], :u8), [1], "text", nil] do
      assert %Error{category: :worker, reason: :protocol} = Error.from_worker(reply)

      for field <- ~w(category reason message path type traceback details) do
        error = Error.from_worker(%{field => reply})
        assert %Error{category: :python_error} = error
        assert is_binary(Exception.message(error)) and is_binary(inspect(error))
      end
    end

    for field <- ~w(reason message path type traceback) do
      error = Error.from_worker(%{field => <<255, "a">>})
      assert String.valid?(Exception.message(error) <> inspect(error))
    end
  end

  test "every reason that a worker gives is known here" do
    literal = ~r/\b(?:Refusal\(|CallError\(\s*"\w+",|_fail\(\w+,)\s*"(\w+)"/
    native = ~r/\b(?:transfer_error\(\s*py,|call_error\(\s*py,\s*"\w+",|refused\()\s*"(\w+)"/

    python = scanned("priv/python/snakepit/**/*.py", literal)
    rust = scanned("native/snakepit_worker/src/**/*.rs", native)
    assert length(python) > 15 and length(rust) > 10
    reasons = Enum.uniq(python ++ rust)
    assert Enum.reject(reasons, &Error.Reasons.from_worker/1) == []
  end

  test "every reason that the library and Elixir give is one of the table" do
    known = Enum.flat_map(Error.categories(), &Error.reasons/1) |> Enum.map(&to_string/1)

    rust = scanned("native/snakepit_nif/src/**/*.rs", ~r/\b(?:refuse|value)\(atoms::(\w+)\(\)/)
    assert length(rust) > 8
    assert rust -- known == []

    codes = scanned("native/snakepit_grpc/src/failure.rs", ~r/Code::\w+ => "(\w+)"/)
    assert length(codes) == 17
    # A call that went well is no error.
    assert (codes -- ["ok"]) -- Enum.map(Error.reasons(:grpc_error), &to_string/1) == []

    literal = ~r/\b(?:Error\.new|error)\(\s*(?:handle, )?:(\w+),\s*:(\w+)/
    ours = for [_, category, reason] <- scans("lib/**/*.ex", literal), uniq: true, do: {category, reason}
    assert length(ours) > 20

    for {category, reason} <- ours do
      category = Enum.find(Error.categories(), &(to_string(&1) == category))
      assert reason in Enum.map(Error.reasons(category), &to_string/1), "#{category}: #{reason}"
    end
  end

  defp scanned(files, literal), do: for([_, reason] <- scans(files, literal), uniq: true, do: reason)

  defp scans(files, literal),
    do: for(path <- Path.wildcard(files), found <- Regex.scan(literal, File.read!(path)), do: found)

  describe "tools" do
    test "an exception keeps its type, message and traceback", %{pool: pool} do
      error = error(pool, "fail", %{message: "boom ☃"})

      assert %{category: :python_error, python_type: "ValueError", message: "ValueError: boom ☃", pool: ^pool} =
               error

      assert error.python_traceback =~ "in fail"
      assert error.python_traceback =~ "snakepit_test_tools.py"
      refute error.python_traceback =~ "snakepit/runtime/calls.py"
      assert error.worker =~ "-0"
      assert_raise Error, ~r/boom/, fn -> Snakepit.execute!("fail", %{message: "boom"}, pool: pool) end
    end

    test "its message names the tool once, and inspect prints a few lines", %{pool: pool} do
      raised = error(pool, "fail", %{message: "boom"}, correlation_id: "c-1")
      assert Exception.message(raised) =~ ~r/\Afail: ValueError: boom\n\nTraceback/
      assert ["#Snakepit.Error<:python_error, :raised" | lines] = raised |> inspect() |> String.split("\n")

      assert [
               "  tool fail, pool " <> _,
               "  ValueError: boom",
               "    test/support/python/snakepit_test_tools.py:" <> frame,
               ~S(  details: %{correlation_id: "c-1"}),
               ">"
             ] = lines

      assert frame =~ "in fail: raise ValueError(message)"

      unknown = error(pool, "identty", %{})
      assert Exception.message(unknown) == unknown.message
      missing = error(pool, "add", %{a: 1})
      assert Exception.message(missing) == missing.message
      unsupported = error(pool, "identity", %{x: self()})
      assert Exception.message(unsupported) =~ ~r/\Aidentity: args\.x: a pid cannot be sent/
    end

    test "inspect prints any text of an error safely" do
      for text <- [String.duplicate("é", 40_000), "a" <> String.duplicate("é", 40_000), <<255, 254>>] do
        traceback = "Traceback (most recent call last):\n  File \"/a.py\", line 1, in f\n#{text}"
        error = Error.new(:python_error, :raised, text, python_traceback: traceback, command: text)
        shown = inspect(error)
        refute shown =~ "Inspect.Error"
        assert byte_size(shown) < 10_000
        assert String.valid?(shown)
        assert is_binary(Exception.message(error))
      end
    end

    test "errors of a stream and of a list also name the tool", %{pool: pool} do
      raised = assert_raise Error, fn -> Enum.to_list(Snakepit.stream("fail", %{}, pool: pool)) end
      assert {raised.command, raised.pool} == {"fail", pool}

      refused =
        assert_raise Error, fn -> Enum.to_list(Snakepit.stream("fail", %{}, pool: pool, idempotent: true)) end

      assert {refused.reason, refused.command} == {:invalid_option, "fail"}
      assert [{:error, %Error{command: "fail"}}] = Snakepit.map([%{}], :fail, pool: pool)
      assert {:error, %Error{command: "fail"}} = Snakepit.map([%{}], :fail, pool: :no_such_pool)

      assert {:error, %Error{command: "fail", pool: :no_such_pool}} =
               Snakepit.explain(:fail, %{}, pool: :no_such_pool)

      assert {:error, %Error{command: nil}} = Snakepit.execute(12, %{}, pool: pool)

      assert {:error, %Error{command: "spin", category: :timeout} = late} =
               Snakepit.execute("spin", %{ms: 60_000}, pool: pool, timeout: 10)

      assert Exception.message(late) == "spin did not finish within 10 ms"
    end

    test "SystemExit is an error of the tool, and the worker goes on", %{pool: pool} do
      assert %{category: :python_error, python_type: "SystemExit"} = error(pool, "leave", %{})
    end
  end
end
