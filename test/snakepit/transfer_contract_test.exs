defmodule Snakepit.TransferContractTest do
  # What every way of transfer must do: one suite, run over each of them and over every mixture of them.
  use Snakepit.Case, async: true
  import Snakepit.Terms

  @ways Snakepit.Transfer.ways()
  @chunk 256 * 1024
  # The inline limit, a size class, half a chunk (above it a buffer has a chunk of its own), a chunk, and a frame that
  # no longer fits the worker's first read.
  @edges [4096, 8192, 9216, div(@chunk, 2), @chunk, 65_536]

  setup_all do
    %{pool: pool!(size: 2, chunk_size: @chunk)}
  end

  for request <- @ways, reply <- @ways do
    @opts [request_transfer: request, reply_transfer: reply]

    test "terms come back exactly equal: request by #{request}, reply by #{reply}", %{pool: pool} do
      check("identity", [pool: pool] ++ @opts, 60)
    end

    test "new values come back exactly equal: request by #{request}, reply by #{reply}", %{pool: pool} do
      check("fresh", [pool: pool] ++ @opts, 30)
    end
  end

  test "terms come back exactly equal when Snakepit chooses", %{pool: pool} do
    check("identity", [pool: pool], 200)
    check("fresh", [pool: pool, copy: true], 60)
  end

  # PropEr of Debian 12 cannot catch on OTP 25, so a property answers and does not raise.
  defp check(tool, opts, runs) do
    property =
      :proper.forall(term(@edges), fn term ->
        answer = Snakepit.execute(tool, %{x: term}, opts)
        Process.put(:seen, {term, answer})
        answer === {:ok, back(term)}
      end)

    holds = :proper.quickcheck(property, [:quiet, :noshrink, {:numtests, runs}, {:max_size, 30}])
    {term, answer} = Process.get(:seen)

    assert holds == true, """
    sent:     #{inspect(term, limit: 20, printable_limit: 100)}
    came back: #{inspect(answer, limit: 20, printable_limit: 400)}
    """
  end

  for way <- @ways do
    describe "by #{way}" do
      @way way

      test "sizes around every limit come back equal", %{pool: pool} do
        for edge <- @edges ++ [1024 * 1024], size <- [edge - 1, edge, edge + 1] do
          data = :crypto.strong_rand_bytes(size)
          {result, seen} = Snakepit.observe("fresh", %{x: Snakepit.bytes(data)}, pool: pool, transfer: @way)
          assert result == {:ok, data}
          assert seen.request_way == @way
          if size >= 4096, do: assert(seen.reply_way == @way)
        end
      end

      test "many buffers in one call come back equal", %{pool: pool} do
        list = for i <- 1..300, do: Snakepit.bytes(:binary.copy(<<i::16>>, 2100 + i))
        assert {:ok, back} = Snakepit.execute("fresh", %{x: list}, pool: pool, transfer: @way)
        assert back == Enum.map(list, & &1.data)
      end

      test "a tensor of every type and shape comes back equal", %{pool: pool} do
        for {_, type} <- Tensor.types(), shape <- [{}, {0}, {7}, {3, 5}, {2, 0, 4}, {1, 1, 1}, {64, 64, 3}] do
          items = shape |> Tuple.to_list() |> Enum.product()
          bytes = items * Tensor.item_size(type)
          data = if type == {:bool, 8}, do: :binary.copy(<<1>>, bytes), else: :binary.copy(<<3>>, bytes)
          tensor = Tensor.new(data, type, shape)
          assert {:ok, ^tensor} = Snakepit.execute("fresh", %{x: tensor}, pool: pool, transfer: @way)
        end
      end

      test "an error leaves the worker usable, and names its place", %{pool: pool} do
        assert {:error, %Error{category: :python_error, python_type: "ValueError", message: "ValueError: no"}} =
                 Snakepit.execute("fail", %{}, pool: pool, transfer: @way)

        assert {:error, %Error{category: :validation}} =
                 Snakepit.execute("add", %{a: 1}, pool: pool, transfer: @way)

        assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, transfer: @way)
      end

      test "a stream's items come back equal, small and large", %{pool: pool} do
        opts = [pool: pool, request_transfer: @way]
        assert Enum.to_list(Snakepit.stream("count", %{n: 5}, opts)) == [0, 1, 2, 3, 4]
        blocks = Enum.to_list(Snakepit.stream("blocks", %{n: 3, size: 100_000}, opts))
        assert blocks == for(i <- 0..2, do: :binary.copy(<<i>>, 100_000))
      end
    end
  end

  test "a pool that allows zero_copy and grpc alone serves everything by them" do
    pool = pool!(transfers: [:zero_copy, :grpc])

    for size <- [0, 10, 5000, 1_000_000], opts <- [[], [transfer: :grpc], [zero_copy: false]] do
      data = :binary.copy(<<7>>, size)
      {result, seen} = Snakepit.observe("fresh", %{x: Snakepit.bytes(data)}, [pool: pool] ++ opts)
      assert result == {:ok, data}
      assert seen.request_way in [:zero_copy, :grpc]
      assert seen.reply_way in [:zero_copy, :grpc]
    end

    assert {:error, %Error{category: :validation, reason: :way_not_allowed}} =
             Snakepit.execute("identity", %{x: 1}, pool: pool, transfer: :inline)
  end
end
