defmodule Snakepit.Stream do
  @moduledoc false
  # The items of a tool that yields, read while the enumeration runs: what `Snakepit.stream/3` returns. Reading happens
  # in the process that enumerates, which alone holds the lane.

  @enforce_keys [:command, :args, :opts]
  defstruct [:command, :args, :opts]

  defimpl Enumerable do
    def count(_stream), do: {:error, __MODULE__}
    def member?(_stream, _item), do: {:error, __MODULE__}
    def slice(_stream), do: {:error, __MODULE__}

    def reduce(_stream, {:halt, acc}, _fun), do: {:halted, acc}

    def reduce(stream, {:suspend, acc}, fun) do
      {:suspended, acc, &reduce(stream, &1, fun)}
    end

    def reduce(stream, {:cont, acc}, fun) do
      result =
        Snakepit.Call.stream(stream.command, stream.args, stream.opts, {:cont, acc}, fn item, {:cont, acc} ->
          case fun.(item, acc) do
            {:cont, acc} -> {:cont, {:cont, acc}}
            {:halt, acc} -> {:halt, {:halted, acc}}
            {:suspend, acc} -> {:halt, {:suspend, acc}}
          end
        end)

      case result do
        {:ok, {:cont, acc}} ->
          {:done, acc}

        {:ok, {:halted, acc}} ->
          {:halted, acc}

        {:ok, {:suspend, _acc}} ->
          raise ArgumentError, "a Snakepit.stream/3 cannot be suspended (as by Stream.zip/2)"

        {:error, error} ->
          raise error
      end
    end
  end
end
