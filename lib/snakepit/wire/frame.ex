defmodule Snakepit.Wire.Frame do
  @moduledoc false
  # The header of a lane frame: its kinds, its flags and where its fields lie (native/PROTOCOL.md, "Lane frames").
  # No other module of Elixir knows these numbers. A test compares them with the protocol's text and with the library.

  import Bitwise, only: [&&&: 2]
  alias Snakepit.Transfer

  @header 32

  @request_kinds [call: 1, fetch: 2, synchronize: 3]
  @request_flags [forced: 1, stream: 2, spin: 4, returned: 8]
  @reply_kinds [result: 1, error: 2, item: 3, end: 4, fetch: 5]
  # The last two are not sent: the library adds them when it has read a reply.
  @reply_flags [starved: 1, in_place: 2, collect_minor: 4, collect_major: 8]

  @inline Transfer.number(:inline)
  @longest_ms 0xFFFFFFFF

  @type request_kind :: :call | :fetch | :synchronize
  @type reply_kind :: :result | :error | :item | :end | :fetch
  @typedoc "The flags of a frame, added up."
  @type flags :: byte()
  @typedoc "What the library needs to write a request's header."
  @type head :: Snakepit.Native.head()

  @doc "Bytes of a header."
  @spec header() :: pos_integer()
  def header, do: @header

  @spec request_kinds() :: keyword(pos_integer())
  def request_kinds, do: @request_kinds

  @spec request_flags() :: keyword(pos_integer())
  def request_flags, do: @request_flags

  @spec reply_kinds() :: keyword(pos_integer())
  def reply_kinds, do: @reply_kinds

  @spec reply_flags() :: keyword(pos_integer())
  def reply_flags, do: @reply_flags

  # ---- requests ---------------------------------------------------------------------------------------------------

  @doc "The head of a request; `reply_mask` has the ways its reply may take, `timeout` is what the caller will wait."
  @spec head(
          request_kind(),
          Transfer.way(),
          reply_mask :: 1..7,
          flags(),
          timeout(),
          lane :: non_neg_integer()
        ) ::
          head()
  def head(kind, way, reply_mask, flags, timeout, lane),
    do: {number(kind), Transfer.number(way), reply_mask, flags, milliseconds(timeout), lane}

  for {kind, number} <- @request_kinds do
    defp number(unquote(kind)), do: unquote(number)
  end

  # On the wire, 0 is for ever.
  defp milliseconds(:infinity), do: 0
  defp milliseconds(ms), do: ms |> max(1) |> min(@longest_ms)

  @doc "One flag, or none."
  @spec flag(boolean(), :forced | :stream | :spin | :returned) :: flags()
  def flag(false, _name), do: 0

  for {name, bit} <- @request_flags do
    def flag(true, unquote(name)), do: unquote(bit)
  end

  @doc "The same request under the id of another call: a fetch names the call whose reply it wants."
  @spec with_id(binary(), pos_integer()) :: binary()
  def with_id(<<before::binary-size(8), _id::64, rest::binary>>, id),
    do: <<before::binary, id::64-little, rest::binary>>

  @doc "A request as the worker reads it: its header, and what follows."
  @spec read_request(binary()) :: {map(), rest :: binary()}
  def read_request(
        <<kind, way, reply_mask, flags, envelope::32-little, id::64-little, timeout::32-little,
          buffers::32-little, freed::32-little, lane::16-little, _core::16, rest::binary>>
      ) do
    {name, _number} = List.keyfind(@request_kinds, kind, 1)

    {%{
       kind: name,
       way: Transfer.from_number(way),
       reply_mask: reply_mask,
       flags: for({flag, bit} <- @request_flags, (flags &&& bit) != 0, do: flag),
       envelope: envelope,
       id: id,
       timeout: timeout,
       buffers: buffers,
       freed: freed,
       lane: lane
     }, rest}
  end

  # ---- replies ----------------------------------------------------------------------------------------------------

  @doc "The header of a reply that releases no tokens."
  @spec reply_header(
          reply_kind(),
          Transfer.way(),
          envelope :: non_neg_integer(),
          id :: pos_integer(),
          tool_ns :: non_neg_integer(),
          buffers :: non_neg_integer()
        ) :: binary()
  def reply_header(kind, way, envelope, id, tool_ns, buffers) do
    <<@reply_kinds[kind], Transfer.number(way), 0, 0, envelope::32-little, id::64-little, tool_ns::64-little,
      buffers::32-little, 0::32>>
  end

  @doc "The call that a reply belongs to; `:error` where a frame is shorter than a header."
  @spec id(binary()) :: {:ok, non_neg_integer()} | :error
  def id(<<_before::binary-size(8), id::64-little, _rest::binary-size(16), _body::binary>>), do: {:ok, id}
  def id(_short), do: :error

  @doc """
  Whether a frame is the one reply of a call, inline, and releases no tokens: nothing is lost if its caller dies before
  it has read it.
  """
  @spec self_contained?(binary()) :: boolean()
  def self_contained?(<<kind, @inline, _::binary-size(26), 0::32, _::binary>>)
      when kind == unquote(@reply_kinds[:result]) or kind == unquote(@reply_kinds[:error]),
      do: true

  def self_contained?(_frame), do: false

  @doc "A larger or warmer arena would have let the reply go by shared memory."
  @spec starved?(flags()) :: boolean()
  def starved?(flags), do: (flags &&& unquote(@reply_flags[:starved])) != 0

  @doc "No buffer of the reply was copied: all of them were in the worker's arena already."
  @spec in_place?(flags()) :: boolean()
  def in_place?(flags), do: (flags &&& unquote(@reply_flags[:in_place])) != 0

  @doc "The garbage collection that the caller owes, since its garbage keeps a good part of the worker's memory."
  @spec collection(flags()) :: :major | :minor | nil
  def collection(flags) when (flags &&& unquote(@reply_flags[:collect_major])) != 0, do: :major
  def collection(flags) when (flags &&& unquote(@reply_flags[:collect_minor])) != 0, do: :minor
  def collection(_flags), do: nil
end
