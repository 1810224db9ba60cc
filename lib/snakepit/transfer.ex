defmodule Snakepit.Transfer do
  @moduledoc """
  The ways a call's bytes may take, and the order in which they are tried where no measurements decide. Pure.

  A call with no large part goes inline; others go by shared memory, else inline, else by gRPC. If a way fails, the next one is
  tried, unless the caller forced it. A way that failed too often (`Snakepit.Breaker`) is passed over for a while.
  """

  import Bitwise

  @type way :: :zero_copy | :inline | :grpc
  @type choice :: :auto | way()

  @numbers %{inline: 0, zero_copy: 1, grpc: 2}
  # A lane's frame length and gRPC's message length are signed 32-bit numbers.
  @largest_message 0x7FFFFFFF
  # Left for header, tokens, and of up to 65,536 buffers each an entry in the table (32 bytes) or its length and the
  # gap before it (71).
  @room 0x800000

  @doc "Every way."
  @spec ways() :: [way()]
  def ways, do: [:zero_copy, :inline, :grpc]

  @doc "The ways that have a breaker in every pool. Inline has none: it is what is left when nothing else works."
  @spec guarded() :: [way()]
  def guarded, do: [:zero_copy, :grpc]

  @doc """
  The ways of `allowed` that can carry a request with `bytes` out of band, in the order in which they are tried where
  nothing was measured.
  """
  @spec usual_order(non_neg_integer(), envelope :: non_neg_integer(), [way()]) :: [way()]
  def usual_order(bytes, envelope, allowed) do
    order = if bytes == 0, do: [:inline, :zero_copy, :grpc], else: [:zero_copy, :inline, :grpc]
    among(order, allowed, bytes, envelope)
  end

  @doc "The ways in `order` that are `allowed` and can carry so much."
  @spec among([way()], [way()], bytes :: non_neg_integer(), envelope :: non_neg_integer()) :: [way()]
  # All three, each once.
  def among([_, _, _] = order, [_, _, _], bytes, envelope) when bytes + envelope < @largest_message - @room,
    do: order

  def among(order, allowed, bytes, envelope),
    do: for(way <- order, way in allowed, carries?(way, bytes, envelope), do: way)

  defp carries?(:zero_copy, _bytes, envelope), do: envelope < @largest_message - @room
  defp carries?(_message, bytes, envelope), do: bytes + envelope < @largest_message - @room

  @doc "The largest frame or gRPC message, in bytes."
  @spec largest_message() :: pos_integer()
  def largest_message, do: @largest_message

  @doc "The number of a way on the wire."
  @spec number(way()) :: 0..2
  for {way, number} <- @numbers do
    def number(unquote(way)), do: unquote(number)
  end

  @doc "The way with this number."
  @spec from_number(0..2) :: way()
  def from_number(0), do: :inline
  def from_number(1), do: :zero_copy
  def from_number(2), do: :grpc

  @doc "The ways as a mask: bit `n` is way number `n`."
  @spec mask([way()]) :: 0..7
  # Read on the way of every call: a clause for each order of each subset is faster than a loop.
  ways = Map.keys(@numbers)
  pairs = for a <- ways, b <- ways -- [a], do: [a, b]
  triples = for [a, b] <- pairs, do: [a, b | ways -- [a, b]]

  for order <- [[]] ++ Enum.map(ways, &[&1]) ++ pairs ++ triples do
    mask = Enum.reduce(order, 0, &(&2 ||| 1 <<< @numbers[&1]))
    def mask(unquote(order)), do: unquote(mask)
  end

  @doc "The command that does nothing, for measuring's sake. No counter counts its calls, and no event has them."
  @spec probe_command() :: String.t()
  def probe_command, do: "snakepit.probe"
end
