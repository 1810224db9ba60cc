defmodule Snakepit.Test do
  alias Snakepit.{Error, Pool}
  alias Snakepit.Test.{Holder, Options, PythonError, Run, Stubs, Tool, Worker}

  @moduledoc """
  Pools of fake tools, so that the tests of an application need no Python.

  A fake pool takes calls as any other does, and Elixir functions answer them. All between is the real thing: the checks of
  a call's options and arguments, the types that cross and how they come back, queue and saturation, timeouts, sessions,
  streams, statistics, telemetry. No Python is looked for, and no OS process is started.

  ## For a whole suite

      # config/test.exs
      config :snakepit, pools: [{Snakepit.Test, name: :tools, tools: MyApp.FakeTools}]

      # test/support/fake_tools.ex
      defmodule MyApp.FakeTools do
        def add(%{"a" => a, "b" => b}), do: a + b
        def countdown(%{"n" => n}), do: Stream.take(Stream.iterate(n, &(&1 - 1)), n)
      end

  Each public function of one argument, or of none, is a tool. It gets the arguments as a Python tool would, as Elixir
  has them: names are strings, atoms have become strings, bytes are binaries. Its result comes to the caller as it
  would from Python. A `Stream` is what a generator is in Python.

  ## For one test

      start_supervised!({Snakepit.Test, name: :my_pool, tools: %{"add" => fn %{"a" => a, "b" => b} -> a + b end}})
      assert {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: :my_pool)

  The pool ends with the test. `start_pool/1` starts one that stays until `Snakepit.stop_pool/1`.

  ## Replacing a tool

  `stub/3` replaces a tool of a running fake pool for the calls that belong to the calling process: its own, and those of
  processes that work for it (tasks, children of `start_supervised`, what these start). So tests may be `async: true`, and
  use the same pool with different tools. `allow/2` adds processes that neither callers nor ancestors connect.

      Snakepit.Test.stub(:tools, "add", fn _ -> raise Snakepit.Test.PythonError, type: "ValueError", message: "no" end)
      assert {:error, %{python_type: "ValueError"}} = MyApp.sum(1, 2)

  ## What was called

      import Snakepit.Test
      watch(:tools)
      MyApp.sum(1, 2)
      assert_called "add", %{"a" => 1}

  ## What else may happen

  | to see | let the fake tool |
  |---|---|
  | a Python exception | raise `Snakepit.Test.PythonError`; other exceptions are named by their module |
  | a timeout | wait; its process is killed when nobody waits for the call any more |
  | a worker's death | call `kill_worker/1`, or call it from the test while the tool waits |
  | a full queue | wait, in a pool of `size: 1, max_queue: 0` |

  ## Where a fake pool differs

  - Without `:params` (`tool/2`) a tool takes any arguments. With them, their names and types are checked, not what lists
    and dicts have inside.
  - No bytes go by gRPC, and nothing is measured: `Snakepit.explain/3` is an error. Results are never in shared memory.
  - A tool is killed at once when it is cancelled; there is no `snakepit.cancelled()`, and so no `:cancel_grace`.
  - Its workers have no OS process (`os_pid` is nil), and print nothing.

  Tests that run at once share a pool's workers as they would real ones: give a pool for the whole suite the `:size` it
  needs, and tools that wait, or kill their worker, a pool of their own.

  A fake pool's options:

  #{Options.docs()}
  """

  @typedoc "A fake tool: a function of its arguments, or of none; or one whose value is what the tool yields."
  @type fake :: (() -> term()) | (map() -> term()) | {:stream, (map() -> Enumerable.t())} | Tool.t()

  @doc "Starts a fake pool, which stays until `Snakepit.stop_pool/1`."
  @spec start_pool(keyword() | map()) :: {:ok, pid()} | {:error, Error.t()}
  def start_pool(options), do: Snakepit.start_pool({__MODULE__, options})

  @doc "For `start_supervised/1` and supervisors: a fake pool that ends with them."
  @spec child_spec(keyword() | map()) :: Supervisor.child_spec()
  def child_spec(options) do
    name = if is_map(options) or Keyword.keyword?(options), do: Access.get(options, :name)
    # A pool stops in its own time: running calls may finish.
    %{id: {__MODULE__, name}, start: {Holder, :start_link, [{__MODULE__, options}]}, shutdown: :infinity}
  end

  @doc false
  # For `Snakepit.Pool.Options.new/1`.
  @spec pool_options(keyword() | map()) :: {:ok, Pool.Options.t()} | {:error, Error.t()}
  def pool_options(options), do: Options.new(options, Worker)

  @doc """
  A fake tool with a signature, for `:tools` and `stub/3`.

      tool(fn %{"a" => a, "b" => b} -> a + b end, params: [a: :int, b: {:int, 1}])

  A parameter is its name, or `{name, type}`, or `{name, {type, default}}`; of several types, a list. A call whose arguments
  do not fit fails as it would in Python, before the function runs. Types: #{Enum.map_join(Tool.types(), ", ", &"`#{inspect(&1)}`")}.

  Options:

  #{Tool.docs()}

  Raises `ArgumentError` if they are wrong.
  """
  @spec tool((() -> term()) | (map() -> term()), keyword()) :: Tool.t()
  def tool(fun, opts \\ []) do
    case Tool.new(fun, opts) do
      {:ok, tool} -> tool
      {:error, words} -> raise ArgumentError, "a fake tool: #{words}"
    end
  end

  @doc "As `stub/3`, in the pool of calls that name none."
  @spec stub(String.t() | atom(), fake()) :: :ok
  def stub(command, fake), do: stub(nil, command, fake)

  @doc """
  Replaces a tool for calls that belong to the calling process, until that ends. The last stub counts.

  The pool's description of the tool stays: whether it yields, and its parameters, unless `fake` is a `tool/2` with its own.

  Raises `ArgumentError` if the pool is none of fake tools, or has tools and this is none of them; a pool without any
  (`tools: %{}`) takes stubs for all.
  """
  @spec stub(atom(), String.t() | atom(), fake()) :: :ok
  def stub(pool, command, fake) do
    {pool, tools} = fake_pool!(pool)
    command = command!(command)
    declared = declared!(pool, tools, command)

    case Tool.new(fake) do
      {:ok, tool} ->
        tool = %{
          tool
          | name: command,
            params: if(is_struct(fake, Tool) and tool.params, do: tool.params, else: declared.params),
            stream?: tool.stream? or declared.stream?
        }

        Stubs.stub(self(), pool, command, tool)

      {:error, words} ->
        raise ArgumentError, "a stub of #{inspect(command)}: #{words}"
    end
  end

  # As a call takes it.
  defp command!(command) when is_binary(command), do: command

  defp command!(command) when is_atom(command) and command not in [nil, true, false],
    do: Atom.to_string(command)

  defp command!(other) do
    raise ArgumentError,
          "expected a command, which is a tool's name as a string or an atom, got: " <>
            inspect(other, printable_limit: 100)
  end

  defp declared!(_pool, tools, _command) when tools == %{}, do: %Tool{fun: nil}

  defp declared!(pool, tools, command) do
    with nil <- tools[command] do
      names = tools |> Map.keys() |> Enum.sort()
      near = Snakepit.Options.nearest(command, names)
      suggestion = if near, do: "did you mean #{near}?", else: "it has #{Enum.join(names, ", ")}"

      raise ArgumentError,
            "pool #{inspect(pool)} has no tool #{inspect(command)} to be stubbed; #{suggestion}"
    end
  end

  @doc """
  Calls of another process also belong to `owner`: `owner`'s stubs answer them, and `owner` can assert them.

  For processes that neither callers nor ancestors connect with the test. `pid` may be a registered name, or `:all`: every
  call that belongs to nobody else, for tests that are not `async: true`.
  """
  @spec allow(pid() | atom(), pid()) :: :ok
  def allow(pid, owner \\ self()) when (is_pid(pid) or is_atom(pid)) and is_pid(owner),
    do: Stubs.allow(owner, pid)

  @doc """
  From now on, the calling process gets `{:snakepit_called, command, args}` for each call to the pool that belongs to it
  (as in `stub/3`) and whose arguments were right, before the fake tool runs.
  """
  @spec watch(atom()) :: :ok
  def watch(pool \\ nil) do
    {pool, _tools} = fake_pool!(pool)
    Stubs.watch(self(), pool)
  end

  @doc """
  Asserts that a tool was called, or is within ExUnit's `assert_receive_timeout`, with arguments that match the pattern.

  The process must `watch/1` the pool. Each call is asserted once: the next assertion is of the calls after it.
  """
  defmacro assert_called(command, args \\ quote(do: _)) do
    quote do
      require ExUnit.Assertions
      command = Snakepit.Test.watched!(unquote(command))
      ExUnit.Assertions.assert_receive({:snakepit_called, ^command, unquote(args)})
    end
  end

  @doc "Asserts that no call of a tool with arguments that match the pattern has been made so far. See `assert_called/2`."
  defmacro refute_called(command, args \\ quote(do: _)) do
    quote do
      require ExUnit.Assertions
      command = Snakepit.Test.watched!(unquote(command))
      ExUnit.Assertions.refute_received({:snakepit_called, ^command, unquote(args)})
    end
  end

  @doc false
  @spec watched!(String.t() | atom()) :: String.t()
  def watched!(command) do
    if Stubs.watches?(self()),
      do: command!(command),
      else:
        raise(
          ArgumentError,
          "this process gets no messages of calls: call Snakepit.Test.watch/1 before they are made"
        )
  end

  @doc """
  Ends a worker, as a crash of its Python would: called by a fake tool, its own; called by a test, one of the pool's,
  a busy one if there is one. Its calls get an error of category `:worker`, and it is started again.

  Raises `Snakepit.Error` if the pool has no worker that runs.
  """
  @spec kill_worker(atom()) :: :ok | no_return()
  def kill_worker(pool \\ nil) do
    case Run.context() do
      %{worker: worker} when pool == nil ->
        Worker.crash(worker)
        Process.sleep(:infinity)

      _a_test ->
        {pool, _tools} = fake_pool!(pool)
        pool |> Worker.of_pool() |> end_one(pool)
    end
  end

  defp end_one([], pool),
    do: raise(Error.new(:worker, :lost, "pool #{inspect(pool)} has no worker that runs", pool: pool))

  defp end_one([worker | _], _pool) do
    monitor = Process.monitor(worker)
    Worker.crash(worker)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    end
  end

  @doc """
  In a fake tool: the map of this call's session, to which `put_session/2` adds. It lives as long as the worker does.

  Raises `LookupError`, as `snakepit.session()` does, if the call has no session.
  """
  @spec session() :: map()
  def session do
    %{sessions: table, session: name} = in_session!()

    case :ets.lookup(table, name) do
      [{_, session}] -> session
      [] -> %{}
    end
  end

  @doc "In a fake tool: keeps a value for later calls of this session."
  @spec put_session(term(), term()) :: :ok
  def put_session(key, value) do
    %{sessions: table, session: name} = in_session!()
    :ets.insert(table, {name, Map.put(session(), key, value)})
    :ok
  end

  defp in_session! do
    case context!() do
      %{session: nil} ->
        words = "this call has no session: pass session_id, or use execute_in_session"
        raise PythonError, type: "LookupError", message: words

      context ->
        context
    end
  end

  @doc "In a fake tool: the `:correlation_id` of the call."
  @spec correlation_id() :: String.t() | nil
  def correlation_id, do: context!().correlation_id

  defp context! do
    Run.context() ||
      raise ArgumentError,
            "this is for fake tools, in the process that runs them, which #{inspect(self())} is not"
  end

  defp fake_pool!(pool) do
    case Pool.Handle.fetch(pool || Snakepit.default_pool()) do
      {:ok, %{name: name, options: %{fake: {Worker, %{tools: tools}}}}} ->
        {name, tools}

      {:ok, %{name: name}} ->
        raise ArgumentError, "pool #{inspect(name)} is none of fake tools: start it by Snakepit.Test"

      {:error, error} ->
        raise error
    end
  end
end
