defmodule Snakepit.Bench.Peers.Msgpack do
  @moduledoc "MessagePack over a Unix socket, the library `msgpack` in Python."
  @behaviour Snakepit.Bench.Peer
  alias Snakepit.Bench.Peer
  alias Snakepit.Bench.Peers.Program
  alias Snakepit.Runtime

  # A socket of the VM reads at most 64 MiB at a time.
  @most 32 * 1024 * 1024

  @impl true
  def peers, do: [{"msgpack", "MessagePack over a Unix socket"}]

  @impl true
  def start(_name, %{python: python}) do
    path = Path.join(Runtime.dir(), "msgpack-#{System.unique_integer([:positive])}.sock")
    options = [:binary, active: false, ifaddr: {:local, path}]
    {:ok, listen} = :gen_tcp.listen(0, options)
    port = Program.open(python, ["-m", "snakepit_bench.peers.echo", "msgpack", path], [])
    accepted = :gen_tcp.accept(listen, 10_000)
    :gen_tcp.close(listen)
    File.rm(path)

    with {:ok, socket} <- accepted do
      {:ok, {socket, port}}
    else
      {:error, reason} ->
        Program.close(port)
        {:absent, "the Python side did not connect: #{inspect(reason)}"}
    end
  end

  @impl true
  def round_trips({socket, _port}, data, count) do
    size = byte_size(data)
    # An array of two: a string of four bytes, and bytes.
    head = [<<0x92, 0xA4, "echo", 0xC6, size::32>>, data]
    message = [<<IO.iodata_length(head)::32>>, head]

    Peer.measure(
      fn ->
        :ok = :gen_tcp.send(socket, message)
        {:ok, <<length::32>>} = :gen_tcp.recv(socket, 4)
        decode(read(socket, length, []))
      end,
      data,
      count
    )
  end

  defp read(_socket, 0, [one]), do: one
  defp read(_socket, 0, parts), do: parts |> Enum.reverse() |> IO.iodata_to_binary()

  defp read(socket, left, parts) do
    {:ok, part} = :gen_tcp.recv(socket, min(left, @most))
    read(socket, left - byte_size(part), [part | parts])
  end

  defp decode(<<0x92, 0xA2, "ok", 0xC4, size::8, data::binary-size(size)>>), do: data
  defp decode(<<0x92, 0xA2, "ok", 0xC5, size::16, data::binary-size(size)>>), do: data
  defp decode(<<0x92, 0xA2, "ok", 0xC6, size::32, data::binary-size(size)>>), do: data

  @impl true
  def stop({socket, port}) do
    :gen_tcp.close(socket)
    Program.close(port)
  end
end
