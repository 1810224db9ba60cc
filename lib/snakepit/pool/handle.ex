defmodule Snakepit.Pool.Handle do
  @moduledoc false
  # What a caller needs of a pool, in one persistent term: no process is asked on the way to a lane but the pool itself.

  alias Snakepit.{Error, Native, Pool}

  @enforce_keys [:name, :options, :arena, :quota, :counters]
  defstruct [:name, :options, :arena, :quota, :counters, :pool, :arena_keeper]

  @type t :: %__MODULE__{
          name: atom(),
          options: Pool.Options.t(),
          arena: Native.arena(),
          quota: pos_integer(),
          counters: :counters.counters_ref(),
          pool: GenServer.name(),
          arena_keeper: GenServer.name()
        }

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
      pool: {:via, Registry, {Snakepit.Registry, {:pool, options.name}}},
      arena_keeper: {:via, Registry, {Snakepit.Registry, {:arena, options.name}}}
    }
  end

  @spec publish(t()) :: :ok
  def publish(%__MODULE__{name: name} = handle), do: :persistent_term.put({__MODULE__, name}, handle)

  @spec withdraw(atom()) :: boolean()
  def withdraw(name), do: :persistent_term.erase({__MODULE__, name})

  @spec fetch(atom()) :: {:ok, t()} | {:error, Error.t()}
  def fetch(name) do
    case :persistent_term.get({__MODULE__, name}, nil) do
      nil -> {:error, unknown(name)}
      handle -> {:ok, handle}
    end
  end

  @doc "The names of all pools."
  @spec names() :: [atom()]
  def names, do: for({{__MODULE__, name}, _} <- :persistent_term.get(), do: name)

  defp unknown(nil) do
    Error.new(:validation, :unknown_pool, "no pool is configured: see Snakepit.start_pool/1, or config :snakepit, pools: […]")
  end

  defp unknown(name) do
    names = names()
    near = is_atom(name) && Snakepit.Options.nearest(name, names)

    hint =
      cond do
        near -> "; did you mean #{inspect(near)}?"
        names == [] -> "; no pool is running"
        true -> "; running are #{Enum.map_join(names, ", ", &inspect/1)}"
      end

    Error.new(:validation, :unknown_pool, "there is no pool #{inspect(name)}#{hint}")
  end
end
