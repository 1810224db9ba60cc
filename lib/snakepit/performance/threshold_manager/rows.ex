defmodule Snakepit.Performance.ThresholdManager.Rows do
  @moduledoc false
  # The threshold manager keeps this of each run of a pool, in a table that outlives it:
  #
  # | key | value |
  # |---|---|
  # | `:set` | bytes by type: those that somebody set, and those that are held since a measured one was undone |
  # | `:changes` | `Snakepit.Performance.GuardedChange`s, newest first |
  # | `:seen` | bytes by type that were measured at the last look |
  # | `:logged` | bytes by type that the log said last |
  #
  # A row is `{{key, pool}, run, value}`; a run is a cost model's reference. What is set is kept in a file, too, for the
  # pool's next run.

  alias Snakepit.{Performance, Pool}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.{Saved, Thresholds}
  alias Snakepit.Pool.Handle
  require Logger

  @table :snakepit_thresholds

  @type key :: :set | :changes | :seen | :logged
  @type bytes :: %{optional(Performance.data_type()) => pos_integer()}

  @doc "Makes the table; it lives as long as the process that calls this."
  @spec create() :: :ok
  def create do
    if :ets.whereis(@table) == :undefined,
      do: :ets.new(@table, [:set, :public, :named_table, read_concurrency: true])

    :ok
  end

  @spec get(Handle.t(), key(), default) :: term() | default when default: term()
  def get(%Handle{name: name, performance: %{ref: ref}}, key, default) do
    case :ets.lookup(@table, {key, name}) do
      [{_, ^ref, value}] -> value
      _ -> default
    end
  rescue
    ArgumentError -> default
  end

  @spec put(Handle.t(), key(), term()) :: true
  def put(%Handle{name: name, performance: %{ref: ref}}, key, value),
    do: :ets.insert(@table, {{key, name}, ref, value})

  @doc "Forgets cost models that are no more, which rows would keep alive."
  @spec forget_stopped() :: :ok
  def forget_stopped do
    for {{_key, name} = key, ref, _value} <- :ets.tab2list(@table),
        not match?({:ok, %{performance: %{ref: ^ref}}}, Handle.fetch(name)),
        do: :ets.delete(@table, key)

    :ok
  end

  # ---- what is set ------------------------------------------------------------------------------------------------

  @spec set(Handle.t()) :: bytes()
  def set(handle), do: get(handle, :set, %{})

  @doc "For this run of the pool, and for the next one."
  @spec set(Handle.t(), bytes()) :: :ok | {:error, File.posix()}
  def set(%Handle{options: options, performance: model} = handle, set) do
    put(handle, :set, set)
    place = Saved.set(options, model.settings)

    if set == %{},
      do: Saved.remove(place, :thresholds),
      else: Saved.put(place, :thresholds, :erlang.term_to_binary(set))
  end

  @doc "Puts in force what was set in the run before: in the pool's process, before anybody knows it."
  @spec restore(Model.t(), Pool.Options.t()) :: :ok
  def restore(%Model{} = model, options) do
    with {:ok, bytes} <- Saved.get(Saved.set(options, model.settings), :thresholds),
         {:ok, set} when set != %{} <- read(bytes) do
      :ets.insert(@table, {{:set, options.name}, model.ref, set})
      words = Enum.map_join(set, ", ", fn {type, bytes} -> "#{type} #{bytes}" end)
      Logger.info("pool #{inspect(options.name)}: thresholds in bytes, as set in an earlier run: #{words}")
      Model.set_rules(model, set)
    else
      _none -> :ok
    end
  end

  # Whatever a file holds.
  defp read(bytes) do
    set = :erlang.binary_to_term(bytes, [:safe])

    fits? = fn {type, n} ->
      type in Performance.data_types() and is_integer(n) and n in 1..Thresholds.never()
    end

    if is_map(set) and Enum.all?(set, fits?), do: {:ok, set}, else: :error
  rescue
    ArgumentError -> :error
  end
end
