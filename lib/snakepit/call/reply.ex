defmodule Snakepit.Call.Reply do
  @moduledoc false
  # A worker's frame as what it says.

  alias Snakepit.{Native, Worker}
  alias Snakepit.Worker.Lane

  @type t ::
          {:ok, kind :: atom(), term(), meta :: tuple()}
          | {:error, :value, path :: String.t(), reason :: atom(), what :: String.t()}
          | {:error, broken :: String.t()}
          | {:error, :closed | :timeout}

  @doc """
  Reads a frame, with the buffers that came `beside` it by gRPC. `{:error, :value, …}` is a sound frame whose value is
  none; `{:error, what}` breaks the protocol. `copy?`: large binaries become the caller's own. Waits at most `timeout` for the
  worker's announcement of the memory that the frame refers to; `:closed`: the worker is gone.
  """
  @spec read(
          Lane.t(),
          call_id :: pos_integer(),
          binary(),
          beside :: [binary()],
          copy? :: boolean(),
          timeout()
        ) :: t()
  def read(lane, call_id, frame, beside, copy?, timeout) do
    options = {copy?, function_exported?(Decimal, :new, 3), MapSet.new()}

    with {:error, :unknown_chunk, id} <- Native.reply(lane.memory, call_id, frame, beside, options),
         # It may have overtaken the message that announces the chunk.
         :ok <- Worker.await_chunk(lane, id, timeout) do
      Native.reply(lane.memory, call_id, frame, beside, options)
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
