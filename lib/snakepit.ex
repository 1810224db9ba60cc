defmodule Snakepit do
  @external_resource "README.md"
  @moduledoc "README.md" |> File.read!() |> String.split("<!-- moduledoc -->") |> Enum.at(1)

  alias Snakepit.{Breaker, Call, Error, Observation, Performance, Pool, Python, Transfer}

  @type command :: String.t() | atom()
  @type args :: %{optional(String.t() | atom()) => term()}

  @doc """
  Runs the tool `command` in a worker and returns its result.

  The result of a tool that yields is the list of its items, as Python's `list()` makes of it: `execute_stream/4` has
  what such a tool returns as well.

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

  @doc "As `execute/3`, with what the call cost beside the result."
  @spec observe(command(), args(), keyword()) :: {{:ok, term()} | {:error, Error.t()}, Observation.t()}
  def observe(command, args \\ %{}, opts \\ []), do: Call.run(command, args, opts)

  @doc """
  Why a call with these arguments would go the way it would, and which ways other sizes take. Nothing is called.

  The answer prints as a table: `IO.puts(explanation)`. Its fields: `Snakepit.Performance.Explanation`.
  """
  @spec explain(command(), args(), keyword()) :: {:ok, Performance.Explanation.t()} | {:error, Error.t()}
  def explain(command, args \\ %{}, opts \\ []), do: Call.explain(command, args, opts)

  @doc """
  Runs a tool that yields (a Python generator) and calls `fun` with each item as it comes. The answer has what the
  generator returned at its end: `{:ok, returned}`, where `returned` is `nil` if it returned nothing.

  To stop early, take what is wanted of `stream/3`.

  An `async` generator has no such value, and a tool that does not yield has one item, and none either. The worker waits
  while `fun` runs: no more than a socket's buffer is under way. `stream/3` says how long it may take. Options are those of
  `execute/3` but `:idempotent`.
  """
  @spec execute_stream(command(), args(), (term() -> any()), keyword()) ::
          {:ok, returned :: term()} | {:error, Error.t()}
  def execute_stream(command, args, fun, opts \\ []) when is_function(fun, 1) do
    Call.each(command, args, opts, fun)
  end

  @doc """
  The items of a tool that yields, as a lazy `Stream`. Raises `Snakepit.Error` while it is read.

  The tool of a stream that is left before its end is cancelled, as if it had timed out. A stream that is suspended, as
  by `Stream.zip/2`, holds its worker until it goes on or is left.

  A stream may take as long as it wants as long as its tool goes on: `:item_timeout` bounds the time that the tool takes
  for one item (not what the consumer takes), `:timeout` all of it (the consumer's time included). The error says which of
  them passed, and after how many items: `error.reason` is `:item_timeout` or `:timeout`, `error.details.items` the number.

  What a generator returns at its end is not asked for unless `:on_return` is given. Options are those of `execute/3` but
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

  Each item is the map of arguments of one call. `:max_concurrency` defaults to the pool's lanes. If no item could be
  called, since an option is wrong or the pool is not there, the answer is one error instead of a list.
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
  Cancels all calls, streams and items of maps that were given this `:correlation_id`, in every pool and whichever process
  called them: how many, `{:ok, 0}` if there is none (any more).

  Each of them answers with an error of category `:cancelled`. A call that waits for a worker leaves the queue. A tool that
  runs is ended as at a timeout: `snakepit.cancelled()` is true, `snakepit.Cancelled` is raised in it, and its worker is
  replaced if it does not end within the pool's `:cancel_grace`. The items of a `map/3` that were not begun are not counted,
  and not begun. A stream whose consumer is busy learns it when it asks for the next item; its tool is ended at once.

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
  Marks a binary to be sent as bytes instead of as a `str`. `Snakepit.Bytes` says which type a tool gets.

      iex> Snakepit.bytes(<<255>>)
      %Snakepit.Bytes{data: <<255>>}
  """
  @spec bytes(binary()) :: Snakepit.Bytes.t()
  def bytes(data) when is_binary(data), do: %Snakepit.Bytes{data: data}

  @doc """
  Copies a binary, or a tensor's data, into the pool's shared memory, once: every later call that passes the result to
  a worker of this pool moves none of it.

  The answer is equal to what was given. Its memory is free again when nothing refers to it.
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
  Lets go of results in shared memory at once, instead of when the caller next collects its garbage.

  Pass the value as the last use of it: the caller's garbage is collected, and the answer says how many bytes came
  free. It is 0 when something else still refers to them, such as a variable used later, another process, or a binding
  in IEx. Nothing that is still in use is ever taken away.
  """
  @spec release(term()) :: non_neg_integer()
  def release(value) do
    watch = Snakepit.Native.watch(value)
    :erlang.garbage_collect()
    freed(watch, 10)
  end

  # Destructors run when a scheduler next looks for work: it is given the chance.
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

  Prints a line for each thing that it does; where all is there already, it does nothing. Installing takes as long as it
  takes to fetch the packages. Workers that run keep what they have imported: `restart_pool/1` gives them the new packages.

  An error has category `:validation` where an option, or what was asked for, is wrong, and `:pool` with reason
  `:setup_failed` where it could not be installed; its message says what to do. Options:

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

  Started again under the name of a pool that has such source too, it takes the place of that pool, as a cell does that is
  evaluated again: running calls may finish, and then the old one is gone, whether the new one can start or not.
  """
  @spec start_pool(map() | keyword() | {module(), map() | keyword()}) :: {:ok, pid()} | {:error, Error.t()}
  def start_pool(options) do
    with {:ok, options} <- Pool.Options.new(options),
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
  Stops a pool and starts it with the options it had: for a configured pool that could not start, once what was wrong
  is mended, and for Python code that was edited.

  A pool that cannot start this time either stays, and its calls say why. Calls made meanwhile are refused: with category
  `:pool` and reason `:stopping`.
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

  # One at a time: cells that are evaluated at once would each find the other's pool.
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
    case DynamicSupervisor.start_child(Snakepit.Pools, Pool.Supervisor.child_spec(options)) do
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
  Gives a pool another number of workers while its calls go on; none is lost, refused or tried again for it.

  A pool that grows: answers `{:ok, size}` once all new workers are ready; each takes calls as soon as it is. If one cannot
  start, the others leave again, the size stays, and the answer is that one's error.

  A pool that shrinks: the workers of the highest numbers leave, and the answer comes at once. Those without a call end now,
  the others when their calls, streams too, are over; `list_workers/1` shows these as `:leaving` until then.

  A session whose worker leaves has another one from its next call on, where its dict is empty. When a pool grows from n
  to m workers, m - n of m sessions move to new workers in the same way; all others stay where they are.

  Changes of one pool are made one after the other. `restart_pool/1` keeps the size; a pool that is stopped and
  started has that of its options. Of default variables that divide the cores (`OMP_NUM_THREADS`), running workers keep
  theirs. Errors: those of a start, `:invalid_option`, and category `:pool` of a pool that is stopping or could not start.
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
  What a pool has done and holds: counts of calls by way, bytes, workers, queue, shared memory.

  `:breakers` has, for `:zero_copy` and `:grpc`, what `Snakepit.Breaker.explain/3` says; `:workers` has the same for each
  worker by its number, whose runs that died within 30 s without a call count as failures; `:commands` for each command
  that ended a worker within the last minute, with `:deaths` (workers it ended) and `:last` (how the last one did).
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

  Calls go by the ways that are left. One that has none, or forces this one, gets an error of category `:transfer` and
  reason `:breaker_open`. `:inline` cannot be isolated: it is what is left when nothing else works.
  """
  @spec isolate_way(atom(), Transfer.way()) :: :ok | {:error, Error.t()}
  def isolate_way(pool, way), do: on_breaker(pool, way, &Breaker.isolate/2)

  @doc "Lets a pool's calls use `way` again at once, whether it was isolated or failed too often."
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
  Lets calls of a command run again at once that is refused because it ended too many workers, and forgets what it did.

  A command whose calls ended as many workers within a minute as the pool has, three at least, and a fifth of whose calls
  did, is refused with category `:pool` and reason `:command_breaker_open`, and tried by one call at a time after a
  while. `restart_pool/1` forgets it, too.
  """
  @spec reset_command(atom(), String.t() | atom()) :: :ok | {:error, Error.t()}
  def reset_command(pool, command) do
    with {:ok, handle} <- Pool.Handle.fetch(pool) do
      Pool.reset_command(handle, to_string(command))
      :ok
    end
  end

  @doc """
  The workers of a pool, or of all pools: name, index, status, OS pid, Python version, names of tools, restarts, and how the
  last run ended, if one did. `tools/1` says more of the tools.

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

  A pool that is still starting is waited for, as a call waits, until its first worker has imported its modules. Raises
  `Snakepit.Error` if there is no such pool, or if it could not start. The list of all pools leaves out those that could
  not start, and raises only if nothing is left of it.
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
  Runs `fun` with Snakepit started, in a script or a mix task, and stops everything after it: no worker stays behind.

  Options: `:pools`, a list of pools to start first; `:halt`, whether to end the VM with `fun` (default `false`). Pools do
  not reload Python code unless they, or the configuration, say so.
  """
  @spec run_as_script((() -> result), keyword()) :: result | {:error, Error.t()} when result: term()
  def run_as_script(fun, opts \\ []) when is_function(fun, 0) do
    # A script is over before anybody edits what it calls.
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
