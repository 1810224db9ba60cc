defmodule Snakepit do
  @external_resource "README.md"
  @moduledoc "README.md" |> File.read!() |> String.split("<!-- moduledoc -->") |> Enum.at(1)

  alias Snakepit.{Breaker, Call, Error, Observation, Performance, Pool, Python, Transfer}

  @type command :: String.t() | atom()
  @type args :: %{optional(String.t() | atom()) => term()}

  @doc """
  Runs the tool `command` in a worker and returns its result.

  The result of a tool that yields is the list of its items, as Python's `list()` makes it. `execute_stream/4` also gives
  the value that such a tool returns.

  `args` are the tool's arguments by name. Options:

  #{Call.Options.docs()}
  """
  @spec execute(command(), args(), keyword()) :: {:ok, term()} | {:error, Error.t()}
  def execute(command, args \\ %{}, opts \\ []) do
    {result, _observation} = Call.run(command, args, opts)
    result
  end

  @doc "As `execute/3`, but returns the result alone and raises `Snakepit.Error`."
  @spec execute!(command(), args(), keyword()) :: term()
  def execute!(command, args \\ %{}, opts \\ []) do
    case execute(command, args, opts) do
      {:ok, result} -> result
      {:error, error} -> raise error
    end
  end

  @doc "As `execute/3`, and also returns what the call cost."
  @spec observe(command(), args(), keyword()) :: {{:ok, term()} | {:error, Error.t()}, Observation.t()}
  def observe(command, args \\ %{}, opts \\ []), do: Call.run(command, args, opts)

  @doc """
  Explains which way a call with these arguments would take, and which ways other sizes take. Nothing is called.

  The answer prints as a table: `IO.puts(explanation)`. Its fields: `Snakepit.Performance.Explanation`.
  """
  @spec explain(command(), args(), keyword()) :: {:ok, Performance.Explanation.t()} | {:error, Error.t()}
  def explain(command, args \\ %{}, opts \\ []), do: Call.explain(command, args, opts)

  @doc """
  Runs a tool that yields (a Python generator) and calls `fun` with each item as it comes. The answer is
  `{:ok, returned}`: the value that the generator returned, or `nil`.

  To stop early, use `stream/3`.

  An `async` generator returns no value. A tool that does not yield has one item and no value. The worker waits while `fun`
  runs: no more than a socket's buffer is under way. The time limits are those of `stream/3`, the options those of
  `execute/3` without `:idempotent`.
  """
  @spec execute_stream(command(), args(), (term() -> any()), keyword()) ::
          {:ok, returned :: term()} | {:error, Error.t()}
  def execute_stream(command, args, fun, opts \\ []) when is_function(fun, 1) do
    Call.each(command, args, opts, fun)
  end

  @doc """
  The items of a tool that yields, as a lazy `Stream`. Raises `Snakepit.Error` while it is read.

  If the reader stops before the end, the tool is cancelled as after a timeout. A suspended stream, as in
  `Stream.zip/2`, holds its worker until the reader continues or stops.

  A stream has no time limit as a whole by default. `:item_timeout` limits the time that the tool takes for one item (the
  reader's time does not count), `:timeout` the time of the whole stream (the reader's time counts). The error says which
  limit passed, and after how many items: `error.reason` is `:item_timeout` or `:timeout`, `error.details.items` the number.

  The value that a generator returns is dropped unless `:on_return` is given. Options are those of `execute/3` without
  `:idempotent`, and:

  #{Call.Options.stream_docs()}
  """
  @spec stream(command(), args(), keyword()) :: Enumerable.t()
  def stream(command, args \\ %{}, opts \\ []), do: %Snakepit.Stream{command: command, args: args, opts: opts}

  @doc """
  As `execute/3`, in a session: all its calls go to the same worker, where `snakepit.session()` is a dict that lives
  as long as the worker does.
  """
  @spec execute_in_session(String.t(), command(), args(), keyword()) :: {:ok, term()} | {:error, Error.t()}
  def execute_in_session(session_id, command, args \\ %{}, opts \\ []) do
    execute(command, args, Keyword.put(opts, :session_id, session_id))
  end

  @doc """
  Runs `command` once for each of `list`, on as many workers as the pool has, and returns the results in order.

  Each item is the map of arguments of one call. `:max_concurrency` defaults to the pool's lanes. If no item can be
  called, because an option is wrong or the pool does not exist, the answer is one error instead of a list.
  """
  @spec map(Enumerable.t(), command(), keyword()) ::
          [{:ok, term()} | {:error, Error.t()}] | {:error, Error.t()}
  def map(list, command, opts \\ []) do
    with {:ok, options, concurrency, opts} <- Call.Options.for_map(opts),
         {:ok, handle} <- Pool.Handle.fetch(options.pool || default_pool()) do
      lanes = handle.options.size * Pool.Options.lanes(handle.options)

      Call.Cancellation.grouped(options.correlation_id, fn group ->
        Call.FanOut.map(list, concurrency || lanes, fn args ->
          {result, _observation} = Call.run(command, args, opts, group)
          result
        end)
      end)
    else
      {:error, error} -> {:error, Error.of_command(error, command)}
    end
  end

  @doc """
  Cancels all calls, streams and items of maps that have this `:correlation_id`, in every pool and from every process.
  Returns their number, `{:ok, 0}` if there is none.

  Each of them answers with an error of category `:cancelled`. A call that waits for a worker leaves the queue. A running
  tool is cancelled as after a timeout: `snakepit.cancelled()` is true, `snakepit.Cancelled` is raised in it, and its worker
  is replaced if the tool does not end within the pool's `:cancel_grace`. Items of a `map/3` that have not started are not
  counted, and do not start. The tool of a stream is cancelled at once; its reader gets the error with the next item.

      iex> Snakepit.cancel("nobody's")
      {:ok, 0}
  """
  @spec cancel(correlation_id :: String.t()) :: {:ok, non_neg_integer()} | {:error, Error.t()}
  def cancel(correlation_id) when is_binary(correlation_id),
    do: {:ok, Call.Cancellation.cancel(correlation_id)}

  def cancel(other) do
    shown = inspect(other, limit: 5, printable_limit: 100)
    words = "expected a correlation id to be a string, got: #{shown}"
    {:error, Error.new(:validation, :invalid_arguments, words)}
  end

  @doc """
  Marks a binary, so that it is sent as bytes instead of as a `str`. `Snakepit.Bytes` says which type a tool gets.

      iex> Snakepit.bytes(<<255>>)
      %Snakepit.Bytes{data: <<255>>}
  """
  @spec bytes(binary()) :: Snakepit.Bytes.t()
  def bytes(data) when is_binary(data), do: %Snakepit.Bytes{data: data}

  @doc """
  Copies a binary, or a tensor's data, into the pool's shared memory, once. Later calls that pass the result to a worker of
  this pool do not move its bytes.

  The result is equal to `value`. Its memory is free again when nothing refers to it.
  """
  @spec share(binary() | Snakepit.Bytes.t() | Snakepit.Tensor.t(), keyword()) ::
          {:ok, binary() | Snakepit.Bytes.t() | Snakepit.Tensor.t()} | {:error, Error.t()}
  def share(value, opts \\ [])

  def share(%module{data: data} = value, opts) when module in [Snakepit.Bytes, Snakepit.Tensor] do
    with {:ok, data} <- share(data, opts), do: {:ok, %{value | data: data}}
  end

  def share(data, opts) when is_binary(data) do
    with {:ok, options} <- Call.Options.new(opts),
         {:ok, handle} <- Pool.Handle.fetch(options.pool || default_pool()) do
      Pool.Arena.share(handle, data)
    end
  end

  def share(value, _opts) do
    shown = inspect(value, limit: 5, printable_limit: 100)
    words = "expected a binary, Snakepit.bytes/1 of one, or a Snakepit.Tensor to share, got: #{shown}"
    {:error, Error.new(:validation, :invalid_arguments, words)}
  end

  @doc """
  Frees results in shared memory at once, instead of at the caller's next garbage collection.

  Pass the value as its last use: the caller's garbage is collected, and the number of freed bytes is returned. It is 0 if
  something else still refers to them, such as a variable that is used later, another process, or a binding in IEx. Memory
  that is still in use is never freed.
  """
  @spec release(term()) :: non_neg_integer()
  def release(value) do
    watch = Snakepit.Native.watch(value)
    :erlang.garbage_collect()
    freed(watch, 10)
  end

  # Destructors run when a scheduler next looks for work, so yield to it.
  defp freed(watch, tries) do
    :erlang.yield()

    case Snakepit.Native.watch_freed(watch) do
      0 when tries > 0 -> freed(watch, tries - 1)
      bytes -> bytes
    end
  end

  @doc """
  Makes the Python environment of the workers and installs packages into it, as `mix snakepit.setup` does, without Mix:
  in a script, in IEx or in a notebook.

      Snakepit.setup(with: ["numpy", "scikit-learn==1.5.2"])

  Prints a line for each step. If everything is installed already, it does nothing. Running workers keep the packages that
  they have imported; `restart_pool/1` gives them the new ones.

  An error has category `:validation` if an option or a requirement is wrong, and category `:pool` with reason
  `:setup_failed` if the installation failed; its message says what to do. Options:

  #{Python.Environment.Options.docs()}
  """
  @spec setup(keyword() | map()) :: :ok | {:error, Error.t()}
  def setup(options \\ []), do: Snakepit.Setup.run(options, &IO.puts/1)

  @doc """
  Starts a pool and waits until its workers are ready. `options` are those of `Snakepit.Pool.Options`, or
  `{Snakepit.Test, options}` for a pool of fake tools.

  If its modules cannot be imported, the error has Python's traceback, and nothing stays behind.

  In a notebook the tools can be source, whose pool is called `:python` unless it has a `name:`:

      Snakepit.start_pool(python: \"""
      from snakepit import tool

      @tool
      def add(a: int, b: int) -> int:
          return a + b
      \""")

  If a pool with source runs under the same name already, the new pool replaces it, as when a cell is evaluated again.
  Running calls may finish; then the old pool is stopped, whether the new one can start or not.
  """
  @spec start_pool(map() | keyword() | {module(), map() | keyword()}) :: {:ok, pid()} | {:error, Error.t()}
  def start_pool(options) do
    with {:ok, options} <- Snakepit.Config.pool(options),
         {:ok, pid} <- start_or_replace(options) do
      case Pool.await_ready(options.name, :infinity) do
        :ok ->
          Pool.Handle.offer_as_default(options.name)
          {:ok, pid}

        {:error, error} ->
          stop_pool(options.name)
          {:error, error}
      end
    end
  end

  @doc """
  Stops a pool and starts it with the same options: after edits of Python code, or to start a configured pool once the
  reason why it could not start is mended.

  A pool that fails to start again stays, and its calls return the reason. Calls during the restart are refused with
  category `:pool` and reason `:stopping`.
  """
  @spec restart_pool(atom()) :: {:ok, pid()} | {:error, Error.t()}
  def restart_pool(name) do
    with {:ok, handle} <- Pool.Handle.fetch(name),
         {:ok, pid} <- Pool.Handle.restarting(name, fn -> stop_and_start(handle) end),
         :ok <- Pool.await_ready(name, :infinity) do
      {:ok, pid}
    end
  end

  defp stop_and_start(%{name: name, options: options}) do
    with :ok <- stop_pool(name), do: start_child(options)
  end

  # One at a time, because cells that are evaluated at once would each find the other's pool.
  defp start_or_replace(%{source: nil} = options), do: start_child(options)

  defp start_or_replace(%{name: name} = options) do
    :global.trans({{__MODULE__, name}, self()}, fn -> replace(options, Pool.Handle.fetch(name)) end, [node()])
  end

  defp replace(%{name: name} = options, {:ok, %{options: %{source: source}}}) when source != nil do
    Pool.Handle.restarting(name, fn ->
      stop_pool(name)
      start_child(options)
    end)
  end

  defp replace(options, _none_or_no_source), do: start_child(options)

  defp start_child(options) do
    with :ok <- Pool.Handle.application(), do: start_supervised(options)
  end

  defp start_supervised(options) do
    case DynamicSupervisor.start_child(Snakepit.Pools, Snakepit.Application.pool(options)) do
      {:ok, pid} ->
        {:ok, pid}

      {:error, {:already_started, _}} ->
        words = "a pool #{inspect(options.name)} is running already"
        {:error, Error.new(:pool, :already_started, words, pool: options.name)}

      {:error, reason} ->
        words = "pool #{inspect(options.name)} did not start: #{inspect(reason)}"
        {:error, Error.new(:pool, :not_started, words, pool: options.name)}
    end
  end

  @doc """
  Changes the number of a pool's workers while its calls go on. No call is lost, refused or retried because of it.

  When a pool grows, each new worker takes calls as soon as it is ready; `{:ok, size}` is returned once all are. If one
  cannot start, the new workers stop, the size stays as it was, and the error of that worker is returned.

  When a pool shrinks, the answer comes at once, and the workers with the highest indices stop: idle ones now, the others
  when their calls and streams are over. `list_workers/1` shows these as `:leaving` until then.

  The session of a worker that stops moves to another worker with its next call, where its dict is empty. When a pool grows
  from n to m workers, m - n of m sessions move in the same way; all others stay on their workers.

  Changes of one pool are made one after the other. `restart_pool/1` keeps the size; a pool that is stopped and started has
  the size of its options. Running workers keep the variables that divide the cores, such as `OMP_NUM_THREADS`. Errors are
  those of a start, `:invalid_option`, and category `:pool` if the pool is stopping or could not start.
  """
  @spec resize_pool(atom(), pos_integer()) :: {:ok, pos_integer()} | {:error, Error.t()}
  def resize_pool(name, size) do
    with {:ok, handle} <- Pool.Handle.fetch(name),
         {:ok, _options} <- Pool.Options.with_size(handle.options, size) do
      Pool.Resizer.resize(handle, size)
    end
  end

  @doc "Stops a pool: its running calls may finish within its `:shutdown_timeout`."
  @spec stop_pool(atom()) :: :ok | {:error, Error.t()}
  def stop_pool(name) do
    with {:ok, _handle} <- Pool.Handle.fetch(name) do
      if pid = Pool.Supervisor.whereis(name), do: Pool.Supervisor.stop(pid)
      :ok
    end
  end

  @doc false
  @spec default_pool() :: atom() | nil
  def default_pool, do: Pool.Handle.default()

  @doc """
  A pool's counts of calls by way and of bytes, its workers, its queue, and its shared memory.

  `:breakers` has the answers of `Snakepit.Breaker.explain/3`: for the ways `:zero_copy` and `:grpc`; under `:workers` for
  each worker by its index, where a run that dies within 30 s without a call is a failure; under `:commands` for each
  command that killed a worker within the last minute, with `:deaths` (the number of workers) and `:last` (how the last
  one ended).
  """
  @spec get_stats(atom()) :: {:ok, map()} | {:error, Error.t()}
  def get_stats(name \\ nil) do
    with {:ok, handle} <- Pool.Handle.fetch(name || default_pool()) do
      leases = Snakepit.Native.arena_leases(handle.arena)

      {:ok,
       handle.counters
       |> Pool.Counters.all()
       |> Map.merge(Pool.status(handle))
       |> Map.merge(%{
         pool: handle.name,
         memory: Snakepit.Native.arena_usage(handle.arena),
         memory_quota: handle.quota,
         breakers:
           handle.breaker
           |> states()
           |> Map.put(:workers, states(handle.workers_breaker))
           |> Map.put(:commands, Pool.CommandBreaker.explain(handle.commands)),
         leased_bytes: leases |> Enum.map(&elem(&1, 1)) |> Enum.sum()
       })}
    end
  end

  defp states(breaker),
    do: Map.new(Breaker.targets(breaker), fn target -> {target, Breaker.explain(breaker, target)} end)

  @doc """
  Keeps a pool's calls from using `way` (`:zero_copy` or `:grpc`), for requests and replies, until `reset_way/2`.

  Calls take the remaining ways. A call that has none, or that forces this way, gets an error of category `:transfer` and
  reason `:breaker_open`. `:inline` cannot be isolated, because it must work when nothing else does.
  """
  @spec isolate_way(atom(), Transfer.way()) :: :ok | {:error, Error.t()}
  def isolate_way(pool, way), do: on_breaker(pool, way, &Breaker.isolate/2)

  @doc "Allows a pool's calls to use `way` again at once, whether it was isolated or failed too often."
  @spec reset_way(atom(), Transfer.way()) :: :ok | {:error, Error.t()}
  def reset_way(pool, way), do: on_breaker(pool, way, &Breaker.reset/2)

  defp on_breaker(pool, way, fun) do
    with {:ok, handle} <- Pool.Handle.fetch(pool) do
      if way in Transfer.guarded() do
        fun.(handle.breaker, way)
      else
        words =
          "pool #{inspect(pool)}: expected :way to be one of #{Enum.map_join(Transfer.guarded(), ", ", &inspect/1)}, got: #{inspect(way)}"

        {:error, Error.new(:validation, :invalid_option, words, pool: pool)}
      end
    end
  end

  @doc """
  Allows a command again at once that is refused because its calls killed too many workers, and clears its counts.

  A command is refused when, within a minute, its calls killed as many workers as the pool has (at least three), and these
  calls were at least a fifth of its calls. The error has category `:pool` and reason `:command_breaker_open`. After a
  while the command is tried by one call at a time. `restart_pool/1` also clears the counts.
  """
  @spec reset_command(atom(), String.t() | atom()) :: :ok | {:error, Error.t()}
  def reset_command(pool, command) do
    with {:ok, handle} <- Pool.Handle.fetch(pool) do
      Pool.reset_command(handle, to_string(command))
      :ok
    end
  end

  @doc """
  The workers of a pool, or of all pools: name, index, status, OS pid, Python version, names of tools, number of restarts, and
  how the last run ended. `tools/1` has more about the tools.

  Raises `Snakepit.Error` if there is no such pool.
  """
  @spec list_workers(atom() | nil) :: [map()]
  def list_workers(name \\ nil) do
    # A pool may stop while the list is made.
    with true <- name != nil, {:error, error} <- Pool.Handle.fetch(name), do: raise(error)

    Enum.flat_map(List.wrap(name || Pool.Handle.names()), &Pool.Supervisor.described/1)
  end

  @doc """
  The tools of a pool, or of all pools, each with its signature and docstring: `Snakepit.Tool`.

  If the pool is still starting, this waits until its first worker has imported its modules. Raises `Snakepit.Error` if
  the pool does not exist or could not start. The list of all pools omits pools that could not start, and raises only if
  there is no other.
  """
  @spec tools(atom() | nil) :: [Snakepit.Tool.t()]
  def tools(name \\ nil)

  def tools(nil) do
    answers = for pool <- Enum.sort(Pool.Handle.names()), do: tools_of(pool)
    tools = for {:ok, tools} <- answers, tool <- tools, do: tool

    case {tools, Enum.find(answers, &match?({:error, _}, &1))} do
      {[], {:error, error}} -> raise error
      _ -> tools
    end
  end

  def tools(name) do
    case tools_of(name) do
      {:ok, tools} -> tools
      {:error, error} -> raise error
    end
  end

  defp tools_of(name) do
    with {:ok, handle} <- Pool.Handle.fetch(name), do: Pool.tools(handle)
  end

  @doc """
  Starts Snakepit, runs `fun`, and stops everything, for scripts and mix tasks: no worker is left.

  Options: `:pools`, a list of pools to start first; `:halt`, whether to end the VM after `fun` (default `false`). Pools
  reload Python code only if their options, or the configuration, say so.
  """
  @spec run_as_script((() -> result), keyword()) :: result | {:error, Error.t()} when result: term()
  def run_as_script(fun, opts \\ []) when is_function(fun, 0) do
    # A script ends before anybody edits its Python code.
    reload_unset? = Snakepit.Config.get(:reload) == nil
    if reload_unset?, do: Application.put_env(:snakepit, :reload, false)
    {:ok, _} = Application.ensure_all_started(:snakepit)

    result =
      try do
        with :ok <- start_all(Keyword.get(opts, :pools, [])), do: fun.()
      after
        Application.stop(:snakepit)
        if reload_unset?, do: Application.delete_env(:snakepit, :reload)
      end

    if opts[:halt], do: System.halt(if(match?({:error, _}, result), do: 1, else: 0))
    result
  end

  defp start_all(pools) do
    Enum.reduce_while(pools, :ok, fn pool, :ok ->
      case start_pool(pool) do
        {:ok, _} -> {:cont, :ok}
        {:error, error} -> {:halt, {:error, error}}
      end
    end)
  end
end
