defmodule Snakepit.Wire.FrameTest do
  # The numbers of Elixir, of the protocol's text and of the library are the same.
  use ExUnit.Case, async: true
  alias Snakepit.{Native, Transfer}
  alias Snakepit.Wire.Frame

  @protocol "native/PROTOCOL.md"
            |> File.read!()
            |> String.split("## Lane frames")
            |> Enum.at(1)
            |> String.split("## gRPC")
            |> hd()

  # %{offset => {bits, field}}
  defp table(title) do
    @protocol
    |> String.split("\n#{title} (header #{Frame.header()} bytes):\n")
    |> Enum.at(1)
    |> String.split("\n")
    |> Enum.drop_while(&(not String.starts_with?(&1, "|")))
    |> Enum.take_while(&String.starts_with?(&1, "|"))
    |> Enum.flat_map(&Regex.scan(~r/^\| (\d+) \| u(\d+) \| (.*) \|$/, &1, capture: :all_but_first))
    |> Map.new(fn [offset, bits, field] -> {String.to_integer(offset), {String.to_integer(bits), field}} end)
  end

  defp numbers(text),
    do: for([n] <- Regex.scan(~r/(?<![\w.-])(\d+) /, text, capture: :all_but_first), do: String.to_integer(n))

  # A request in which every field has another value.
  defp request(kind) do
    {arena, _owner} = Native.arena_new(1_048_576, 1_048_576)
    {memory, _owner} = Native.worker_new(arena, 1_048_576)
    head = Frame.head(kind, :grpc, Transfer.mask([:inline, :grpc]), Frame.flag(true, :returned), 70_000, 7)
    {:ok, id, frame, [], 0} = Native.request(memory, arena, head, "envelope", ["a buffer"])
    {id, IO.iodata_to_binary(frame), memory}
  end

  test "a request that the library writes is read back" do
    for kind <- Keyword.keys(Frame.request_kinds()) do
      {id, frame, _memory} = request(kind)
      {head, rest} = Frame.read_request(frame)

      assert head == %{
               kind: kind,
               way: :grpc,
               reply_mask: 0b101,
               flags: [:returned],
               envelope: 8,
               id: id,
               timeout: 70_000,
               buffers: 1,
               freed: 0,
               lane: 7
             }

      assert rest == <<8::64-little, "envelope">>
      assert {%{id: 99}, ^rest} = frame |> Frame.with_id(99) |> Frame.read_request()
    end
  end

  test "a reply of every kind is what the library takes it for" do
    {:ok, value} = Native.pack("value")
    {:ok, error} = Native.pack(%{"category" => "worker", "reason" => "r", "message" => "m"})

    for kind <- Keyword.keys(Frame.reply_kinds()) do
      {id, _frame, memory} = request(:call)
      envelope = if kind == :error, do: error, else: value
      header = Frame.reply_header(kind, :inline, byte_size(envelope), id, 5, 0)
      assert byte_size(header) == Frame.header()
      frame = header <> envelope
      options = {false, false, MapSet.new()}

      case Native.reply(memory, id, frame, [], options) do
        {:ok, read, _term, {0, _bytes, 5, 0, 0}} -> assert read == kind
        # Its one nil byte is missing.
        {:error, :protocol, _what} -> assert kind == :fetch
      end

      assert Frame.id(frame) == {:ok, id}
      assert Frame.self_contained?(frame) == kind in [:result, :error]
    end

    assert Frame.id("short") == :error
  end

  test "the protocol's text has the same fields, kinds and flags" do
    request = table("Request")

    assert Map.new(request, fn {offset, {bits, _}} -> {offset, bits} end) ==
             %{
               0 => 8,
               1 => 8,
               2 => 8,
               3 => 8,
               4 => 32,
               8 => 64,
               16 => 32,
               20 => 32,
               24 => 32,
               28 => 16,
               30 => 16
             }

    {8, "kind: " <> kinds} = request[0]
    for {kind, number} <- Frame.request_kinds(), do: assert(kinds =~ "#{number} #{kind}")
    assert Enum.sort(numbers(kinds)) == Enum.sort(Keyword.values(Frame.request_kinds()))
    {8, "flags: " <> flags} = request[3]
    assert Enum.sort(numbers(flags)) == Enum.sort(Keyword.values(Frame.request_flags()))

    reply = table("Reply")

    assert Map.new(reply, fn {offset, {bits, _}} -> {offset, bits} end) ==
             %{0 => 8, 1 => 8, 2 => 8, 3 => 8, 4 => 32, 8 => 64, 16 => 64, 24 => 32, 28 => 32}

    {8, "kind: " <> kinds} = reply[0]
    assert Enum.sort(numbers(kinds)) == Enum.sort(Keyword.values(Frame.reply_kinds()))

    for {kind, word} <- [
          result: "result",
          error: "error",
          item: "item",
          end: "end",
          fetch: "waits to be fetched"
        ],
        do: assert(kinds =~ "#{Frame.reply_kinds()[kind]} #{word}")

    {8, "flags: " <> flags} = reply[2]
    # The other two are the library's own.
    assert Enum.sort(numbers(flags)) == [Frame.reply_flags()[:starved], Frame.reply_flags()[:in_place]]
    assert @protocol =~ "Ways are 0 inline, 1 zero_copy, 2 grpc"
    for {way, number} <- [inline: 0, zero_copy: 1, grpc: 2], do: assert(Transfer.number(way) == number)
  end
end
