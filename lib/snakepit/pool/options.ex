defmodule Snakepit.Pool.Options do
  @moduledoc """
  The options of a pool, as `config :snakepit, pools: [%{…}]` and `Snakepit.start_pool/1` take them.
  """

  alias Snakepit.{Error, Options}

  @ways [:zero_copy, :inline, :grpc]

  @schema [
    name: [type: :atom, required: true, doc: "What calls name the pool by."],
    size: [type: :pos_integer, default: 2, doc: "How many workers (OS processes)."],
    python_module: [
      type: {:or, [:string, {:list_of, :string}]},
      required: true,
      doc: "The Python module, or modules, whose tools the pool serves."
    ],
    python: [
      type: {:or, [{:in, [nil]}, :string]},
      default: nil,
      doc: "The interpreter; by default the one of `config :snakepit, python:`, else of `mix snakepit.setup`."
    ],
    python_path: [
      type: {:list_of, :path},
      default: ["priv/python"],
      doc:
        "Directories to import from, before the interpreter's own: seen from the working directory, or " <>
          "`{:my_app, \"priv/python\"}`, which holds in a release as well."
    ],
    env: [
      type: {:map_of, :string, :string},
      default: %{},
      doc: "Environment variables of the workers, on top of the VM's."
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
      type: :pos_integer,
      default: 30_000,
      doc: "Milliseconds a worker has to import its modules and become ready."
    ],
    cancel_grace: [
      type: :non_neg_integer,
      default: 2_000,
      doc: "Milliseconds a tool has to end when its call is cancelled, before its worker is replaced."
    ],
    shutdown_timeout: [
      type: :pos_integer,
      default: 5_000,
      doc: "Milliseconds running calls have to finish when the pool stops."
    ],
    inline_limit: [
      type: :bytes,
      default: 4096,
      doc: "Binaries and tensors of at least this size travel outside the envelope."
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
      type: :pos_integer,
      default: 30_000,
      doc: "A chunk nobody used for this long is given back to the system."
    ],
    numpy_memory: [
      type: :boolean,
      default: true,
      doc:
        "Whether workers make numpy's large arrays in shared memory, so that they are returned without a copy."
    ],
    max_result: [
      type: :bytes,
      default: 8 * 1024 * 1024 * 1024,
      doc: "A result larger than this is an error."
    ]
  ]

  @moduledoc @moduledoc <> "\n" <> Options.docs(@schema)

  @enforce_keys Keyword.keys(@schema)
  defstruct Keyword.keys(@schema)

  @type way :: :zero_copy | :inline | :grpc
  @type t :: %__MODULE__{}

  @doc "All ways of transfer, as `transfers:` may list them."
  @spec ways() :: [way()]
  def ways, do: @ways

  @doc "The names of the options."
  @spec keys() :: [atom()]
  def keys, do: Keyword.keys(@schema)

  @doc "Checks a pool's options; an error names the pool and the key."
  @spec new(map() | keyword()) :: {:ok, t()} | {:error, Error.t()}
  def new(given) do
    with {:ok, options} <- Options.validate(given, @schema),
         options = %{options | python_module: List.wrap(options.python_module)},
         :ok <- consistent(options, given) do
      {:ok, struct!(__MODULE__, options)}
    else
      {:error, key, message} ->
        {:error,
         Error.new(:validation, :invalid_option, "pool #{pool_name(given)}: #{message}",
           details: %{key: key},
           pool: name(given)
         )}
    end
  end

  defp consistent(options, given) do
    cond do
      options.python_module == [] ->
        {:error, :python_module, "expected :python_module to name a module, got: []"}

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

      true ->
        :ok
    end
  end

  defp as_module(file),
    do: file |> String.replace_suffix(".py", "") |> String.trim("/") |> String.replace("/", ".")

  defp name(given) when is_map(given) or is_list(given) do
    case Access.get(given, :name) do
      name when is_atom(name) -> name
      _ -> nil
    end
  rescue
    _ -> nil
  end

  defp name(_given), do: nil

  defp pool_name(given), do: if(name = name(given), do: inspect(name), else: "without a name")

  @doc "Lanes of one worker."
  @spec lanes(t()) :: pos_integer()
  def lanes(%__MODULE__{worker_profile: :process}), do: 1
  def lanes(%__MODULE__{threads_per_worker: threads}), do: threads
end
