defmodule Snakepit.Test.Frame do
  @moduledoc false
  # Lane frames (native/PROTOCOL.md) from the worker's side, with the codec of the library in the other direction: a
  # request is read as if it were a reply, for both are laid out alike behind their headers, and a result is encoded as
  # if it were a request's arguments. So a fake tool gets the values that a real tool would get, and so does its caller.

  alias Snakepit.Native
  alias Snakepit.Test.{Kinds, Words}
  alias Snakepit.Transfer.Convert
  alias Snakepit.Wire.Frame

  @align 64
  # A result has nothing beside its envelope.
  @no_limit 0xFFFF_FFFF_FFFF
  # A request's envelope around its arguments: an array of three and an empty command; then nil.
  @around <<0x93, 0xA0>>

  @type request :: %{
          kind: :call | :synchronize,
          id: pos_integer(),
          mask: 1..7,
          stream?: boolean(),
          returned?: boolean(),
          parts: {envelope :: binary(), buffers :: [binary()]},
          tokens: [Native.token()]
        }
  @type caller :: %{session: String.t() | nil, correlation_id: String.t() | nil, chain: [pid() | atom()]}

  @doc "A request, with copies of what it has in shared memory, whose `tokens` the worker then returns."
  @spec read(binary()) :: request()
  def read(frame) do
    {%{way: way, envelope: size, freed: freed} = head, body} = Frame.read_request(frame)
    table_size = head.buffers * if(way == :zero_copy, do: 32, else: 8)

    <<table::binary-size(table_size), _freed::binary-size(freed)-unit(64), envelope::binary-size(size),
      beside::binary>> = body

    {buffers, tokens} =
      if way == :zero_copy,
        do: table |> places() |> Enum.unzip(),
        else: {inline(table, beside, Frame.header() + table_size + freed * 8 + size), []}

    %{
      kind: head.kind,
      id: head.id,
      mask: head.reply_mask,
      stream?: :stream in head.flags,
      returned?: :returned in head.flags,
      parts: {envelope, buffers},
      tokens: tokens
    }
  end

  defp inline(table, beside, before) do
    lengths = for <<length::64-little <- table>>, do: length

    {buffers, _} =
      Enum.map_reduce(lengths, {beside, before}, fn length, {bytes, at} ->
        gap = padding(at)
        <<_::binary-size(gap), buffer::binary-size(length), rest::binary>> = bytes
        {buffer, {rest, at + gap + length}}
      end)

    buffers
  end

  # Both are in this VM: the chunk is read by its descriptor.
  defp places(table) do
    for <<chunk::64-little, offset::64-little, length::64-little, token::64-little <- table>> do
      {:ok, fd, _size, ref} = Native.chunk_fd(chunk)
      {:ok, file} = :file.open("/proc/self/fd/#{fd}", [:raw, :read, :binary])
      Native.chunk_sent(ref)
      {:ok, bytes} = if length == 0, do: {:ok, ""}, else: :file.pread(file, offset, length)
      :file.close(file)
      {bytes, token}
    end
  end

  @doc "Command, arguments, their kinds, and the caller; or the error reply. `memory`: any worker's, for the library."
  @spec decode(request(), Native.worker()) ::
          {:ok, String.t(), map(), [{String.t() | integer(), Kinds.kind()}], caller()} | {:error, map()}
  def decode(%{id: id, parts: {envelope, buffers}}, memory) do
    lengths = for buffer <- buffers, into: <<>>, do: <<byte_size(buffer)::64-little>>
    head = Frame.reply_header(:result, :inline, byte_size(envelope), id, 0, length(buffers))
    head = head <> lengths <> envelope
    frame = IO.iodata_to_binary([head | padded(buffers, byte_size(head))])

    case Native.reply(memory, id, frame, [], options()) do
      {:ok, :result, [command, args, caller], _meta} ->
        with :ok <- sets(args, "args"), do: {:ok, command, args, Kinds.of(envelope), caller(caller)}

      # The arguments are the second of the three. Members of a set that are one in Elixir are a str and bytes, or, as
      # Python would refuse them too, a str twice.
      {:error, :value, "result[1]" <> steps, reason, what} ->
        reason = if reason == :key_collision, do: :bad_set, else: reason
        {:error, refusal("validation", reason, "args#{steps}: #{what}", "args" <> steps, nil)}

      {:error, :protocol, what} ->
        {:error, refusal("validation", :bad_envelope, "the request cannot be read: #{what}", "args", nil)}
    end
  end

  # The buffers are copied, so that a function that keeps one does not keep the frame.
  defp options, do: {true, function_exported?(Decimal, :new, 3), MapSet.new()}

  defp caller([[session, chain], correlation_id]),
    do: %{session: session, correlation_id: correlation_id, chain: :erlang.binary_to_term(chain)}

  defp padded([], _at), do: []

  defp padded([buffer | rest], at) do
    gap = padding(at)
    [<<0::size(gap)-unit(8)>>, buffer | padded(rest, at + gap + byte_size(buffer))]
  end

  # Both are counted from the header's first byte, which has a multiple of it.
  defp padding(at), do: rem(@align - rem(at, @align), @align)

  # ---- values that Python refuses ----------------------------------------------------------------------------------

  # Sets that Python cannot have.
  defp sets(%MapSet{} = set, path) do
    members = MapSet.to_list(set)

    cond do
      type = Enum.find_value(members, &unhashable/1) ->
        bad_set(path, "Python cannot have this in a set: unhashable type: '#{type}'")

      members |> Enum.map(&as_equal/1) |> Enum.uniq() |> length() != length(members) ->
        bad_set(path, "elements of this set are equal in Python (1, 1.0 and True are)")

      true ->
        :ok
    end
  end

  defp sets(%_struct{}, _path), do: :ok
  defp sets(%{} = map, path), do: each(map, fn {key, value} -> sets(value, path <> Words.step(key)) end)

  defp sets(tuple, path) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> sets(path)

  defp sets(list, path) when is_list(list),
    do: list |> Enum.with_index() |> each(fn {item, i} -> sets(item, path <> Words.step(i)) end)

  defp sets(_plain, _path), do: :ok

  defp each(items, fun), do: Enum.find_value(items, :ok, &with(:ok <- fun.(&1), do: nil))

  defp bad_set(path, what), do: {:error, refusal("validation", :bad_set, "#{path}: #{what}", path, nil)}

  defp unhashable(%MapSet{}), do: "set"
  defp unhashable(%Snakepit.Tensor{}), do: "numpy.ndarray"
  defp unhashable(%_struct{}), do: nil
  defp unhashable(%{}), do: "dict"
  defp unhashable(list) when is_list(list), do: "list"
  defp unhashable(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> Enum.find_value(&unhashable/1)
  defp unhashable(_plain), do: nil

  defp as_equal(true), do: 1
  defp as_equal(false), do: 0
  defp as_equal(x) when is_float(x), do: if(x == trunc(x), do: trunc(x), else: x)
  defp as_equal(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> Enum.map(&as_equal/1)
  defp as_equal(other), do: other

  # ---- replies ----------------------------------------------------------------------------------------------------

  @doc "A value's envelope; or the error reply if it cannot cross. `root`: what paths begin with."
  @spec encode(term(), String.t()) :: {:ok, binary()} | {:error, map()}
  def encode(value, root), do: encode(value, root, false)

  defp encode(value, root, again?) do
    case Native.encode("", value, nil, @no_limit) do
      {:ok, <<@around, rest::binary>>, [], _size} ->
        {:ok, binary_part(rest, 0, byte_size(rest) - 1)}

      :convert ->
        value |> Convert.term() |> encode(root, again?)

      # Python's bytes come back as binaries, and so a binary that is no text is bytes.
      {:error, _path, :not_utf8, _what} when not again? ->
        value |> with_bytes() |> encode(root, true)

      {:error, "args" <> steps, :unsupported_type, what} ->
        path = root <> steps
        {:error, refusal("python_error", :unsupported_type, "#{path}: #{what} cannot cross", path, what)}

      {:error, "args" <> steps, reason, what} ->
        path = root <> steps
        {:error, refusal("python_error", reason, "#{path}: #{what}", path, nil)}
    end
  end

  defp with_bytes(binary) when is_binary(binary),
    do: if(String.valid?(binary), do: binary, else: Snakepit.bytes(binary))

  defp with_bytes(%MapSet{} = set), do: MapSet.new(set, &with_bytes/1)
  defp with_bytes(%_struct{} = other), do: other
  defp with_bytes(%{} = map), do: Map.new(map, fn {key, value} -> {key, with_bytes(value)} end)
  defp with_bytes([head | tail]), do: [with_bytes(head) | with_bytes(tail)]

  defp with_bytes(tuple) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> Enum.map(&with_bytes/1) |> List.to_tuple()

  defp with_bytes(other), do: other

  @doc "An error reply's map."
  @spec refusal(String.t(), atom() | String.t(), String.t(), String.t() | nil, String.t() | nil) :: map()
  def refusal(category, reason, message, path, type) do
    %{
      "category" => category,
      "reason" => to_string(reason),
      "message" => message,
      "path" => path,
      "type" => type
    }
  end

  @doc "The reply to a request, prefix included. `body`: an envelope, or an error reply's map."
  @spec reply(request(), :result | :error | :item | :end, binary() | map(), tool_ns :: non_neg_integer()) ::
          iodata()
  def reply(request, :error, %{} = error, ns) do
    {:ok, envelope} = Native.pack(error)
    reply(request, :error, envelope, ns)
  end

  def reply(%{id: id, mask: mask}, kind, envelope, ns) do
    # Nothing is beside the envelope, so the way is a name alone; gRPC is none of a fake pool's.
    way = if Bitwise.band(mask, 1) != 0, do: :inline, else: :zero_copy
    head = Frame.reply_header(kind, way, byte_size(envelope), id, ns, 0)
    [<<byte_size(head) + byte_size(envelope)::32>>, head, envelope]
  end
end
