defmodule Snakepit.Bench.Peers.Floors do
  @moduledoc """
  Plain operations to hold the peers against, measured beside them. A peer that spins, or copies by streaming stores,
  may take less:

  - `futex`: another thread is woken, and wakes this one (`futex(2)`), whatever the size;
  - `memcpy_warm`: the bytes are copied once there and once back, between buffers that are used again, from 64 KiB on;
  - `memcpy_cold`: the same into shared memory that nobody has touched before;
  - `socket`: the bare bytes through a Unix socket, `:gen_tcp` in the VM and `recv_into` in Python, up to 64 KiB.
  """
  @behaviour Snakepit.Bench.Peer
  alias Snakepit.Bench.{Floor, Peer}

  # So much fits into a socket's buffers: the echo answers as it reads, and its answer is read once all is sent.
  @most_by_socket 64 * 1024
  @least_to_copy 64 * 1024

  @impl true
  def peers do
    [
      {"futex", "one thread wakes another, and is woken"},
      {"memcpy_warm", "a copy each way, between warm buffers"},
      {"memcpy_cold", "a copy each way, into fresh shared memory"},
      {"socket", "a bare echo on a Unix socket"}
    ]
  end

  @impl true
  def start("socket", _context), do: {:ok, {:socket, Floor.echo()}}
  def start(name, _context), do: {:ok, name}

  @impl true
  def round_trips("futex", _data, count), do: Floor.futex(count)
  def round_trips("memcpy_warm", data, count), do: both_ways(data, count, &Floor.memcpy/2)
  def round_trips("memcpy_cold", data, count), do: both_ways(data, count, &Floor.memcpy_cold/2)
  def round_trips({:socket, _}, data, _count) when byte_size(data) > @most_by_socket, do: []

  def round_trips({:socket, socket}, data, count) do
    Peer.measure(
      fn ->
        :ok = Floor.echo(socket, data)
        data
      end,
      data,
      count
    )
  end

  # With fewer bytes, the reading of the clock would be measured.
  defp both_ways(data, _count, _copies) when byte_size(data) < @least_to_copy, do: []

  defp both_ways(data, count, copies), do: for(ns <- copies.(byte_size(data), count), do: 2 * ns)

  @impl true
  def stop({:socket, socket}), do: :gen_tcp.close(socket)
  def stop(_name), do: :ok
end
