defmodule Snakepit.Pool.Tools do
  @moduledoc false
  # The tools of a pool, as its worker that was ready last described them: one copy, in a table that the pool's process
  # owns and everybody reads. A row per tool, by name, and one that says that they are known.

  alias Snakepit.{Error, Tool}
  alias Snakepit.Pool.Handle

  @known :known

  @spec new() :: :ets.table()
  def new, do: :ets.new(:snakepit_tools, [:ordered_set, :protected, read_concurrency: true])

  @doc "By the pool's process."
  @spec put(:ets.table(), [Tool.t()]) :: :ok
  def put(table, tools) do
    names = MapSet.new(tools, & &1.name)
    :ets.insert(table, [{@known} | Enum.map(tools, &{&1.name, &1})])
    for [name] <- :ets.match(table, {:"$1", :_}), name not in names, do: :ets.delete(table, name)
    :ok
  end

  @doc "The tools by name, `nil` while no worker was ready."
  @spec all(Handle.t()) :: [Tool.t()] | nil
  def all(%Handle{tools: table}) do
    if :ets.member(table, @known), do: List.flatten(:ets.match(table, {:_, :"$1"}))
  rescue
    # The pool's process is gone.
    ArgumentError -> nil
  end

  @doc "Their names."
  @spec names(Handle.t()) :: [String.t()]
  def names(%Handle{tools: table}) do
    List.flatten(:ets.match(table, {:"$1", :_}))
  rescue
    ArgumentError -> []
  end

  @spec has?(Handle.t(), String.t()) :: boolean()
  def has?(%Handle{tools: table}, name) do
    :ets.member(table, name)
  rescue
    ArgumentError -> false
  end

  @doc "The error of a call of a tool that its pool does not have, with the pools that do."
  @spec elsewhere(Error.t(), Handle.t(), String.t()) :: Error.t()
  def elsewhere(%Error{} = error, %Handle{name: pool}, command) do
    others =
      for name <- Enum.sort(Handle.names()),
          name != pool,
          {:ok, handle} <- [Handle.fetch(name)],
          has?(handle, command),
          do: name

    case others do
      [] ->
        error

      [first | _] ->
        have =
          if length(others) == 1,
            do: "pool #{inspect(first)} has it",
            else: "pools #{Enum.map_join(others, ", ", &inspect/1)} have it"

        words =
          "pool #{inspect(pool)} has no tool '#{command}'; #{have}: pass pool: #{inspect(first)}#{near(error.details)}"

        %{error | message: words, details: Map.put(error.details, :pools, others)}
    end
  end

  defp near(%{nearest: [_ | _] = names}) do
    if Enum.all?(names, &is_binary/1), do: "; or did you mean #{Enum.join(names, " or ")}?", else: ""
  end

  defp near(_details), do: ""
end
