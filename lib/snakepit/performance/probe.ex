defmodule Snakepit.Performance.Probe do
  @moduledoc false
  # A call of the command that does nothing (priv/python/snakepit/tools/probe.py), for measuring's sake: it takes a payload, or
  # returns one.

  alias Snakepit.{Bytes, Call, Error, Observation, Performance, Tensor, Transfer}
  alias Snakepit.Pool.Handle

  @command "snakepit.probe"

  @doc "Its name. No counter counts its calls, and nobody is told of them."
  @spec command() :: String.t()
  def command, do: @command

  @doc "So many bytes of this type, for a request; a reply needs none."
  @spec payload(Performance.direction(), :binary | :string | :tensor, non_neg_integer()) :: term()
  def payload(:reply, _type, _size), do: nil
  def payload(:request, :binary, size), do: %Bytes{data: :binary.copy(<<7>>, size)}
  def payload(:request, :string, size), do: :binary.copy("7", size)
  def payload(:request, :tensor, size), do: Tensor.new(:binary.copy(<<7>>, size), :u8)

  @doc "One call that carries `size` bytes in this direction, which for a request are `payload`; `way` nil is any."
  @spec run(Handle.t(), Performance.direction(), term(), non_neg_integer(), Transfer.way() | nil, keyword()) ::
          {:ok, Observation.t()} | {:error, Error.t()}
  def run(handle, direction, payload, size, way, opts \\ []) do
    {args, force} =
      if direction == :request, do: {%{x: payload}, :request_transfer}, else: {%{n: size}, :reply_transfer}

    forced = if way, do: [{force, way}], else: []

    case Call.run(@command, args, [pool: handle.name] ++ forced ++ opts) do
      {{:ok, _}, seen} -> {:ok, seen}
      {{:error, error}, _seen} -> {:error, error}
    end
  end
end
