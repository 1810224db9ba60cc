defmodule Snakepit.Performance.Model.Probe do
  @moduledoc false
  # A call of the command that does nothing (`Snakepit.Transfer.probe_command/0`), for measuring's sake: it takes a payload,
  # or returns one.

  alias Snakepit.{Bytes, Error, Observation, Performance, Tensor, Transfer}
  alias Snakepit.Pool.Handle

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

    case handle.performance.call.(Transfer.probe_command(), args, [pool: handle.name] ++ forced ++ opts) do
      {{:ok, _}, seen} -> {:ok, seen}
      {{:error, error}, _seen} -> {:error, error}
    end
  end
end
