defmodule Snakepit.Error do
  @moduledoc """
  Why a call, or the start of a pool, failed.

  | category | who can mend it |
  |---|---|
  | `:validation` | the caller: a wrong command, argument, option or value; the message says where |
  | `:python_error` | the tool: it raised, or returned what Elixir cannot hold |
  | `:worker` | nobody at the keyboard: the worker exited, was killed or broke the protocol |
  | `:timeout` | the deadline passed, in the queue or while the tool ran |
  | `:pool` | the pool is saturated, stopped or failed to start, or its workers keep dying |
  | `:transfer` | the bytes could not travel by the way that was forced, or are too many |
  | `:grpc_error` | the gRPC call failed |

  Reason `:breaker_open` is one of `:transfer`, when the way that was forced is left alone because it failed too often or
  was isolated (`details.retry_in_ms` says when it is tried again), and of `:pool`, when every worker died young without
  a call. `:command_breaker_open` of `:pool` is told to calls of a command whose calls ended too many workers
  (`Snakepit.reset_command/2`); `details` has `:command`, `:deaths`, `:last` and `:retry_in_ms`.

  `reason` is an atom, or a tuple that starts with one; `details` holds what else is known, such as `:path`.
  """

  @type category :: :validation | :python_error | :worker | :timeout | :pool | :transfer | :grpc_error

  @type t :: %__MODULE__{
          category: category(),
          reason: atom() | tuple(),
          message: String.t(),
          details: map(),
          python_type: String.t() | nil,
          python_traceback: String.t() | nil,
          pool: atom() | nil,
          worker: String.t() | nil
        }

  @enforce_keys [:category, :reason, :message]
  defexception [
    :category,
    :reason,
    :message,
    :python_type,
    :python_traceback,
    :pool,
    :worker,
    details: %{}
  ]

  @doc "Every category."
  @spec categories() :: [category()]
  def categories, do: [:validation, :python_error, :worker, :timeout, :pool, :transfer, :grpc_error]

  @doc false
  @spec new(category(), atom() | tuple(), String.t(), keyword()) :: t()
  def new(category, reason, message, fields \\ []) do
    struct!(%__MODULE__{category: category, reason: reason, message: message}, fields)
  end

  @doc false
  # An errno, or what else `:socket` and `File` answer, in words.
  @spec reason_words(term()) :: String.t()
  def reason_words(reason) when is_atom(reason) do
    case reason |> :file.format_error() |> to_string() do
      "unknown POSIX error" <> _ -> inspect(reason)
      words -> "#{words} (#{reason})"
    end
  end

  def reason_words(reason), do: inspect(reason)

  @impl true
  def message(%__MODULE__{python_traceback: nil, message: message}), do: message
  def message(%__MODULE__{message: message, python_traceback: traceback}), do: message <> "\n\n" <> traceback

  # What a worker may say, so that no atom is made from data.
  @worker_categories Map.new([:validation, :python_error, :transfer, :worker, :timeout], &{to_string(&1), &1})
  @worker_reasons Map.new(
                    ~w(unknown_command missing_argument unknown_argument wrong_type unsupported_type
                       unsupported_key unsupported_dtype not_utf8 too_deep too_large too_many_values too_many_buffers cycle
                       bad_value bad_envelope bad_tensor bad_set key_collision missing_numpy missing_ml_dtypes quota no_memory
                       unknown_chunk unavailable no_way internal raised)a,
                    &{to_string(&1), &1}
                  )

  @doc false
  @spec worker_reason?(String.t()) :: boolean()
  def worker_reason?(reason), do: is_map_key(@worker_reasons, reason)

  @doc false
  # The map of an error reply (native/PROTOCOL.md) as a struct. A reason this version does not know stays in details.
  @spec from_worker(map()) :: t()
  def from_worker(%{} = reply) do
    reason = text(reply["reason"]) || ""
    path = text(reply["path"])
    details = if is_map(reply["details"]), do: reply["details"], else: %{}
    details = if path, do: Map.put(details, :path, path), else: details

    details =
      if reason == "" or is_map_key(@worker_reasons, reason),
        do: details,
        else: Map.put(details, :reason, reason)

    %__MODULE__{
      category: Map.get(@worker_categories, reply["category"], :python_error),
      reason: reason(Map.get(@worker_reasons, reason, :raised), path, text(reply["type"])),
      message: text(reply["message"]) || "the worker gave no message",
      details: details,
      python_type: text(reply["type"]),
      python_traceback: text(reply["traceback"])
    }
  end

  def from_worker(_other) do
    new(:worker, :protocol, "the worker sent an error that is no map")
  end

  defp reason(:unsupported_type, path, type) when is_binary(path), do: {:unsupported_type, path, type}
  defp reason(reason, _path, _type), do: reason

  defp text(value) when is_binary(value), do: value
  defp text(_other), do: nil
end
