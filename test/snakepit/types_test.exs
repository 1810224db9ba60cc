defmodule Snakepit.TypesTest do
  # The types table, row by row, in both directions.
  use Snakepit.Case, async: true

  setup_all do
    %{pool: pool!()}
  end

  defp python(pool, code), do: Snakepit.execute!("python_value", %{code: "x = " <> code}, pool: pool)
  defp numpy(pool, code), do: Snakepit.execute!("numpy_value", %{code: code}, pool: pool)

  test "what Python sees", %{pool: pool} do
    for {value, type} <- [
          {nil, "NoneType"},
          {true, "bool"},
          {1, "int"},
          {Integer.pow(2, 200), "int"},
          {1.5, "float"},
          {:nan, "float"},
          {:infinity, "float"},
          {"text", "str"},
          {:atom, "str"},
          {String.duplicate("é", 5000), "str"},
          {Snakepit.bytes(<<1>>), "memoryview"},
          {Snakepit.bytes(:binary.copy(<<1>>, 5000)), "memoryview"},
          {[1], "list"},
          {{1, 2}, "tuple"},
          {%{a: 1}, "dict"},
          {MapSet.new([1]), "set"},
          {Tensor.new([1], :u8), "ndarray"},
          {~D[2024-02-29], "date"},
          {~T[12:00:00], "time"},
          {~N[2024-02-29 12:00:00], "datetime"},
          {~U[2024-02-29 12:00:00Z], "datetime"}
        ] do
      assert Snakepit.execute("type_name", %{x: value}, pool: pool) == {:ok, type}
    end
  end

  test "atoms and keys of any script", %{pool: pool} do
    long = String.to_atom(String.duplicate("я", 255))

    for atom <- [:имя, :naïve, :ÿ, :日本, :"🐍", :"", :"a b", :é, long, :"\u{1F468}\u200D\u{1F469}"] do
      text = Atom.to_string(atom)
      map = %{atom => [atom, {atom}], "x" => MapSet.new([atom])}
      back = %{text => [text, {text}], "x" => MapSet.new([text])}
      assert Snakepit.execute("identity", %{x: map}, pool: pool) == {:ok, back}
      assert Snakepit.execute("type_name", %{x: atom}, pool: pool) == {:ok, "str"}

      assert {:error, error} = Snakepit.execute("identity", %{x: %{atom => self()}}, pool: pool)
      assert error.details.path == "args.x.#{text}"
      assert {:error, error} = Snakepit.execute("identity", %{x: %{atom => 1, text => 2}}, pool: pool)
      assert error.reason == :key_collision
      assert error.message =~ "is a key twice"
      assert {:error, error} = Snakepit.execute(atom, %{}, pool: pool)
      assert error.reason == :unknown_command
      assert {:error, error} = Snakepit.execute("identity", %{x: %{{atom} => 1}}, pool: pool)
      assert error.reason == :unsupported_key
    end

    assert {:error, error} = Snakepit.execute("identity", %{x: %{__struct__: :Имя}}, pool: pool)
    assert error.message =~ "%Имя{}"
    assert {:error, error} = Snakepit.execute("identity", %{x: %{{:имя} => 1}}, pool: pool)
    assert error.message =~ "имя"
  end

  test "a pool, a tool and its arguments named in any script" do
    pool = :"пул_#{System.unique_integer([:positive])}"
    dir = Path.join(System.tmp_dir!(), "names-#{System.unique_integer([:positive])}")
    File.mkdir_p!(dir)
    on_exit(fn -> Snakepit.stop_pool(pool) && File.rm_rf!(dir) end)
    source = "from snakepit import tool\n\n@tool\ndef сумма(ж: int, ш: int) -> int:\n    return ж + ш\n"
    File.write!(Path.join(dir, "ru_tools.py"), source)
    {:ok, _} = Snakepit.start_pool(name: pool, size: 1, python_module: "ru_tools", python_path: [dir])
    assert Snakepit.execute(:сумма, %{ж: 1, ш: 2}, pool: pool, session_id: "сеанс") == {:ok, 3}
    assert {:error, error} = Snakepit.execute(:сумма, %{ж: 1, ш: :имя}, pool: pool)
    assert error.message =~ "ш"
    assert error.pool == pool
    assert [%{name: name}] = Snakepit.list_workers(pool)
    assert name == "#{pool}-0"
    assert {:error, error} = Snakepit.execute(:сумма, %{}, pool: :нет_такого)
    assert error.message =~ "нет_такого"
  end

  test "what Elixir sees", %{pool: pool} do
    for {code, value} <- [
          {"None", nil},
          {"[True, False]", [true, false]},
          {"-2**63", -Integer.pow(2, 63)},
          {"2**64", Integer.pow(2, 64)},
          {"-(10**100)", -Integer.pow(10, 100)},
          {"[float('nan'), float('inf'), -float('inf'), 0.1]", [:nan, :infinity, :neg_infinity, 0.1]},
          {"'é'", "é"},
          {"bytearray(b'\\xff')", <<255>>},
          {"memoryview(b'ab')[1:]", "b"},
          {"(1, [2], (3,))", {1, [2], {3}}},
          {"{'a': 1, 2: 'b', -(2**63): None}", %{"a" => 1, 2 => "b", -Integer.pow(2, 63) => nil}},
          {"collections.OrderedDict(a=1)", %{"a" => 1}},
          {"{1, (2, 'x')}", MapSet.new([1, {2, "x"}])},
          {"frozenset()", MapSet.new()},
          {"datetime.date(2024, 2, 29)", ~D[2024-02-29]},
          {"datetime.time(1, 2, 3, 4)", ~T[01:02:03.000004]},
          {"datetime.datetime(2024, 2, 29, 1, 2, 3)", ~N[2024-02-29 01:02:03.000000]},
          {"datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc)", ~U[2024-02-29 00:00:00.000000Z]}
        ] do
      assert python(pool, code) === value
    end
  end

  test "times in zones keep the instant and the offset", %{pool: pool} do
    fixed =
      python(pool, "datetime.datetime(2024, 7, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))")

    assert fixed.utc_offset + fixed.std_offset == 7200
    assert DateTime.to_iso8601(fixed) == "2024-07-01T12:00:00.000000+02:00"
    assert {:ok, ^fixed} = Snakepit.execute("identity", %{x: fixed}, pool: pool)

    summer = python(pool, "datetime.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo('Europe/Warsaw'))")
    assert {summer.time_zone, summer.utc_offset, summer.std_offset} == {"Europe/Warsaw", 3600, 3600}
    assert {:ok, ^summer} = Snakepit.execute("identity", %{x: summer}, pool: pool)

    # The hour that happens twice: told apart by the offset.
    for fold <- [0, 1] do
      code = "datetime.datetime(2024, 10, 27, 2, 30, fold=#{fold}, tzinfo=zoneinfo.ZoneInfo('Europe/Warsaw'))"
      twice = python(pool, code)
      assert {:ok, ^twice} = Snakepit.execute("identity", %{x: twice}, pool: pool)
    end
  end

  test "times have microseconds in Python, so they come back with six digits", %{pool: pool} do
    assert Snakepit.execute("identity", %{x: ~T[12:00:00]}, pool: pool) == {:ok, ~T[12:00:00.000000]}
  end

  test "numpy's numbers, exactly", %{pool: pool} do
    assert numpy(pool, "np.float64(0.1)") === 0.1
    assert numpy(pool, "np.float32(0.1)") === 0.10000000149011612
    assert numpy(pool, "np.int64(-1)") === -1
    assert numpy(pool, "np.uint64(2**64-1)") === Integer.pow(2, 64) - 1
    assert numpy(pool, "np.bool_(True)") === true
    assert numpy(pool, "[np.str_('s')]") === ["s"]
  end

  test "arrays of every layout come back in C order", %{pool: pool} do
    want = Tensor.new(Enum.to_list(0..5), :s64, {2, 3})
    transposed = Tensor.new([0, 3, 1, 4, 2, 5], :s64, {3, 2})
    assert numpy(pool, "np.arange(6).reshape(2, 3)") == want
    assert numpy(pool, "np.asfortranarray(np.arange(6).reshape(2, 3))") == want
    assert numpy(pool, "np.arange(6).reshape(2, 3).T") == transposed
    assert numpy(pool, "np.arange(12)[::2] // 2").data == Tensor.new(Enum.to_list(0..5), :s64).data
    assert numpy(pool, "np.arange(6)[::-1]") == Tensor.new(Enum.to_list(5..0//-1), :s64)
    assert numpy(pool, "np.arange(6).astype('>i8').reshape(2, 3)") == want
    assert numpy(pool, "np.array(5, dtype='f4')") == Tensor.new([5.0], :f32, {})
    assert numpy(pool, "np.zeros((3, 0), 'u1')") == Tensor.new("", :u8, {3, 0})
    assert numpy(pool, "np.broadcast_to(np.arange(3), (2, 3))").shape == {2, 3}
    large = numpy(pool, "np.arange(300_000).reshape(300, 1000).T")
    assert large == Tensor.new(for(c <- 0..999, r <- 0..299, do: r * 1000 + c), :s64, {1000, 300})
  end

  test "bfloat16, where ml_dtypes is there", %{pool: pool} do
    tensor = Tensor.new([1.0, -2.5, :infinity, :nan], :bf16)
    assert {:ok, back} = Snakepit.execute("fresh", %{x: tensor}, pool: pool)
    assert Tensor.to_flat_list(back) == [1.0, -2.5, :infinity, :nan]
    assert {:ok, %{"dtype" => "bfloat16"}} = Snakepit.execute("flags", %{x: tensor}, pool: pool)
  end

  test "a tool gets a read-only view", %{pool: pool} do
    tensor = Tensor.new(:binary.copy(<<1>>, 100_000), :u8, {100, 1000})

    for way <- Snakepit.Transfer.ways() do
      assert {:ok, %{"writeable" => false, "shape" => {100, 1000}, "dtype" => "uint8"}} =
               Snakepit.execute("flags", %{x: tensor}, pool: pool, transfer: way)
    end
  end

  test "a tool cannot make that writable: the bytes are also the BEAM's, or a result's", %{pool: pool} do
    bytes = :binary.copy(<<1>>, 100_000)

    {:ok, result} =
      Snakepit.execute("fresh", %{x: Tensor.new(bytes, :u8, {100_000})}, pool: pool, transfer: :zero_copy)

    for tensor <- [Tensor.new(bytes, :u8, {100_000}), result, Tensor.new(<<1, 2>>, :u8, {2})],
        way <- Snakepit.Transfer.ways(),
        _known <- 1..2 do
      assert Snakepit.execute("write_to", %{x: tensor}, pool: pool, transfer: way) == {:ok, "read-only"}
    end

    assert result.data == bytes
  end

  test "a large value of very many parts", %{pool: pool} do
    list = Enum.to_list(1..200_000)
    assert Snakepit.execute("identity", %{x: list}, pool: pool) == {:ok, list}
    map = Map.new(1..50_000, &{"key #{&1}", {&1, "value"}})
    assert Snakepit.execute("identity", %{x: map}, pool: pool) == {:ok, map}
  end
end
