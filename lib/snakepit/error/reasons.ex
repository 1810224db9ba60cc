defmodule Snakepit.Error.Reasons do
  @moduledoc false
  # The closed set of reasons, as data: the documentation of `Snakepit.Error` is made of it, and a test compares it with
  # what the code in Elixir, Python and Rust says.

  # A value that cannot cross: as an argument the caller's mistake, as a result the tool's.
  @of_values [
    unsupported_type: "a value of a type that cannot cross; `details` has `:path` and `:type`",
    unsupported_key: "a map's key that cannot cross",
    unsupported_dtype: "an array of a type that no tensor has",
    not_utf8: "text that is no UTF-8; as an argument: `Snakepit.bytes/1` sends it as bytes",
    key_collision: "two keys, or members of a set, that would be one on the other side",
    cycle: "a value that contains itself",
    too_deep: "values nested deeper than 128",
    too_large: "a single value of more than 4 GiB, or an integer that the BEAM cannot hold",
    too_many_values: "more than 2^26 values",
    too_many_buffers: "more than 65,536 large values",
    bad_tensor: "a tensor whose type, shape and data do not fit each other",
    bad_set: "a set whose members Python cannot hold as such",
    bad_date: "a date or time that Python cannot hold",
    bad_value: "a number, date or time that the other side cannot hold",
    bad_envelope: "a request that the worker cannot read",
    missing_numpy: "the worker's Python has no numpy",
    missing_ml_dtypes: "the worker's Python has no ml_dtypes, which has `bf16`"
  ]

  @reasons [
    validation:
      [
        unknown_command: "the pool has no such tool; `details` has the `:nearest` ones",
        invalid_command: "the command is no name",
        invalid_arguments: "the arguments are no map, or what is shared no binary",
        missing_argument: "the tool needs an argument that is not there",
        unknown_argument: "the tool takes no such argument",
        wrong_type: "an argument is not what its annotation says",
        wrong_value: "it is, but what makes the annotated object of it refused it",
        warm_up_failed: "a call of the pool's `warm_up:` was wrong; `details` has its `:command`",
        invalid_option: "an option is unknown, or its value impossible",
        invalid_env: "the function in a pool's `env:` failed, or gave no variables",
        invalid_requirement: "what `requirements:` or `--with` asks for is no requirement, or cannot be read",
        invalid_config: "the same, of the application's configuration",
        unknown_pool: "there is no such pool",
        way_not_allowed: "the pool does not allow the way that was forced",
        no_way: "the pool's ways and the call's options leave none",
        not_enabled: "the pool measures nothing: its `performance_policy:` is off"
      ] ++ @of_values,
    python_error:
      [
        raised: "the tool raised: `python_type` and `python_traceback` say what and where",
        import_failed: "the pool's modules raised while they were imported",
        on_start_failed: "a function with `@snakepit.on_start` raised; `details` has its name, `:hook`",
        warm_up_failed: "a call of the pool's `warm_up:` raised; `details` has its `:command`",
        no_tools: "a module of the pool has no function with `@tool`"
      ] ++ @of_values,
    worker: [
      lost: "the worker ended during the call",
      protocol: "it broke the protocol",
      internal: "Snakepit's own code in the worker failed",
      exited: "it ended before it was ready",
      startup_timeout: "it was not ready within the pool's `startup_timeout:`",
      socket: "no socket can be made for it"
    ],
    timeout: [
      timeout: "the tool ran beyond the deadline",
      item_timeout: "a stream's next item did not come in time; `details` has `:items`, which came before",
      queue_timeout: "no worker was free before the deadline",
      not_ready: "the pool was not ready in the time given"
    ],
    cancelled: [
      cancelled:
        "`Snakepit.cancel/1` was called with its `:correlation_id`; of a stream, `details` has `:items`"
    ],
    pool: [
      pool_saturated: "as many callers wait as `max_queue:` allows",
      breaker_open: "every worker died young too often",
      command_breaker_open:
        "the command's calls ended too many workers (`Snakepit.reset_command/2`); `details` has `:deaths`, `:last` " <>
          "and `:retry_in_ms`",
      stopping: "the pool is stopping, or being restarted",
      stopped: "it has stopped",
      not_started: "it, or the application, is not started",
      calibrating: "its ways are being measured",
      already_started: "a pool of that name runs",
      not_capable: "its Python can go none of the ways in `transfers:`",
      setup_failed:
        "`Snakepit.setup/1` could not make the environment, or install packages; `details` has the `:cause`",
      no_python: "there is no Python to start",
      no_runtime_dir: "there is no directory for its sockets"
    ],
    transfer: [
      too_large: "more bytes than the way, or the pool's `max_result:`, allows",
      quota: "the pool's `memory_quota:` is used up",
      no_memory: "the system gives no more memory",
      not_capable: "the worker lacks the way that was forced",
      unavailable: "the way does not work at the moment",
      breaker_open:
        "the way failed too often, or was isolated; `details` has `:way`, and `:retry_in_ms` until it is tried again",
      unknown_chunk: "shared memory that was referred to is gone",
      no_way: "no way is left for the reply"
    ],
    # gRPC's own status codes.
    grpc_error: [
      cancelled: "gRPC's `CANCELLED`",
      unknown: "`UNKNOWN`",
      invalid_argument: "`INVALID_ARGUMENT`",
      deadline_exceeded: "`DEADLINE_EXCEEDED`",
      not_found: "`NOT_FOUND`",
      already_exists: "`ALREADY_EXISTS`",
      permission_denied: "`PERMISSION_DENIED`",
      resource_exhausted: "`RESOURCE_EXHAUSTED`",
      failed_precondition: "`FAILED_PRECONDITION`",
      aborted: "`ABORTED`",
      out_of_range: "`OUT_OF_RANGE`",
      unimplemented: "`UNIMPLEMENTED`",
      internal: "`INTERNAL`",
      unavailable: "`UNAVAILABLE`: the connection broke, or could not be made",
      data_loss: "`DATA_LOSS`",
      unauthenticated: "`UNAUTHENTICATED`"
    ]
  ]

  @doc "Every reason by category, with its meaning."
  @spec all() :: [{atom(), [{atom(), String.t()}]}]
  def all, do: @reasons

  @spec of(atom()) :: [atom()]
  def of(category), do: Keyword.keys(@reasons[category])

  # The reasons that a worker may send; no atom is made from its data.
  @of_workers @of_values ++
                Keyword.take(@reasons[:validation], [
                  :unknown_command,
                  :missing_argument,
                  :unknown_argument,
                  :wrong_type,
                  :wrong_value
                ]) ++
                [raised: nil, internal: nil, quota: nil, no_memory: nil] ++
                [unknown_chunk: nil, unavailable: nil, no_way: nil]
  @by_text Map.new(@of_workers, fn {reason, _} -> {Atom.to_string(reason), reason} end)

  @doc "The reason that a worker named, `nil` for one that is not known."
  @spec from_worker(String.t()) :: atom() | nil
  def from_worker(text), do: Map.get(@by_text, text)

  @doc "The table of the documentation."
  @spec docs() :: String.t()
  def docs do
    {values, rest} = {Keyword.keys(@of_values), @reasons}

    rows =
      for {category, reasons} <- rest,
          {reason, words} <- reasons,
          reason not in values or category not in [:validation, :python_error],
          do: "| `#{inspect(category)}` | `#{inspect(reason)}` | #{words} |"

    of_values =
      for {reason, words} <- @of_values,
          do: "| `:validation`, `:python_error` | `#{inspect(reason)}` | #{words} |"

    Enum.join(["| category | reason | |", "|---|---|---|" | rows ++ of_values], "\n")
  end
end
