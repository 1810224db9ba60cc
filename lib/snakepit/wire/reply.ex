defmodule Snakepit.Wire.Reply do
  @moduledoc false
  # A worker's frame as what it says.

  alias Snakepit.Native

  @type t ::
          {:ok, kind :: atom(), term(), meta :: tuple()}
          | {:error, :value, path :: String.t(), reason :: atom(), what :: String.t()}
          | {:error, broken :: String.t()}

  @typedoc "Waits until the worker's control socket has announced a chunk; `worker` is what the caller knows it by."
  @type await_chunk :: (worker :: term(), Native.chunk_id() -> :ok | :error)

  @doc """
  Reads a frame, with the buffers that came `beside` it by gRPC.

  `{:error, :value, …}` is a sound frame whose value cannot be read; `{:error, what}` breaks the protocol. `copy?`: large
  binaries become the caller's own. A frame may overtake the message that announces its chunk: then `await_chunk` is
  called with `worker`.
  """
  @spec read(
          Native.worker(),
          call_id :: pos_integer(),
          binary(),
          beside :: [binary()],
          copy? :: boolean(),
          await_chunk(),
          worker :: term()
        ) :: t()
  def read(memory, call_id, frame, beside, copy?, await_chunk, worker) do
    options = {copy?, function_exported?(Decimal, :new, 3), MapSet.new()}

    with {:error, :unknown_chunk, id} <- Native.reply(memory, call_id, frame, beside, options),
         :ok <- await_chunk.(worker, id) do
      Native.reply(memory, call_id, frame, beside, options)
    end
    |> case do
      {:error, :protocol, what} -> {:error, what}
      {:error, :unknown_chunk, id} -> {:error, "the reply refers to chunk #{id}, which was never announced"}
      :error -> {:error, "the reply refers to a chunk that was never announced"}
      answer -> answer
    end
  end
end
