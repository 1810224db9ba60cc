defmodule Snakepit.Bench.Floor do
  @moduledoc false
  # The least that a call can take, measured beside it: a bare echo on a Unix socket, a bare gRPC echo, a memcpy.

  alias Snakepit.{Bench, Companion, Grpc, Python, Runtime}
  alias Snakepit.Bench.Floor.Native

  @doc "A socket to a bare Python echo, which ends with this process."
  @spec echo() :: :gen_tcp.socket()
  def echo do
    path = path()

    # A message is read at once, as on a lane: what does not fit the buffer costs another turn of the VM's polling.
    options = [:binary, packet: 4, active: false, buffer: 131_072, ifaddr: {:local, path}]
    {:ok, listen} = :gen_tcp.listen(0, options)
    python("snakepit_bench.echo", [path])
    {:ok, socket} = :gen_tcp.accept(listen, 10_000)
    :gen_tcp.close(listen)
    File.rm(path)
    socket
  end

  @doc "One round trip."
  @spec echo(:gen_tcp.socket(), binary()) :: :ok
  def echo(socket, payload) do
    :ok = :gen_tcp.send(socket, payload)
    {:ok, ^payload} = :gen_tcp.recv(socket, 0)
    :ok
  end

  @doc "A channel to a bare gRPC echo, which ends with this process."
  @spec grpc() :: reference()
  def grpc do
    path = path()
    python("snakepit_bench.grpc_echo", [path])
    {:ok, channel} = Grpc.connect("unix:" <> path)
    wait_for(channel, 100)
    # It is connected, and never will be again.
    File.rm(path)
    channel
  end

  defp wait_for(channel, tries) do
    case Grpc.call(channel, "hello", [], 1_000) do
      {:ok, "hello", []} -> :ok
      _ when tries > 0 -> Process.sleep(50) && wait_for(channel, tries - 1)
      other -> raise "the gRPC echo does not answer: #{inspect(other)}"
    end
  end

  @doc "One round trip of a buffer."
  @spec grpc(reference(), binary()) :: :ok
  def grpc(channel, buffer) do
    {:ok, "", [^buffer]} = Grpc.call(channel, "", [buffer], 60_000)
    :ok
  end

  @doc "Nanoseconds of one warm memcpy of so many bytes: each of `rounds`, after one that warms up."
  @spec memcpy(pos_integer(), pos_integer()) :: [non_neg_integer()]
  def memcpy(bytes, rounds), do: after_one(rounds, &Native.memcpy_warm(bytes, &1))

  @doc """
  Nanoseconds of three warm copies, each of what the one before it wrote: all on one core; and the first on one core, the
  others on another, without the time that handing over takes.
  """
  @spec three_copies(pos_integer(), pos_integer()) :: [[integer()]]
  def three_copies(bytes, rounds) do
    [handing_over, two_cores] = for n <- [0, bytes], do: after_one(rounds, &Native.memcpy_across(n, &1))
    [after_one(rounds, &Native.memcpy_chain(bytes, &1)), Enum.map(two_cores, &(&1 - Enum.min(handing_over)))]
  end

  @doc "Nanoseconds of one memcpy into shared memory that nobody has touched."
  @spec memcpy_cold(pos_integer(), pos_integer()) :: [non_neg_integer()]
  def memcpy_cold(bytes, rounds), do: after_one(rounds, &Native.memcpy_cold(bytes, &1))

  @doc "Nanoseconds of each of so many times that a thread wakes another and is woken, after the one that starts it."
  @spec futex(pos_integer()) :: [non_neg_integer()]
  def futex(rounds), do: after_one(rounds, &Native.futex/1)

  defp after_one(rounds, measure) do
    Native.load!()
    tl(measure.(rounds + 1))
  end

  defp python(module, args) do
    {:ok, options} =
      Snakepit.Pool.Options.new(name: :floor, python_module: module, python_path: Bench.python_path())

    {:ok, python} = Python.interpreter(options)
    Companion.run(python, ["-m", module | args], env: Python.env(options))
  end

  defp path, do: Path.join(Runtime.dir(), "floor-#{System.unique_integer([:positive])}.sock")
end
