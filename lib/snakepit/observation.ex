defmodule Snakepit.Observation do
  @moduledoc """
  The cost of one call, which `Snakepit.observe/3` returns with the result. Times in nanoseconds, sizes in bytes.

  | field | meaning |
  |---|---|
  | `request_way`, `reply_way` | the way the buffers took, `nil` if the call did not come that far |
  | `request_bytes` | out-of-band bytes of the arguments |
  | `reply_bytes` | bytes of the result, envelope included |
  | `copied_bytes` | bytes copied into shared memory; fewer than `request_bytes` when some lay there already |
  | `queue_ns` | waiting for a lane |
  | `tool_ns` | the tool itself, as the worker measured it |
  | `gil_ns` | waiting for the interpreter's lock, which another thread of the worker held when the request came; to an eighth, 0 below 1 µs and for calls by gRPC |
  | `total_ns` | everything, from `execute` to its return |
  | `retries` | how often the call was tried again: see the option `idempotent:` |
  | `correlation_id` | the option of the call |
  | `fallback` | whether a cheaper way was tried or wanted first |
  | `cold` | whether the call made fresh shared memory for its arguments |
  """

  defstruct [
    :pool,
    :worker,
    :command,
    :request_way,
    :reply_way,
    :correlation_id,
    request_bytes: 0,
    reply_bytes: 0,
    copied_bytes: 0,
    queue_ns: 0,
    tool_ns: 0,
    gil_ns: 0,
    total_ns: 0,
    retries: 0,
    fallback: false,
    cold: false
  ]

  @type t :: %__MODULE__{
          pool: atom(),
          worker: String.t() | nil,
          command: String.t() | nil,
          request_way: Snakepit.Transfer.way() | nil,
          reply_way: Snakepit.Transfer.way() | nil,
          correlation_id: String.t() | nil,
          request_bytes: non_neg_integer(),
          reply_bytes: non_neg_integer(),
          copied_bytes: non_neg_integer(),
          queue_ns: non_neg_integer(),
          tool_ns: non_neg_integer(),
          gil_ns: non_neg_integer(),
          total_ns: non_neg_integer(),
          retries: non_neg_integer(),
          fallback: boolean(),
          cold: boolean()
        }

  @doc "Nanoseconds that the call took, without its tool and its waits: for a lane, and for the interpreter's lock."
  @spec transfer_ns(t()) :: non_neg_integer()
  def transfer_ns(%__MODULE__{} = seen),
    do: max(seen.total_ns - seen.queue_ns - seen.tool_ns - seen.gil_ns, 0)
end
