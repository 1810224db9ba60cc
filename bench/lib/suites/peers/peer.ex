defmodule Snakepit.Bench.Peer do
  @moduledoc """
  Another way to call Python, or Snakepit itself, as the suite `peers` compares them: bytes to a Python process and the
  same bytes back.
  """

  @typedoc "A pool of the bench's tools, and the interpreter that has the peers' packages."
  @type context :: %{pool: atom(), python: Path.t()}

  @typedoc "As figures name it: letters, digits and `_`."
  @type name :: String.t()

  @doc "Which there are, and what they are."
  @callback peers() :: [{name(), about :: String.t()}]

  @doc "Starts what one of them needs. A peer that cannot run here is absent, and has no figures."
  @callback start(name(), context()) :: {:ok, state :: term()} | {:absent, why :: String.t()}

  @doc """
  Nanoseconds of each of `count` round trips; none where so many bytes cannot go this way. Every result is compared, outside
  of its time; another one raises.
  """
  @callback round_trips(state :: term(), data :: binary(), count :: pos_integer()) :: [pos_integer()]

  @callback stop(state :: term()) :: any()

  @doc "As `c:round_trips/3`, of a function that returns the bytes it got back."
  @spec measure((() -> binary()), binary(), pos_integer()) :: [pos_integer()]
  def measure(round_trip, data, count) do
    for _ <- 1..count do
      started = :erlang.monotonic_time(:nanosecond)
      got = round_trip.()
      took = :erlang.monotonic_time(:nanosecond) - started
      got == data || raise "#{byte_size(got)} other bytes came back"
      # As a user would: it is dropped before the next call.
      Snakepit.release(got)
      took
    end
  end

  @doc "Bytes that differ from place to place; the Python drivers make the same ones."
  @spec payload(non_neg_integer()) :: binary()
  def payload(size) do
    pattern = for n <- 0..250, into: <<>>, do: <<n>>
    pattern |> :binary.copy(div(size, 251) + 1) |> binary_part(0, size) |> :binary.copy()
  end
end
