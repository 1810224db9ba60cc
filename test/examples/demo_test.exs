defmodule Snakepit.DemoTest do
  # Not async: stderr is one for all.
  use Snakepit.Case, async: false
  import ExUnit.CaptureIO
  alias Snakepit.Demo
  alias Snakepit.Demo.{Compare, Examine}

  @moduletag :tmp_dir
  @moduletag :python

  setup_all do
    %{pool: pool!(size: 2, python_module: "snakepit_demo", python_path: Demo.python_path())}
  end

  # {status, stdout, stderr}
  defp demo(paths, context, options \\ []) do
    options = Map.merge(%{paths: paths, cwd: context.tmp_dir, limit: nil}, Map.new(options))

    {{status, out}, err} = with_io(:stderr, fn -> with_io(fn -> Demo.run(options, context.pool) end) end)

    {status, out, err}
  end

  test "a single file is one file", %{tmp_dir: dir} = context do
    File.write!(Path.join(dir, "one"), "a")
    assert {0, out, ""} = demo(["one"], context)
    assert out =~ ~r/^1 file, 1 B; 2 Python workers$/m
    assert out =~ ~r/^The largest file\.$/m
    assert out =~ ~r/\n1 file, 1 B, calls /
    refute out =~ ~r/\b1 files/
  end

  test "files of every size are examined, and the digests agree", %{tmp_dir: dir} = context do
    File.write!(Path.join(dir, "empty"), "")
    File.write!(Path.join(dir, "small"), "abc")
    File.write!(Path.join(dir, "page"), :binary.copy("page", 5000))
    File.write!(Path.join(dir, "noise"), :crypto.strong_rand_bytes(2_000_000))
    {status, out, err} = demo(["."], context)
    assert {status, err} == {0, ""}
    assert out =~ ~r/^4 files, 1\.9 MiB; 2 Python workers/
    assert out =~ ~r/^empty +1 +0 B +inline 3 /m
    assert out =~ ~r/^< 64 KiB +1 +19\.5 KiB +zero_copy 3/m
    assert out =~ ~r{^\./noise +2,000,000 +[78]\.\d+ +1\.0\d\d }m
    assert out =~ ~r{^\./empty +0 +0\.000 +– }m
    assert out =~ ~r/^< 16 MiB +1 +.*×1\.0/m
    # Warm figures come first.
    assert [_, _] = String.split(out, ~r/^The same bytes by each way.*^Every file, by size/ms)
    assert out =~ ~r/\n4 files, 1\.9 MiB, calls .*, all SHA-256 agree: yes\n\z/
    refute out =~ "\e"
    refute out =~ "\r"
    for line <- String.split(out, "\n"), do: assert(String.length(line) <= 100, line)
  end

  test "each problem has a line, the rest is done, and the status is 1", %{tmp_dir: dir} = context do
    File.mkdir_p!(Path.join(dir, "bare"))
    File.write!(Path.join(dir, "good"), "good")
    {status, out, err} = demo(["nope", "bare", "/proc/self/mem", "good"], context)
    assert status == 1
    assert out =~ "1 file, 4 B, calls inline 3"

    assert String.split(err, "\n", trim: true) |> Enum.sort() == [
             "/proc/self/mem: I/O error",
             "bare: there is no file in this directory",
             "nope: no such file or directory"
           ]
  end

  test "files that are all unreadable", context do
    assert {1, out, "/proc/self/mem: I/O error\n"} = demo(["/proc/self/mem"], context)
    assert out =~ "no file could be examined"
  end

  test "nothing to read at all", context do
    assert {1, "", err} = demo(["nope"], context)
    assert err == "nope: no such file or directory\nthere is no file to read\n"
  end

  test "a limit", %{tmp_dir: dir} = context do
    for n <- 1..9, do: File.write!(Path.join(dir, "#{n}"), "#{n}")
    assert {0, out, ""} = demo(["."], context, limit: 4)
    assert out =~ ~r/\n4 files, 4 B, /
  end

  test "a file that is gone, or larger than memory allows", %{tmp_dir: dir, pool: pool} do
    file = %{path: Path.join(dir, "gone"), shown: "gone", size: 3}
    assert Examine.file(file, pool, 10) == {:error, "gone: no such file or directory"}
    assert {:error, "gone: is too large" <> _} = Examine.file(file, pool, 2)
  end

  test "a call that fails is its file's problem", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "a"), "a")
    file = %{path: Path.join(dir, "a"), shown: "a", size: 1}
    assert {:error, "a: histogram: there is no pool" <> _} = Examine.file(file, :no_such_pool, 10)
  end

  test "a digest that differs is called wrong data" do
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert Examine.same_digest(%{shown: "a"}, "abc", digest) == :ok
    assert {:error, "a: WRONG DATA" <> _} = Examine.same_digest(%{shown: "a"}, "abd", digest)
  end

  test "what the tools say", %{pool: pool} do
    bytes = fn data -> %{data: Snakepit.bytes(data)} end
    data = :binary.copy(:binary.list_to_bin(Enum.to_list(0..255)), 5000)

    assert {:ok, %{"entropy" => 8.0, "counts" => counts}} =
             Snakepit.execute("histogram", bytes.(data), pool: pool)

    assert Snakepit.Tensor.to_flat_list(counts) == List.duplicate(5000, 256)
    assert {:ok, %{"ratio" => nil, "sampled" => 0}} = Snakepit.execute("zlib_ratio", bytes.(""), pool: pool)

    long = :binary.copy(<<0>>, 9 * 1024 * 1024)

    assert {:ok, %{"ratio" => ratio, "sampled" => sampled}} =
             Snakepit.execute("zlib_ratio", bytes.(long), pool: pool)

    assert sampled == 8 * 1024 * 1024 and ratio < 0.01
  end

  test "the sample of a class is spread over its files" do
    files = for n <- 1..30, do: %{size: n}
    assert [{"< 4 KiB", [%{size: 6}, %{size: 16}, %{size: 26}]}] = Compare.sample(Enum.shuffle(files))
    assert Compare.sample([%{size: 2 ** 40}]) == []
  end

  test "a way that a pool does not allow is missing, with the reason" do
    pool =
      pool!(size: 1, python_module: "snakepit_demo", python_path: Demo.python_path(), transfers: [:inline])

    assert {[:inline], missing} = Compare.ways(pool)
    assert [{:zero_copy, _}, {:grpc, reason}] = missing
    assert reason =~ "not open to this call"
  end
end
