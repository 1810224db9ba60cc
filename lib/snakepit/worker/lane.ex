defmodule Snakepit.Worker.Lane do
  @moduledoc false
  # One place to run a call: a socket to one thread of one worker. The caller that has checked it out owns it alone.

  @enforce_keys [:worker, :run, :name, :index, :number, :socket, :fd, :memory, :zero_copy, :grpc]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          worker: pid(),
          run: pos_integer(),
          name: String.t(),
          index: non_neg_integer(),
          number: non_neg_integer(),
          socket: Snakepit.Native.lane(),
          fd: non_neg_integer(),
          memory: Snakepit.Native.worker(),
          zero_copy: boolean(),
          grpc: boolean()
        }
end
