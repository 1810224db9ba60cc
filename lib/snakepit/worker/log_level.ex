defmodule Snakepit.Worker.LogLevel do
  @moduledoc false
  # Levels of Python's logging, which are numbers, and of Logger. Pure, but for Logger's present level.

  @type wanted :: :debug | :info | :warning | :error | :critical | :none

  @python %{debug: 10, info: 20, warning: 30, error: 40, critical: 50}
  # Above all levels.
  @nothing 1_000

  @doc "The least level of which a worker's records are wanted, as Python numbers it; nil of a pool that wants none, ever."
  @spec wanted(wanted()) :: pos_integer() | nil
  def wanted(option), do: wanted(option, Logger.level())

  @doc false
  @spec wanted(wanted(), Logger.level() | :all | :none) :: pos_integer() | nil
  def wanted(:none, _logger), do: nil
  def wanted(option, logger), do: max(Map.fetch!(@python, option), of_logger(logger))

  defp of_logger(:all), do: 0
  # Python has no such level: its next one is let through.
  defp of_logger(:notice), do: 30
  defp of_logger(level), do: Map.get(@python, level, @nothing)

  @doc "Logger's level of a record; one between two of them has the lower one's."
  @spec elixir(integer()) :: Logger.level()
  def elixir(level) when level < 20, do: :debug
  def elixir(level) when level < 30, do: :info
  def elixir(level) when level < 40, do: :warning
  def elixir(level) when level < 50, do: :error
  def elixir(_level), do: :critical
end
