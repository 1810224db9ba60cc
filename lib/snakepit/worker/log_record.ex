defmodule Snakepit.Worker.LogRecord do
  @moduledoc false
  # A frame of the log socket (native/PROTOCOL.md), checked: it is bytes from outside. Pure.

  alias Snakepit.Worker.{LogLevel, Words}

  @type who :: %{pool: atom(), worker: String.t(), os_pid: non_neg_integer() | nil}
  @type t ::
          {:record, Logger.level(), message :: String.t(), metadata :: keyword()} | {:dropped, pos_integer()}

  # A time further away than a day is not taken for a record's: a formatter may not know how to write it.
  @day_us 86_400_000_000

  @doc "The record that an unpacked frame holds, or that it holds none. `now`: microseconds since 1970."
  @spec read(term(), who(), now :: integer()) :: {:ok, t()} | :error
  def read([level, created, logger, message, file, line, function, tool, correlation, extra], who, now)
      when is_integer(level) and is_integer(created) and is_binary(logger) and is_binary(message) and
             is_binary(file) and line in 0..0x7FFF_FFFF and is_binary(function) do
    with {:ok, command} <- text_or_nil(tool),
         {:ok, correlation_id} <- text_or_nil(correlation),
         {:ok, extra} <- extra(extra) do
      logger = Words.printable(logger)

      metadata = [
        pool: who.pool,
        worker: who.worker,
        os_pid: who.os_pid,
        python_logger: logger,
        file: Words.printable(file),
        line: line,
        function: Words.printable(function),
        time: if(abs(created - now) < @day_us, do: created, else: now)
      ]

      more = [command: command, correlation_id: correlation_id, extra: extra]
      metadata = metadata ++ Enum.filter(more, fn {_key, value} -> value != nil end)

      {:ok,
       {:record, LogLevel.elixir(level), "[#{who.worker} #{logger}] #{Words.printable(message)}", metadata}}
    end
  end

  def read(["dropped", n], _who, _now) when n in 1..0xFFFF_FFFF, do: {:ok, {:dropped, n}}
  def read(_other, _who, _now), do: :error

  defp text_or_nil(nil), do: {:ok, nil}
  defp text_or_nil(text) when is_binary(text), do: {:ok, Words.printable(text)}
  defp text_or_nil(_other), do: :error

  defp extra(nil), do: {:ok, nil}

  defp extra(%{} = extra) do
    if Enum.all?(extra, fn {key, value} -> is_binary(key) and plain?(value) end),
      do: {:ok, Map.new(extra, fn {key, value} -> {Words.printable(key), printable(value)} end)},
      else: :error
  end

  defp extra(_other), do: :error

  defp plain?(value), do: is_binary(value) or is_number(value) or is_atom(value)

  defp printable(value) when is_binary(value), do: Words.printable(value)
  defp printable(value), do: value
end
