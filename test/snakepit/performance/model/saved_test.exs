defmodule Snakepit.Performance.Model.SavedTest do
  use Snakepit.Case, async: true
  import Bitwise
  import ExUnit.CaptureLog
  alias Snakepit.Performance.Model.Saved
  alias Snakepit.Performance.Settings
  alias Snakepit.Pool.Options

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    {:ok, options} = Options.new(name: :kept, python_module: "tools")
    settings = %{Settings.default() | calibration_dir: dir, keep_models: true}
    %{options: options, settings: settings, place: Saved.set(options, settings)}
  end

  defp file({dir, _}, name), do: Path.join(dir, name)

  # The section, and what is logged about it.
  defp got(place, section \\ :lines) do
    me = self()
    log = capture_log(fn -> send(me, {:got, Saved.get(place, section)}) end)
    assert_received {:got, got}
    # Others log at the same time.
    {dir, _} = place
    {got, for(line <- String.split(log, "\n"), line =~ dir, into: "", do: line)}
  end

  test "a section is kept whole, and apart from the others", %{place: place} do
    assert {:none, ""} = got(place)
    assert :ok = Saved.put(place, :lines, "one")
    assert :ok = Saved.put(place, :policy, <<0, 255>>)
    assert {{:ok, "one"}, ""} = got(place)
    assert {{:ok, <<0, 255>>}, ""} = got(place, :policy)
    assert :ok = Saved.put(place, :lines, "two")
    assert {{:ok, "two"}, ""} = got(place)
    assert Enum.sort(File.ls!(elem(place, 0))) == ["lines", "lines.previous", "policy"]
    assert :ok = Saved.remove(place, :lines)
    assert {:none, ""} = got(place)
    assert :ok = Saved.remove(place, :policy)
    refute File.exists?(elem(place, 0))
  end

  test "of a pool of the same name with other tools, and where nothing is kept, it is not there", context do
    :ok = Saved.put(context.place, :lines, "one")
    {:ok, other} = Options.new(name: :kept, python_module: "others")
    assert {:none, ""} = got(Saved.set(other, context.settings))
    assert Saved.set(context.options, %{context.settings | keep_models: false}) == nil
    assert :ok = Saved.put(nil, :lines, "x")
    assert :none = Saved.get(nil, :lines)
  end

  test "whatever becomes of the file, the one before it is used, and that is said once", %{place: place} do
    :ok = Saved.put(place, :lines, "before")
    :ok = Saved.put(place, :lines, "now")
    path = file(place, "lines")
    whole = File.read!(path)
    <<magic::binary-size(15), 1::32, rest::binary>> = whole
    <<fingerprint, others::binary>> = rest

    cut = for n <- 0..(byte_size(whole) - 1), do: binary_part(whole, 0, n)

    flipped =
      for n <- 0..(byte_size(whole) - 1) do
        <<start::binary-size(n), byte, tail::binary>> = whole
        <<start::binary, Bitwise.bxor(byte, 1), tail::binary>>
      end

    for broken <- cut ++ flipped ++ [whole <> "x", ""] do
      File.write!(path, broken)
      assert {{:ok, "before"}, log} = got(place)
      assert [_] = Regex.scan(~r/is passed over, since it is .*: the one before it is used/, log)
    end

    for {broken, words} <- [
          {<<magic::binary, 2::32, rest::binary>>, "version 2, and this Snakepit reads 1"},
          {<<magic::binary, 1::32, fingerprint + 1 &&& 255, others::binary>>,
           "of another pool, machine or Python"},
          {binary_part(whole, 0, 60), "damaged"}
        ] do
      File.write!(path, broken)
      assert {{:ok, "before"}, log} = got(place)
      assert log =~ words
    end

    File.rm!(path)
    # Between the two renames of a replacement.
    assert {{:ok, "before"}, ""} = got(place)
    File.mkdir!(path)
    assert {{:ok, "before"}, log} = got(place)
    assert log =~ "it is no file"
    File.write!(path <> ".previous", "x")
    assert {:none, log} = got(place)
    assert log =~ "the pool learns anew"
  end

  test "where nothing can be written, that is an error and no crash", %{options: options, settings: settings} do
    place = Saved.set(options, %{settings | calibration_dir: "/proc/nowhere"})
    assert {:error, _} = Saved.put(place, :lines, "x")
    assert :none = Saved.get(place, :lines)
    assert :ok = Saved.remove(place, :lines)
  end

  test "without a home there is no directory, and nothing is kept", %{options: options, settings: settings} do
    code = """
    settings = %{Snakepit.Performance.Settings.default() | keep_models: true}
    nil = Snakepit.Performance.Model.Saved.dir(settings)
    {:ok, options} = Snakepit.Pool.Options.new(name: :kept, python_module: "tools")
    nil = Snakepit.Performance.Model.Saved.set(options, settings)
    [] = Snakepit.Performance.Model.Saved.list(settings)
    IO.puts("fine")
    """

    env = [{"HOME", nil}, {"XDG_CACHE_HOME", nil}]
    paths = for path <- :code.get_path(), path = to_string(path), path =~ "/lib/snakepit/", do: path
    args = Enum.flat_map(paths, &["-pa", &1]) ++ ["-e", code]
    assert {"fine\n", 0} = System.cmd("elixir", args, env: env, stderr_to_stdout: true)
    assert {_, _} = Saved.set(options, settings)
  end

  test "pools that were not started for months are forgotten", %{place: {dir, _} = place, tmp_dir: tmp} do
    old = Path.join([tmp, "pools", "old"])
    new = Path.join([tmp, "pools", "new"])
    Enum.each([old, new], &File.mkdir_p!/1)
    File.touch!(old, System.os_time(:second) - 100 * 86_400)
    :ok = Saved.put(place, :lines, "x")
    assert Enum.sort(File.ls!(Path.dirname(dir))) == Enum.sort(["new", Path.basename(dir)])
  end

  test "many writers and readers at once: always one of the whole files", %{place: place} do
    :ok = Saved.put(place, :lines, :binary.copy("0", 10_000))

    1..200
    |> Task.async_stream(
      fn n ->
        if rem(n, 2) == 0, do: Saved.put(place, :lines, :binary.copy("#{rem(n, 10)}", 10_000))
        {:ok, <<first, _::binary>> = bytes} = Saved.get(place, :lines)
        assert bytes == :binary.copy(<<first>>, 10_000)
      end,
      max_concurrency: 16
    )
    |> Stream.run()
  end
end
