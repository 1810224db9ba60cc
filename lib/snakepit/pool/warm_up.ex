defmodule Snakepit.Pool.WarmUp do
  @moduledoc false
  # The calls of a pool's `warm_up:`, as a worker is given them with its settings: envelopes of requests
  # (native/PROTOCOL.md) with all bytes inside.

  alias Snakepit.Native

  # They go in one control message, of 16 MiB at most.
  @most_bytes 8 * 1024 * 1024
  # No value goes beside the envelope.
  @nothing_beside 0xFFFF_FFFF

  @type call :: {command :: String.t(), args :: map()}

  @doc "The envelopes of the calls, or what cannot be sent, in words that go on from `warm_up`."
  @spec envelopes([call()]) :: {:ok, [binary()]} | {:error, String.t()}
  def envelopes(calls) do
    with {:ok, envelopes} <- each(calls, 0, []) do
      bytes = envelopes |> Enum.map(&byte_size/1) |> Enum.sum()

      if bytes <= @most_bytes,
        do: {:ok, envelopes},
        else:
          {:error,
           ": its arguments have #{bytes} bytes, at most #{@most_bytes} can go: make large ones in @snakepit.on_start"}
    end
  end

  defp each([], _n, done), do: {:ok, Enum.reverse(done)}

  defp each([{command, args} | rest], n, done) do
    case encode(command, args) do
      {:ok, envelope} -> each(rest, n + 1, [envelope | done])
      {:error, words} -> {:error, "[#{n}] (#{inspect(command)}): #{words}"}
    end
  end

  defp encode(command, args) do
    case Native.encode(command, args, nil, @nothing_beside) do
      {:ok, envelope, [], _size} ->
        {:ok, IO.iodata_to_binary(envelope)}

      {:ok, _envelope, _buffers, _size} ->
        {:error, "a value is larger than #{@most_bytes} bytes"}

      :convert ->
        encode(command, Snakepit.Transfer.Convert.term(args))

      {:error, path, :not_utf8, what} ->
        {:error, "#{path}: #{what}: wrap it with Snakepit.bytes/1 to send it as bytes"}

      {:error, path, :unsupported_type, what} ->
        {:error, "#{path}: #{what} cannot be sent to Python"}

      {:error, path, _reason, what} ->
        {:error, "#{path}: #{what}"}
    end
  end
end
