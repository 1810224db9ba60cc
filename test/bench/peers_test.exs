defmodule Snakepit.Bench.PeersTest do
  # Its sockets lie in the directory that other tests look at.
  use ExUnit.Case, async: false
  alias Snakepit.Bench
  alias Snakepit.Bench.{Peer, Peers}

  @modules [Peers.Snakepit, Peers.Tonic, Peers.Port, Peers.Msgpack]

  test "each returns the bytes it got, of every size a message has to be cut for" do
    Bench.with_pool([size: 1, calibrated: false], fn pool ->
      # The workers' own environment has what these need.
      context = %{pool: pool, python: Snakepit.Python.venv_python()}

      for module <- @modules, {name, _about} <- module.peers() do
        assert {:ok, state} = module.start(name, context)

        for size <- [0, 1, 255, 256, 65_536, 40_000_000] do
          times = module.round_trips(state, Peer.payload(size), 2)
          assert length(times) == 2 and Enum.all?(times, &(&1 > 0)), "#{name}, #{size} bytes"
        end

        module.stop(state)
      end

      for name <- ["multiprocessing_queue", "multiprocessing_shared_memory", "grpcio"] do
        assert {:ok, state} = Peers.Python.start(name, context)

        for size <- [0, 100_000],
            do: assert([_, _, _] = Peers.Python.round_trips(state, Peer.payload(size), 3))

        Peers.Python.stop(state)
      end
    end)
  end

  test "floors have figures of the sizes they are about" do
    copied = [65_536, 5_000_000]
    # A message that does not fit into a socket's buffers is not sent through it.
    there = %{
      "futex" => [0, 1 | copied],
      "socket" => [0, 1, 65_536],
      "memcpy_warm" => copied,
      "memcpy_cold" => copied
    }

    for {name, _about} <- Peers.Floors.peers() do
      {:ok, state} = Peers.Floors.start(name, %{})
      sizes = there[name]

      for size <- [0, 1, 65_536, 5_000_000] do
        times = Peers.Floors.round_trips(state, Peer.payload(size), 2)
        expected = if size in sizes, do: 2, else: 0
        assert length(times) == expected and Enum.all?(times, &(&1 >= 0)), "#{name}, #{size} bytes"
      end

      Peers.Floors.stop(state)
    end
  end

  test "what cannot run here is absent, and says why" do
    context = %{pool: nil, python: Snakepit.Python.venv_python()}
    assert {:absent, why} = Peers.Erlport.start("erlport", context)
    assert why =~ "erlport"
    # Neither is in the workers' environment.
    for name <- ["ray_task", "arrow_flight", "zeromq", "iceoryx2", "iceoryx2_spinning"] do
      assert {:absent, why} = Peers.Python.start(name, context)
      assert why =~ "No module named"
    end

    assert {:absent, why} = Peers.Python.start("pigeon", context)
    assert why =~ "pigeon"
  end

  test "other bytes are no result" do
    assert_raise RuntimeError, ~r/3 other bytes/, fn -> Peer.measure(fn -> "abd" end, "abc", 1) end
  end

  test "the payload's every place differs from its neighbours" do
    assert Peer.payload(0) == ""
    assert <<0, 1, 2, _::binary>> = data = Peer.payload(600)
    assert byte_size(data) == 600 and :binary.at(data, 251) == 0 and :binary.at(data, 599) == rem(599, 251)
  end
end
