defmodule Snakepit.Bench.Peers.Port do
  @moduledoc "A port with `{:packet, 4}` and Erlang's external term format, as ErlPort works."
  @behaviour Snakepit.Bench.Peer
  alias Snakepit.Bench.Peer
  alias Snakepit.Bench.Peers.Program

  @impl true
  def peers, do: [{"port", "a port, {:packet, 4}, external term format"}]

  @impl true
  def start(_name, %{python: python}) do
    args = ["-m", "snakepit_bench.peers.echo", "etf"]
    {:ok, Program.open(python, args, packet: 4)}
  end

  @impl true
  def round_trips(port, data, count) do
    Peer.measure(
      fn ->
        Port.command(port, :erlang.term_to_binary({:echo, data}))

        receive do
          {^port, {:data, message}} ->
            {:ok, got} = :erlang.binary_to_term(message)
            got

          {^port, {:exit_status, status}} ->
            raise "the port's program ended with status #{status}"
        end
      end,
      data,
      count
    )
  end

  @impl true
  def stop(port), do: Port.close(port)
end
