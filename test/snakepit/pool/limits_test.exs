defmodule Snakepit.Pool.LimitsTest do
  # Limits of the VM's own process, which its workers inherit: each in a VM of its own. None may end it.
  use Snakepit.Case, async: true

  @moduletag timeout: 180_000
  @size 24_000_000

  # Runs `code` in a VM under `shell` commands, with a pool :p and the bytes `data`; `{what it said, exit status}`.
  defp under(shell, code, options \\ []) do
    pool = pool_options([name: :p, chunk_size: "1MB"] ++ options)

    code = """
    {:ok, _} = Application.ensure_all_started(:snakepit)
    {:ok, _} = Snakepit.start_pool(#{inspect(pool)})
    data = :binary.copy("0123456789abcdef", div(#{@size}, 16))
    call = fn tool, args, opts ->
      case Snakepit.execute(tool, args, [pool: :p, timeout: 60_000] ++ opts) do
        {:ok, ^data} -> :right
        {:ok, other} -> {:other, other}
        {:error, error} -> {error.category, error.reason, error.message}
      end
    end
    #{code}
    IO.puts("the end")
    """

    args = ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
    script = shell <> ~s(; exec "$@")
    System.cmd("sh", ["-c", script, "sh", System.find_executable("elixir") | args], stderr_to_stdout: true)
  end

  # How the shell of this machine counts: in blocks of 512 bytes (POSIX) or of 1024.
  defp blocks(bytes) do
    {limits, 0} = System.cmd("sh", ["-c", "ulimit -f 1; grep 'Max file size' /proc/self/limits"])
    [_, unit] = Regex.run(~r/(\d+)/, limits)
    div(bytes, String.to_integer(unit))
  end

  @tag :tmp_dir
  test "of file sizes: shared memory is passed over, counted and logged once; the VM's own writes fail", %{
    tmp_dir: dir
  } do
    # The VM itself needs some MiB, for the code that it generates.
    {said, status} =
      under("ulimit -f #{blocks(20 * 1024 * 1024)}", """
      for _ <- 1..3, do: IO.inspect({:auto, call.("fresh", %{x: Snakepit.bytes(data)}, [])})
      IO.inspect({:to_python, call.("fresh", %{x: Snakepit.bytes(data)}, request_transfer: :zero_copy)})
      IO.inspect({:from_python, call.("fresh", %{x: Snakepit.bytes(data)}, reply_transfer: :zero_copy)})
      IO.inspect({:share, with({:error, e} <- Snakepit.Pool.Arena.share(Snakepit.Pool.Handle.fetch!(:p), data), do: e.reason)})
      IO.inspect({:write, File.write(#{inspect(Path.join(dir, "large"))}, data)})
      {:ok, stats} = Snakepit.get_stats(:p)
      IO.inspect({:counted, stats.fallbacks >= 3, stats.request_inline >= 3})
      small = fn -> Snakepit.execute("fresh", %{x: Snakepit.bytes(:binary.copy("x", 10_000))}, pool: :p, transfer: :zero_copy) end
      IO.inspect({:small, byte_size(elem(small.(), 1))})
      """)

    assert {status, said} == {0, said}
    assert said =~ "the end"
    assert length(Regex.scan(~r/{:auto, :right}/, said)) == 3

    assert said =~
             ~r/{:to_python,\s*{:transfer, :no_memory,\s.*at most 20971520 bytes \(ulimit -f, RLIMIT_FSIZE/

    assert said =~
             ~r/{:from_python,\s*{:transfer, :no_memory,\s.*at most 20971520 bytes \(ulimit -f, RLIMIT_FSIZE/

    assert said =~ "{:share, :no_memory}"
    assert said =~ "{:write, {:error, :efbig}}"
    assert said =~ "{:counted, true, true}"
    assert said =~ "{:small, 10000}"

    assert [_once] =
             Regex.scan(~r/pool :p: no shared memory can be made, calls go another way: .*ulimit -f/, said)

    assert [_once] = Regex.scan(~r/snakepit: no shared memory can be made, results go another way/, said)
  end

  test "of open files: no chunk can be made, and calls go on" do
    # Whatever is left of descriptors is used up first, once all that a pool needs is there.
    {said, status} =
      under("ulimit -n 100", """
      # The VM loads no code while there is no descriptor left.
      for app <- [:elixir, :logger, :snakepit, :kernel, :stdlib], module <- Application.spec(app, :modules), do: Code.ensure_loaded(module)
      taken = Stream.repeatedly(fn -> :socket.open(:local, :stream) end) |> Enum.take_while(&match?({:ok, _}, &1))
      pid = Snakepit.execute!("pid", %{}, pool: :p)
      # The worker makes memory of its own for its results, until it hears that nobody maps it.
      IO.inspect({:unmapped, call.("fresh", %{x: Snakepit.bytes(data)}, reply_transfer: :zero_copy, request_transfer: :inline)})
      IO.inspect({:forced, call.("fresh", %{x: Snakepit.bytes(data)}, transfer: :zero_copy)})
      for _ <- 1..20, do: IO.inspect({:auto, call.("fresh", %{x: Snakepit.bytes(data)}, [])})
      IO.inspect({:same_worker, pid == Snakepit.execute!("pid", %{}, pool: :p)})
      {few, taken} = Enum.split(taken, 3)
      for {:ok, socket} <- few, do: :socket.close(socket)
      {:error, error} = Snakepit.start_pool(#{inspect(pool_options(name: :lanes, worker_profile: :thread, threads_per_worker: 8))})
      IO.puts(error.message)
      for {:ok, socket} <- taken, do: :socket.close(socket)
      # Calls failed by this way, so that it may be left alone for a moment.
      Snakepit.reset_way(:p, :zero_copy)
      IO.inspect({:after, call.("fresh", %{x: Snakepit.bytes(data)}, transfer: :zero_copy)})
      """)

    assert {status, said} == {0, said}
    assert said =~ ~r/{:unmapped,\s*{:transfer, :no_memory,\s.*this VM could not map/
    assert length(Regex.scan(~r/{:auto, :right}/, said)) == 20
    assert said =~ "{:same_worker, true}"

    assert [_once] =
             Regex.scan(~r/a worker's memory cannot be mapped, results go another way: .*ulimit -n/, said)

    assert said =~ ~r/{:forced,\s*{:transfer, :no_memory,\s.*Too many open files/
    assert said =~ "its lanes are more files than this VM may have open (ulimit -n)"
    assert said =~ "{:after, :right}"
  end

  test "of address space and of locked memory: calls go on" do
    {said, status} =
      under(
        "ulimit -l 0; ulimit -v 3500000",
        """
        left = fn ->
          [_, kib] = Regex.run(~r/VmSize:\\s+(\\d+)/, File.read!("/proc/self/status"))
          3_500_000 * 1024 - 1024 * String.to_integer(kib)
        end
        share = fn data -> Snakepit.Pool.Arena.share(Snakepit.Pool.Handle.fetch!(:p), data) end
        large = :binary.copy("x", 400_000_000)
        held = Stream.repeatedly(fn -> {:ok, _} = share.(data) end) |> Enum.take_while(fn _ -> left.() > 350_000_000 end)
        IO.inspect({:held, length(held) > 3})
        {:error, error} = share.(large)
        IO.puts(error.message)
        IO.inspect({:auto, call.("fresh", %{x: Snakepit.bytes(data)}, [])})
        IO.inspect({:forced, call.("fresh", %{x: Snakepit.bytes(large)}, request_transfer: :zero_copy)})
        for {:ok, ^data} <- held, do: :ok
        """,
        memory_quota: "8GB"
      )

    assert {status, said} == {0, said}
    assert said =~ "{:held, true}"
    assert said =~ "no shared memory for 400000000 B: mmap: Cannot allocate memory"
    assert said =~ "{:auto, :right}"
    assert said =~ ~r/{:forced,\s*{:transfer, :no_memory,/
  end

  test "of a memory group: shared memory is not made where the kernel would kill for it" do
    case group() do
      nil ->
        IO.puts(:stderr, "no memory group can be made here, so the test of one is left out")

      {dir, limit} ->
        on_exit(fn -> eventually(fn -> File.rmdir(dir) in [:ok, {:error, :enoent}] end) end)
        File.write!(Path.join(dir, limit), "#{700 * 1024 * 1024}")

        {said, status} =
          under(
            "echo $$ > #{dir}/cgroup.procs",
            """
            handle = Snakepit.Pool.Handle.fetch!(:p)
            answers = Stream.repeatedly(fn -> Snakepit.Pool.Arena.share(handle, data) end)
            {pieces, error} =
              Enum.reduce_while(answers, [], fn
                {:ok, piece}, pieces -> {:cont, [piece | pieces]}
                {:error, error}, pieces -> {:halt, {pieces, error}}
              end)
            IO.inspect({:shared, length(pieces) > 2})
            IO.puts(error.message)
            for _ <- 1..2, do: IO.inspect({:auto, call.("length", %{x: Snakepit.bytes(data)}, [])})
            IO.inspect({:from_python, call.("in_place", %{n: 20_000_000}, reply_transfer: :zero_copy)})
            for piece <- pieces, do: ^data = piece
            """,
            memory_quota: "8GB"
          )

        assert {status, said} == {0, said}
        assert said =~ "{:shared, true}"

        assert said =~
                 "no shared memory for #{@size} B: the memory group #{dir} has too little left of its"

        assert length(Regex.scan(~r/{:auto, {:other, #{@size}}}/, said)) == 2
        assert said =~ ~r/{:from_python,\s*{:python_error,.*the memory group #{dir} has too little left/s
    end
  end

  test "of a worker's open files: a request whose memory it cannot have is an error, and the worker goes on" do
    pool = pool!(limits: [open_files: 80], chunk_size: "1MB")
    run = &Snakepit.execute("python_value", %{code: &1}, pool: pool)
    pid = Snakepit.execute!("pid", %{}, pool: pool)
    data = Snakepit.bytes(:binary.copy("x", 2_000_000))

    take = """
    import builtins, os
    builtins.held = []
    try:
        while True: builtins.held.append(os.open('/dev/null', 0))
    except OSError as error:
        x = error.errno
    """

    assert run.(take) == {:ok, 24}
    assert {:error, error} = Snakepit.execute("length", %{x: data}, pool: pool, request_transfer: :zero_copy)
    assert {:transfer, :no_memory} = {error.category, error.reason}
    assert error.message =~ "Too many open files"
    assert {:ok, 2_000_000} = Snakepit.execute("length", %{x: data}, pool: pool, request_transfer: :inline)
    assert run.("import builtins, os\nx = [os.close(fd) for fd in builtins.held][:1]") == {:ok, [nil]}
    assert Snakepit.execute!("pid", %{}, pool: pool) == pid
  end

  # A new group below this VM's own, where one may be made, and the name of its limit.
  defp group do
    name = "snakepit-test-#{System.pid()}"

    places =
      for {limit, _usage, _stat} <- Snakepit.Machine.groups(File.read!("/proc/self/cgroup")),
          do: {Path.join(Path.dirname(limit), name), Path.basename(limit)}

    Enum.find(places, fn {dir, limit} ->
      File.mkdir(dir) == :ok and (File.exists?(Path.join(dir, limit)) or (File.rmdir(dir) && false))
    end)
  end
end
