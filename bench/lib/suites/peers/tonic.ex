defmodule Snakepit.Bench.Peers.Tonic do
  @moduledoc "gRPC as an Elixir application has it: a tonic client in the VM, grpcio's server in Python, a Unix socket."
  @behaviour Snakepit.Bench.Peer
  alias Snakepit.{Bench, Grpc}
  alias Snakepit.Bench.{Floor, Peer}

  @impl true
  def peers, do: [{"grpc", "gRPC: tonic in the VM, grpcio in Python"}]

  @impl true
  def start(_name, %{pool: pool}) do
    if :grpc in Bench.ways(pool), do: {:ok, Floor.grpc()}, else: {:absent, Bench.needs("grpc")}
  rescue
    error -> {:absent, Exception.message(error)}
  end

  @impl true
  def round_trips(channel, data, count) do
    Peer.measure(
      fn ->
        {:ok, "", got} = Grpc.call(channel, "", [data], 120_000)
        # A buffer of no bytes is none.
        IO.iodata_to_binary(got)
      end,
      data,
      count
    )
  end

  @impl true
  def stop(_channel), do: :ok
end
