defmodule Snakepit.Wire.Reply do
  @moduledoc false
  # A worker's frame as what it says.

  alias Snakepit.Native

  @type t ::
          {:ok, kind :: atom(), term(), meta :: tuple()}
          | {:error, :value, path :: String.t(), reason :: atom(), what :: String.t()}
          | {:error, broken :: String.t()}
          | {:error, :closed | :timeout}

  @typedoc "Waits until the worker's control socket has announced a chunk; `:gone`: it never will, for the worker is gone."
  @type await_chunk :: (lane(), Native.chunk_id(), timeout() -> :ok | {:error, :unknown | :gone | :timeout})
  @typep lane :: %{:memory => Native.worker(), optional(atom()) => term()}

  @doc """
  Reads a frame, with the buffers that came `beside` it by gRPC.

  `{:error, :value, …}` is a sound frame whose value cannot be read; `{:error, what}` breaks the protocol. `copy?`: large
  binaries become the caller's own. A frame may overtake the message that announces its chunk: then `await_chunk` is
  called, which waits at most `timeout` (ms). `:closed`: the worker is gone.
  """
  @spec read(
          lane(),
          call_id :: pos_integer(),
          binary(),
          beside :: [binary()],
          copy? :: boolean(),
          await_chunk(),
          timeout()
        ) :: t()
  def read(%{memory: memory} = lane, call_id, frame, beside, copy?, await_chunk, timeout) do
    options = {copy?, function_exported?(Decimal, :new, 3), MapSet.new()}

    with {:error, :unknown_chunk, id} <- Native.reply(memory, call_id, frame, beside, options),
         :ok <- await_chunk.(lane, id, timeout) do
      Native.reply(memory, call_id, frame, beside, options)
    end
    |> case do
      {:error, :protocol, what} -> {:error, what}
      {:error, :unknown_chunk, id} -> {:error, "the reply refers to chunk #{id}, which was never announced"}
      {:error, :unknown} -> {:error, "the reply refers to a chunk that was never announced"}
      {:error, :gone} -> {:error, :closed}
      answer -> answer
    end
  end
end
