defmodule Snakepit.Bench.Peers.Python do
  @moduledoc """
  Peers both of whose ends are Python (`bench/python/snakepit_bench/peers`): they measure themselves, and compare what they got
  themselves. No call of theirs pays for the VM.
  """
  @behaviour Snakepit.Bench.Peer
  alias Snakepit.Bench.Peers.Program

  # The first import of a large package, and a cluster's start.
  @start_ms 60_000
  @round_trips_ms 300_000

  @impl true
  def peers,
    do: [
      {"grpcio", "grpcio on both ends"},
      {"multiprocessing_queue", "multiprocessing.Queue"},
      {"multiprocessing_shared_memory", "multiprocessing.shared_memory and a pipe"},
      {"ray_task", "ray.put, a task, ray.get"},
      {"arrow_flight", "Arrow Flight, DoExchange"},
      {"zeromq", "pyzmq, REQ and REP"},
      {"iceoryx2", "iceoryx2, asleep while it waits"},
      {"iceoryx2_spinning", "iceoryx2, spinning while it waits: both ends keep a core"}
    ]

  @impl true
  def start(name, %{python: python}) do
    port = Program.open(python, ["-m", "snakepit_bench.peers.driver", name], line: 1_000_000)

    case line(port, @start_ms) do
      "ready" ->
        {:ok, port}

      said ->
        Program.close(port)
        {:absent, String.replace_prefix(said, "absent: ", "")}
    end
  end

  @impl true
  def round_trips(port, data, count) do
    Port.command(port, "#{byte_size(data)} #{count}\n")

    case line(port, @round_trips_ms) do
      "error: " <> what -> raise what
      times -> times |> String.split() |> Enum.map(&String.to_integer/1)
    end
  end

  @impl true
  def stop(port), do: Program.close(port)

  defp line(port, timeout) do
    receive do
      {^port, {:data, {:eol, line}}} -> line
      {^port, {:exit_status, status}} -> "its program ended with status #{status}"
    after
      timeout -> "no answer within #{div(timeout, 1000)} s"
    end
  end
end
