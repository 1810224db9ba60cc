defmodule Snakepit.Test.Options do
  @moduledoc false
  # The options of a fake pool, and its tools in whichever form they are given. Pure.

  alias Snakepit.{Error, Options, Pool}
  alias Snakepit.Test.Tool

  @of_pools [:size, :worker_profile, :threads_per_worker, :max_queue, :timeout, :shutdown_timeout]
  @own [
    name: [type: :atom, required: true, doc: "What calls name the pool by."],
    tools: [
      type: :any,
      default: %{},
      doc:
        "The fake tools: a map (or keyword list) of names to functions; a module, each of whose public functions of one " <>
          "argument, or of none, is a tool; or a function of no arguments that returns either."
    ]
  ]
  @schema @own ++ Pool.Options.schema(@of_pools)

  # Small, because a suite may have many pools. Callers do not spin: the fake tools run on the same schedulers.
  @fixed %{
    python_module: "fake",
    transfers: [:zero_copy, :inline],
    chunk_size: 1024 * 1024,
    busy_poll: 0,
    reload: false,
    performance_policy: [enabled: false]
  }

  @doc "The options as Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@schema)

  @doc "A pool's options, for fake workers that `launcher` starts."
  @spec new(map() | keyword(), module()) :: {:ok, Pool.Options.t()} | {:error, Error.t()}
  def new(given, launcher) do
    with :ok <- no_other_pools(given),
         {:ok, options} <- Options.validate(given, @schema),
         {:ok, tools} <- tools(options.tools),
         kept = options |> Map.take([:name | @of_pools]) |> Map.merge(@fixed),
         {:ok, pool} <- Pool.Options.new(kept) do
      {:ok, %{pool | fake: {launcher, %{tools: tools}}}}
    else
      {:error, %Error{}} = error -> error
      {:error, key, words} -> refused(given, key, words)
    end
  end

  # A copied entry of the real pool has keys that would do nothing here.
  defp no_other_pools(given) when is_map(given) or is_list(given) do
    case Enum.find(given, fn
           {key, _} -> key in Pool.Options.keys() and not Keyword.has_key?(@schema, key)
           _no_pair -> false
         end) do
      nil -> :ok
      {key, _} -> {:error, key, "#{inspect(key)} has no effect in a fake pool (Snakepit.Test); leave it out"}
    end
  end

  defp no_other_pools(_other), do: :ok

  defp refused(given, key, words) do
    name = if is_map(given) or Keyword.keyword?(given), do: Access.get(given, :name)
    shown = if name, do: inspect(name), else: "without a name"
    name = if is_atom(name), do: name

    {:error,
     Error.new(:validation, :invalid_option, "pool #{shown}: #{words}", details: %{key: key}, pool: name)}
  end

  @doc "Tools by their name."
  @spec tools(term()) :: {:ok, %{String.t() => Tool.t()}} | {:error, :tools, String.t()}
  def tools(fun) when is_function(fun, 0) do
    tools(fun.())
  rescue
    exception ->
      refuse(
        "the function in :tools raised #{inspect(exception.__struct__)}: #{Exception.message(exception)}"
      )
  end

  def tools(module) when is_atom(module) and module not in [nil, true, false] do
    if Code.ensure_loaded?(module),
      do: each(functions(module), %{}),
      else: refuse("there is no module #{inspect(module)}: is its file compiled (elixirc_paths of mix.exs)?")
  end

  def tools(given) when is_map(given) and not is_struct(given), do: each(Map.to_list(given), %{})

  def tools(given) do
    if Keyword.keyword?(given),
      do: each(given, %{}),
      else: refuse("expected :tools to be a map of names to functions, or a module, got: #{inspect(given)}")
  end

  # Where two functions have one name, the one that takes arguments counts.
  defp functions(module) do
    for {name, arity} <- Enum.sort(module.module_info(:exports)),
        arity in [0, 1],
        name not in [:module_info, :behaviour_info],
        not String.starts_with?(Atom.to_string(name), "_"),
        do: {name, Function.capture(module, name, arity)}
  end

  defp each([], tools), do: {:ok, tools}

  defp each([{name, given} | rest], tools)
       when (is_atom(name) and name not in [nil, true, false]) or is_binary(name) do
    case Tool.new(given) do
      {:ok, tool} -> each(rest, Map.put(tools, to_string(name), %{tool | name: to_string(name)}))
      {:error, words} -> refuse("in :tools, #{inspect(name)}: #{words}")
    end
  end

  defp each([{name, _given} | _rest], _tools),
    do: refuse("in :tools: expected a name to be a string or an atom, got: #{inspect(name)}")

  defp refuse(words), do: {:error, :tools, words}
end
