defmodule Snakepit.Pool.Handle do
  @moduledoc false
  # All that a caller needs of a pool, in one persistent term: no process is asked on the way to a lane but the pool itself.

  alias Snakepit.{Breaker, Error, Native, Pool, Transfer}

  @enforce_keys [:name, :options, :arena, :quota, :counters, :retries] ++
                  [
                    :breaker,
                    :workers_breaker,
                    :commands,
                    :trouble,
                    :tools,
                    :queue,
                    :lanes,
                    :pool,
                    :arena_maintenance,
                    :performance,
                    :busy_poll
                  ]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          name: atom(),
          options: Pool.Options.t(),
          arena: Native.arena(),
          quota: pos_integer(),
          counters: :counters.counters_ref(),
          retries: Pool.Retries.t(),
          breaker: Breaker.t(),
          workers_breaker: Breaker.t(),
          commands: Pool.CommandBreaker.t(),
          trouble: :ets.table(),
          tools: :ets.table(),
          queue: Native.queue(),
          lanes: :ets.table(),
          pool: GenServer.name(),
          arena_maintenance: GenServer.name(),
          performance: term(),
          busy_poll: Native.busy_poll() | nil
        }

  # By the pool's process: it owns the checkout queue and the table of lanes.
  @spec new(Pool.Options.t()) :: t()
  def new(%Pool.Options{} = options) do
    quota = options.memory_quota || max(div(Snakepit.Machine.memory(), 4), 4 * options.chunk_size)
    {arena, _owner} = Native.arena_new(options.chunk_size, div(quota, 2))

    %__MODULE__{
      name: options.name,
      options: options,
      arena: arena,
      quota: quota,
      counters: Pool.Counters.new(),
      retries: Pool.Retries.new(),
      # A target per way; one per worker, which its runs that died young without a call open; and the commands' own.
      breaker: Breaker.new(Transfer.guarded(), options.breaker),
      workers_breaker: Breaker.new(Enum.to_list(0..(options.size - 1)), Pool.Deaths.worker_breaker()),
      commands: Pool.CommandBreaker.new(options.size),
      # {:last, why a worker ended or did not start}, for errors while none is up.
      trouble: :ets.new(:snakepit_trouble, [:set, :protected, read_concurrency: true]),
      tools: Pool.Tools.new(),
      queue: Native.queue_new(self(), options.size, Pool.Options.lanes(options), options.max_queue),
      # {{lane id, run}, %Lane{}}
      lanes: :ets.new(:snakepit_lanes, [:set, :protected, read_concurrency: true]),
      pool: name(:pool, options.name),
      arena_maintenance: name(:arena, options.name),
      # It belongs to the modules that measure calls: a pool does not look into it.
      performance: options.performance && options.performance.(options),
      busy_poll: if((us = Pool.Options.busy_poll(options)) > 0, do: Native.busy_poll_new(us))
    }
  end

  @doc "The handle of the same pool with so many workers."
  @spec resize(t(), pos_integer()) :: t()
  def resize(%__MODULE__{} = handle, size) do
    %{
      with_room(handle, size)
      | options: %{handle.options | size: size},
        commands: Pool.CommandBreaker.resize(handle.commands, size)
    }
  end

  @doc "The same handle, where so many workers may come up."
  @spec with_room(t(), pos_integer()) :: t()
  def with_room(%__MODULE__{} = handle, workers),
    do: %{handle | workers_breaker: Breaker.retarget(handle.workers_breaker, Enum.to_list(0..(workers - 1)))}

  @doc "The registered name of one of a pool's processes."
  @spec name(atom(), atom()) :: GenServer.name()
  def name(role, pool), do: {:via, Registry, {Snakepit.Registry, {role, pool}}}

  @spec publish(t()) :: :ok
  def publish(%__MODULE__{name: name} = handle), do: :persistent_term.put({__MODULE__, {:pool, name}}, handle)

  @spec withdraw(atom()) :: boolean()
  def withdraw(name), do: :persistent_term.erase({__MODULE__, {:pool, name}})

  @doc "As `fetch/1`, for the pool's own processes, which start after it was published."
  @spec fetch!(atom()) :: t()
  def fetch!(name), do: :persistent_term.get({__MODULE__, {:pool, name}})

  @spec fetch(atom()) :: {:ok, t()} | {:error, Error.t()}
  def fetch(name) do
    case :persistent_term.get({__MODULE__, {:pool, name}}, nil) do
      nil ->
        with :ok <- application(),
             do: {:error, if(restarting?(name), do: restarts(name), else: unknown(name))}

      handle ->
        {:ok, handle}
    end
  end

  @doc "Whether it is still the pool of its name that runs: not one that was stopped, or another one since."
  @spec current?(t()) :: boolean()
  def current?(%__MODULE__{name: name, queue: queue}),
    do: match?(%{queue: ^queue}, :persistent_term.get({__MODULE__, {:pool, name}}, nil))

  @doc "While `fun` runs, the pool is known to be started again; for the process that calls."
  @spec restarting(atom(), (() -> result)) :: result when result: term()
  def restarting(name, fun) do
    Registry.register(Snakepit.Registry, {:restarting, name}, nil)
    fun.()
  after
    Registry.unregister(Snakepit.Registry, {:restarting, name})
  end

  defp restarting?(name), do: Registry.lookup(Snakepit.Registry, {:restarting, name}) != []

  defp restarts(name) do
    words = "pool #{inspect(name)} is being restarted (Snakepit.restart_pool/1)"
    Error.new(:pool, :stopping, words, pool: name)
  end

  @doc "Whether Snakepit runs, and so has anything that could be asked for a pool."
  @spec application() :: :ok | {:error, Error.t()}
  def application do
    if Process.whereis(Snakepit.Supervisor) do
      :ok
    else
      words = "the application :snakepit is not started: Application.ensure_all_started(:snakepit)"
      {:error, Error.new(:pool, :not_started, words)}
    end
  end

  @doc "The pool of calls that name none: the configured one, else the one started first of those that run."
  @spec default() :: atom() | nil
  def default do
    case :persistent_term.get({__MODULE__, :default_of_all}, nil) do
      {_how, name} -> name
      nil -> nil
    end
  end

  @spec set_default(atom() | nil) :: :ok
  def set_default(nil), do: :persistent_term.put({__MODULE__, :default_of_all}, nil)
  def set_default(name), do: :persistent_term.put({__MODULE__, :default_of_all}, {:configured, name})

  @doc "Makes this pool the default, unless one is configured or the present one runs."
  @spec offer_as_default(atom()) :: :ok
  def offer_as_default(name) do
    case :persistent_term.get({__MODULE__, :default_of_all}, nil) do
      {:configured, _} -> :ok
      nil -> set_first(name)
      {:first, present} -> if published?(present), do: :ok, else: set_first(name)
    end
  end

  defp set_first(name), do: :persistent_term.put({__MODULE__, :default_of_all}, {:first, name})
  defp published?(name), do: :persistent_term.get({__MODULE__, {:pool, name}}, nil) != nil

  @doc "The names of all pools."
  @spec names() :: [atom()]
  def names, do: for(name <- registered(), published?(name), do: name)

  # By the name of the pool's process: the registry has some entries per pool, where there are thousands of persistent
  # terms of everybody's.
  defp registered do
    Registry.select(Snakepit.Registry, [{{{:pool, :"$1"}, :_, :_}, [], [:"$1"]}])
  rescue
    # It does not run.
    ArgumentError -> []
  end

  defp unknown(nil) do
    Error.new(
      :validation,
      :unknown_pool,
      "no pool is configured: see Snakepit.start_pool/1, or config :snakepit, pools: […]"
    )
  end

  defp unknown(name) do
    names = names()
    near = is_atom(name) && Snakepit.Options.nearest(name, names)

    suggestion =
      cond do
        near -> "; did you mean #{inspect(near)}?"
        names == [] -> "; no pool is running"
        true -> "; running are #{Enum.map_join(names, ", ", &inspect/1)}"
      end

    pool = if is_atom(name), do: name
    Error.new(:validation, :unknown_pool, "there is no pool #{inspect(name)}#{suggestion}", pool: pool)
  end
end
