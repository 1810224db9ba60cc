defmodule Snakepit.Worker.Run do
  @moduledoc false
  # One run of a worker's OS process, from its start to its end: what the worker's own process knows of it.
  #
  # `epoch` tells runs apart and is the owner id of this run's shared memory.
  # `phase`: :starting (until it connected) → :greeting (until its hello) → :importing (until ready) → :ready, and
  # :ending from any of them, until the process is known to be gone.

  alias Snakepit.Native

  @enforce_keys [:epoch, :id, :memory, :control, :token, :started_at]
  defstruct [
    :epoch,
    :id,
    :memory,
    :control,
    :token,
    :started_at,
    :os_pid,
    :timer,
    :companion,
    :heart,
    phase: :starting,
    lanes: [],
    lane_fds: [],
    tools: [],
    info: %{},
    failure: nil,
    grpc: nil,
    grpc_waiting: []
  ]

  @type t :: %__MODULE__{
          epoch: pos_integer(),
          id: Snakepit.Companion.id(),
          memory: Native.worker(),
          phase: :starting | :greeting | :importing | :ready | :ending
        }
end
