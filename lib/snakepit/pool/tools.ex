defmodule Snakepit.Pool.Tools do
  @moduledoc false
  # The tools of a pool, as its worker that was ready last described them: one copy, in a table that the pool's process
  # owns and everybody reads. A row per tool, by name, and one that says that they are known.

  alias Snakepit.Tool

  @known :known

  @typedoc "A pool's handle."
  @type handle :: %{:tools => :ets.table(), optional(any()) => any()}

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
  @spec all(handle()) :: [Tool.t()] | nil
  def all(%{tools: table}) do
    if :ets.member(table, @known), do: List.flatten(:ets.match(table, {:_, :"$1"}))
  rescue
    # The pool's process is gone.
    ArgumentError -> nil
  end

  @doc "Their names."
  @spec names(handle()) :: [String.t()]
  def names(%{tools: table}) do
    List.flatten(:ets.match(table, {:"$1", :_}))
  rescue
    ArgumentError -> []
  end

  @spec has?(handle(), String.t()) :: boolean()
  def has?(%{tools: table}, name) do
    :ets.member(table, name)
  rescue
    ArgumentError -> false
  end
end
