defmodule Snakepit.Pool.Options do
  @moduledoc """
  The options of a pool, as `config :snakepit, pools: [%{…}]` and `Snakepit.start_pool/1` take them. Those of a pool of
  fake tools are in `Snakepit.Test`.
  """

  alias Snakepit.{Error, Machine, Options}

  @ways [:zero_copy, :inline, :grpc]

  # Each is an OS process, or a thread: what is more is a slip.
  @most_workers 1_024

  @limits [
    memory: [
      type: {:or, [{:in, [nil]}, :bytes]},
      default: nil,
      doc:
        "Memory of each worker, such as `\"4GB\"`. Counted is private memory, of which it is refused more " <>
          "(`MemoryError`); arenas, and numpy's arrays in them, have a limit of their own, `memory_quota`. Where the VM " <>
          "may make cgroups that limit memory (version 2, delegated to its user), counted is all that the worker and " <>
          "the processes it starts have touched, and they are killed when they need more."
    ],
    open_files: [
      type: {:or, [{:in, [nil]}, {:range, 1, 2 ** 31 - 1}]},
      default: nil,
      doc: "Files and sockets each worker may have open."
    ],
    nice: [
      type: {:or, [{:in, [nil]}, {:range, -20, 19}]},
      default: nil,
      doc: "Priority; only a privileged VM may set one below its own."
    ],
    cpus: [
      type: {:or, [{:in, [nil]}, {:list_of, :non_neg_integer}]},
      default: nil,
      doc: "The numbers of the CPUs the workers may run on."
    ]
  ]

  @schema [
    name: [
      type: :atom,
      required: true,
      doc: "What calls name the pool by; `:python` by default where `python` is source."
    ],
    size: [
      type: :pos_integer,
      default: 2,
      doc: "How many workers (OS processes); `Snakepit.resize_pool/2` changes it."
    ],
    python_module: [
      type: {:or, [:string, {:list_of, :string}]},
      required: true,
      doc: "The Python module, or modules, whose tools the pool serves; not needed where `python` is source."
    ],
    python: [
      type: {:or, [{:in, [nil]}, :string]},
      default: nil,
      doc:
        "The interpreter; by default the one of `config :snakepit, python:`, else of `mix snakepit.setup`. Text with a line " <>
          "break is no interpreter but Python source, whose tools the pool serves: for notebooks. It runs in the default " <>
          "interpreter, as a module without a file."
    ],
    python_path: [
      type: {:list_of, :path},
      default: ["priv/python"],
      doc:
        "Directories to import from, before the interpreter's own: seen from the working directory, or " <>
          "`{:my_app, \"priv/python\"}`, which holds in a release as well."
    ],
    env: [
      type: {:or, [{:map_of, :string, :string}, {:function, 1}, :function_name]},
      default: %{},
      doc:
        "Environment variables of the workers, on top of the VM's without those of Erlang, Mix and releases. A function " <>
          "is given the worker's index (0 to `size` - 1) at each of its starts, and returns its map: one GPU each is " <>
          "`fn index -> %{\"CUDA_VISIBLE_DEVICES\" => to_string(index)} end`. `{MyApp, :env}` and `&MyApp.env/1` can be " <>
          "configured in a release as well. " <>
          "`MALLOC_ARENA_MAX` is 2, and `OMP_NUM_THREADS` and its like are the cores divided by the pool's lanes unless set here or in the VM's."
    ],
    limits: [
      type: {:options, @limits},
      default: [],
      doc:
        "What each worker may use; `nil` is what the VM may. A limit that cannot be applied fails the start."
    ],
    worker_profile: [
      type: {:in, [:process, :thread]},
      default: :process,
      doc: "`:process` runs one call at a time in a worker, `:thread` runs `threads_per_worker`."
    ],
    threads_per_worker: [
      type: :pos_integer,
      default: 1,
      doc: "Concurrent calls in one worker of profile `:thread`."
    ],
    transfers: [type: {:subset, @ways}, default: @ways, doc: "The ways calls of this pool may use."],
    max_queue: [
      type: :non_neg_integer,
      default: 1_000,
      doc: "Callers that may wait for a worker; one more gets `:pool_saturated`."
    ],
    timeout: [type: :timeout, default: 60_000, doc: "Milliseconds a call may take, waiting included."],
    startup_timeout: [
      type: :ms,
      default: 30_000,
      doc:
        "Milliseconds a worker has to import its modules, run their `@snakepit.on_start`, warm up and become ready."
    ],
    warm_up: [
      type: {:list_of, :call},
      default: [],
      doc:
        "Calls that every worker runs at each of its starts before it is ready, such as `[{\"embed\", %{text: \"x\"}}, " <>
          "\"ping\"]`: what is slow the first time is done then. Results are dropped and nothing is learned from them; " <>
          "one that fails is a start that failed."
    ],
    cancel_grace: [
      type: {:range, 0, 2 ** 31 - 1},
      default: 2_000,
      doc: "Milliseconds a tool has to end when its call is cancelled, before its worker is replaced."
    ],
    shutdown_timeout: [
      type: :ms,
      default: 5_000,
      doc:
        "Milliseconds running calls have to finish when the pool stops, and then `@snakepit.on_stop` has, of which it " <>
          "always has 2,000."
    ],
    heartbeat_interval: [
      type: :ms,
      default: 5_000,
      doc: "Milliseconds between two heartbeats of a worker, which it answers whatever its tools do."
    ],
    heartbeat_grace: [
      type: :ms,
      default: 60_000,
      doc:
        "Milliseconds without an answer after which a worker is replaced: a tool may hold Python's lock for so long. " <>
          "One that is stopped is replaced at the next heartbeat."
    ],
    worker_ttl: [
      type: :timeout,
      default: :infinity,
      doc:
        "Milliseconds after which a worker is replaced by a new one, which starts beside it; no call waits for it."
    ],
    worker_max_requests: [
      type: {:or, [{:in, [nil]}, :pos_integer]},
      default: nil,
      doc: "Calls after which a worker is replaced in that way; looked at twice a second."
    ],
    memory_threshold_mb: [
      type: {:or, [{:in, [nil]}, :pos_integer]},
      default: nil,
      doc: "MiB of memory (Pss) of the Python process above which a worker is replaced in that way."
    ],
    log_level: [
      type: {:in, [:debug, :info, :warning, :error, :critical, :none]},
      default: :info,
      doc:
        "The least level of Python's `logging` of which records come to `Logger`; those that Logger's own level drops are " <>
          "not sent either. It is the level of Python's root logger to begin with. `:none` leaves `logging` and `warnings` " <>
          "as any Python has them."
    ],
    reload: [
      type: {:or, [{:in, [nil]}, :boolean]},
      default: nil,
      doc:
        "Whether workers are replaced when a file changes that they imported from `python_path`: one after the other, by " <>
          "new ones that start beside them, so that running calls finish. The state of sessions is lost. Code that cannot " <>
          "be imported is logged, and the old workers go on. A pool that could not start is started again. `nil` is what `config :snakepit, reload:` says, else whether " <>
          "this is a Mix project in `:dev`."
    ],
    inline_limit: [
      type: :bytes,
      default: 16 * 1024,
      doc:
        "Binaries and tensors of at least this size travel outside the envelope, where they need not be copied; smaller ones " <>
          "are cheaper in it."
    ],
    chunk_size: [
      type: :bytes,
      default: 16 * 1024 * 1024,
      doc: "Bytes of a chunk of shared memory; larger values have a chunk of their own."
    ],
    memory_quota: [
      type: {:or, [{:in, [nil]}, :bytes]},
      default: nil,
      doc:
        "Shared memory the pool may hold, half of it for each direction; by default a quarter of the machine's memory."
    ],
    idle_chunk_ms: [
      type: :ms,
      default: 30_000,
      doc: "A chunk nobody used for this long is given back to the system."
    ],
    busy_poll: [
      type: {:range, 0, 500},
      default: 300,
      doc:
        "How many microseconds a caller and a worker spin for each other, by polling, before they sleep: small calls " <>
          "take half as long. It is left out where other processes are waiting to run, of commands that take longer, and on " <>
          "a single core. 0 never does it: for a quota of CPU time, or to save energy."
    ],
    numpy_memory: [
      type: :boolean,
      default: true,
      doc:
        "Whether workers make numpy's large arrays in shared memory, so that they are returned without a copy."
    ],
    check_returns: [
      type: {:or, [{:in, [nil]}, :boolean]},
      default: nil,
      doc:
        "Whether a tool's results are compared with its `-> …`, of containers the first hundred items: one that differs is " <>
          "a warning, once for each place of a result, and crosses all the same. By default in Mix's environments `:dev` and `:test`."
    ],
    performance_policy: [
      type: :any,
      default: [],
      doc: "What the pool's transfers are chosen for: the options of `Snakepit.Performance.Policy`."
    ],
    max_result: [
      type: :bytes,
      default: 8 * 1024 * 1024 * 1024,
      doc: "A result larger than this is an error."
    ],
    breaker: [
      type: {:options, Snakepit.Breaker.schema()},
      doc: "When the ways `:zero_copy` and `:grpc` are left alone for a while because they fail."
    ]
  ]

  @moduledoc @moduledoc <> "\n" <> Options.docs(@schema)

  # The bytes of source that a start message may carry, with room for the other settings.
  @longest_source 8 * 1024 * 1024
  @source_name :python

  @enforce_keys Keyword.keys(@schema)
  # `source` is a `:python` with a line break. `fake`: what a pool has in place of Python (Snakepit.Test): a
  # `Snakepit.Worker.Launcher`, and what is its own. `performance`: makes what measures the pool's calls, at each start of
  # its process; the handle carries that, and the pool does not look into it.
  defstruct Keyword.keys(@schema) ++ [source: nil, fake: nil, performance: nil]

  @type way :: :zero_copy | :inline | :grpc
  @type limits :: Snakepit.Native.limits()
  @type t :: %__MODULE__{
          limits: limits(),
          env: Snakepit.Pool.Env.t(),
          warm_up: [Snakepit.Pool.WarmUp.call()],
          source: String.t() | nil,
          fake: {module(), term()} | nil,
          performance: (t() -> term()) | nil
        }

  @doc "All ways of transfer, as `transfers:` may list them."
  @spec ways() :: [way()]
  def ways, do: @ways

  @doc false
  @spec schema([atom()]) :: Options.schema()
  def schema(keys), do: Keyword.take(@schema, keys)

  @doc "The names of the options."
  @spec keys() :: [atom()]
  def keys, do: Keyword.keys(@schema)

  @doc """
  Checks a pool's options; an error names the pool and the key. `{Snakepit.Test, options}` are those of a pool of fake
  tools.
  """
  @spec new(map() | keyword() | {module(), map() | keyword()}) :: {:ok, t()} | {:error, Error.t()}
  def new({module, given}) when is_atom(module) and module not in [nil, true, false] do
    if Code.ensure_loaded?(module) and function_exported?(module, :pool_options, 1) do
      module.pool_options(given)
    else
      words =
        "expected a pool to be its options, or {Snakepit.Test, options}, got: #{inspect({module, given})}"

      {:error, Error.new(:validation, :invalid_option, words)}
    end
  end

  def new(given) do
    with {:ok, options} <- given |> with_defaults() |> Options.validate(@schema),
         options = sourced(%{options | python_module: List.wrap(options.python_module)}),
         :ok <- consistent(options, given) do
      {:ok, struct!(__MODULE__, options)}
    else
      {:error, key, message} ->
        {:error,
         Error.new(:validation, :invalid_option, "pool #{pool_name(given)}: #{message}#{meant(key, given)}",
           details: %{key: key},
           pool: name(given)
         )}
    end
  end

  # Source of one line, perhaps.
  defp meant(key, given) when key in [:name, :python_module] do
    case given(given, :python) do
      python when is_binary(python) ->
        "; a :python without a line break is an interpreter, #{inspect(python, printable_limit: 60)}"

      _ ->
        ""
    end
  end

  defp meant(_key, _given), do: ""

  defp given(given, key) when is_map(given), do: Map.get(given, key)
  defp given(given, key), do: if(Keyword.keyword?(given), do: given[key])

  @doc "The same options with another number of workers."
  @spec with_size(t(), term()) :: {:ok, t()} | {:error, Error.t()}
  def with_size(%__MODULE__{} = options, size) do
    case Options.validate(%{size: size}, Keyword.take(@schema, [:size])) do
      {:ok, %{size: size}} when size <= @most_workers ->
        {:ok, %{options | size: size}}

      answer ->
        {key, message} =
          case answer do
            {:ok, _} -> {:size, "expected :size to be at most #{@most_workers}, got: #{size}"}
            {:error, key, message} -> {key, message}
          end

        words = "pool #{inspect(options.name)}: #{message}"
        {:error, Error.new(:validation, :invalid_option, words, details: %{key: key}, pool: options.name)}
    end
  end

  # The options that a pool with its own source need not have.
  defp with_defaults(given) when is_list(given),
    do: if(Keyword.keyword?(given), do: given |> Map.new() |> with_defaults(), else: given)

  defp with_defaults(%{python: python} = given) when not is_struct(given),
    do: if(source?(python), do: Map.merge(%{name: @source_name, python_module: []}, given), else: given)

  defp with_defaults(given), do: given

  # An interpreter's path has no line break.
  defp sourced(%{python: python} = options) do
    if source?(python),
      do: Map.merge(options, %{python: nil, source: python}),
      else: Map.put(options, :source, nil)
  end

  @doc "Whether a `:python` is source, not an interpreter."
  @spec source?(term()) :: boolean()
  defdelegate source?(python), to: Snakepit.Python.Source

  @doc "The pool's own source as a worker is given it: `file` is what tracebacks call it."
  @spec source(t()) :: %{text: String.t(), file: String.t()} | nil
  def source(%__MODULE__{source: nil}), do: nil
  def source(%__MODULE__{source: text, name: name}), do: %{text: text, file: "<pool #{inspect(name)}>"}

  defp consistent(options, given) do
    cond do
      options.size > @most_workers ->
        {:error, :size, "expected :size to be at most #{@most_workers}, got: #{options.size}"}

      options.threads_per_worker > @most_workers ->
        {:error, :threads_per_worker,
         "expected :threads_per_worker to be at most #{@most_workers}, got: #{options.threads_per_worker}"}

      options.source == nil and options.python_module == [] ->
        {:error, :python_module, "expected :python_module to name a module, got: []"}

      byte_size(options.source || "") > @longest_source ->
        {:error, :python,
         "expected the source in :python to have at most 8 MiB: put it into a file, and name it as :python_module"}

      file = Enum.find(options.python_module, &(String.contains?(&1, "/") or String.ends_with?(&1, ".py"))) ->
        {:error, :python_module,
         "expected :python_module to be a module's name, not a file: #{inspect(as_module(file))}, got: #{inspect(file)}"}

      path = Enum.find(options.python_path, &(not Snakepit.Python.expandable?(&1))) ->
        {:error, :python_path,
         ":python_path names the application #{inspect(elem(path, 0))}, which is not there"}

      options.worker_profile == :process and Access.get(given, :threads_per_worker, 1) != 1 ->
        {:error, :threads_per_worker,
         ":threads_per_worker would be ignored with worker_profile: :process; use worker_profile: :thread"}

      options.memory_quota && options.memory_quota < 2 * options.chunk_size ->
        {:error, :memory_quota,
         ":memory_quota must be at least twice :chunk_size (#{options.chunk_size} bytes), got: #{options.memory_quota}"}

      (options.limits.memory || 0) >= 2 ** 63 ->
        {:error, :limits,
         "in :limits: expected :memory to be less than 8388608 TB, got: #{options.limits.memory}"}

      true ->
        with :ok <- cpus(options.limits.cpus),
             :ok <- env(options.env),
             :ok <- warm_up(options.warm_up),
             do: :ok
    end
  end

  # The value of a function is known when it is called.
  defp env(env) when is_map(env) do
    with {:error, words} <- Snakepit.Pool.Env.check(env), do: {:error, :env, ":env #{words}"}
  end

  defp env(_function), do: :ok

  defp warm_up(calls) do
    with {:ok, _envelopes} <- Snakepit.Pool.WarmUp.envelopes(calls),
         do: :ok,
         else: ({:error, words} -> {:error, :warm_up, ":warm_up#{words}"})
  end

  defp cpus(nil), do: :ok

  defp cpus(cpus) do
    existing = Machine.cpus()

    if cpus != [] and cpus -- existing == [],
      do: :ok,
      else:
        {:error, :limits,
         "in :limits: expected :cpus to list some of this machine's CPUs " <>
           "(#{Enum.join(existing, ", ")}), each once, got: #{inspect(cpus, charlists: :as_lists)}"}
  end

  defp as_module(file),
    do: file |> String.replace_suffix(".py", "") |> String.trim("/") |> String.replace("/", ".")

  defp name(given) when is_map(given) or is_list(given) do
    case Access.get(given, :name) do
      nil -> if source?(Access.get(given, :python)), do: @source_name
      name when is_atom(name) -> name
      _ -> nil
    end
  rescue
    _ -> nil
  end

  defp name(_given), do: nil

  defp pool_name(given), do: if(name = name(given), do: inspect(name), else: "without a name")

  @doc "How long to spin, in microseconds. On a single core, who spins keeps the other one from answering."
  @spec busy_poll(t()) :: non_neg_integer()
  def busy_poll(%__MODULE__{busy_poll: us} = options) do
    if min(Machine.cores_by_quota(), cores(options)) > 1, do: us, else: 0
  end

  @doc "Whether results are compared with annotations. A release has no Mix."
  @spec check_returns?(t()) :: boolean()
  def check_returns?(%__MODULE__{check_returns: nil}) do
    function_exported?(Mix, :env, 0) and Process.whereis(Mix.Supervisor) != nil and Mix.env() in [:dev, :test]
  end

  def check_returns?(%__MODULE__{check_returns: check?}), do: check?

  @doc "Cores that its workers may use, all together."
  @spec cores(t()) :: pos_integer()
  def cores(%__MODULE__{limits: limits}), do: Machine.cores(limits.cpus)

  @doc "Lanes of one worker."
  @spec lanes(t()) :: pos_integer()
  defdelegate lanes(options), to: Snakepit.Python
end
