defmodule Snakepit.Stream do
  @moduledoc false
  # The items of a tool that yields, read while the enumeration runs: what `Snakepit.stream/3` returns. Reading happens
  # in the process that enumerates. While the enumeration is suspended, its continuation holds the lane.

  @enforce_keys [:command, :args, :opts]
  defstruct [:command, :args, :opts]

  defimpl Enumerable do
    alias Snakepit.Call
    alias Snakepit.Call.Options

    def count(_stream), do: {:error, __MODULE__}
    def member?(_stream, _item), do: {:error, __MODULE__}
    def slice(_stream), do: {:error, __MODULE__}

    # Nothing is called before the first item is asked for.
    def reduce(_stream, {:halt, acc}, _fun), do: {:halted, acc}
    def reduce(stream, {:suspend, acc}, fun), do: {:suspended, acc, &reduce(stream, &1, fun)}

    def reduce(stream, {:cont, acc}, fun) do
      with {:ok, on_return, opts} <- Options.for_stream(stream.opts),
           {:ok, open} <- Call.open_stream(stream.command, stream.args, opts, on_return != nil) do
        read({open, on_return}, {:cont, acc}, fun)
      else
        {:error, error} -> raise error
      end
    end

    defp read({open, on_return}, {:cont, acc}, fun) do
      case Call.next_item(open) do
        {:item, item, open} ->
          read({open, on_return}, Call.left_if_raised(open, fn -> fun.(item, acc) end), fun)

        # Its lane is somebody else's by now: that function may do what it likes.
        {:ok, returned} ->
          if on_return, do: on_return.(returned)
          {:done, acc}

        {:error, error} ->
          raise error
      end
    end

    defp read({open, _on_return}, {:halt, acc}, _fun) do
      Call.leave(open)
      {:halted, acc}
    end

    defp read(reading, {:suspend, acc}, fun) do
      # For `Snakepit.Pool.checkout/5`: whoever suspended it may forget it, as `Stream.zip/2` does where its consumer raises
      # at the first item.
      Process.put(Snakepit.Pool.suspended(), true)
      used = :atomics.new(1, [])
      {:suspended, acc, &continue(reading, used, &1, fun)}
    end

    # By the second time the lane may be somebody else's.
    defp continue(reading, used, command, fun) do
      case {:atomics.exchange(used, 1, 1), command} do
        {0, command} -> read(reading, command, fun)
        {1, {:halt, acc}} -> {:halted, acc}
        {1, {:suspend, acc}} -> {:suspended, acc, &continue(reading, used, &1, fun)}
        {1, {:cont, _acc}} -> raise ArgumentError, "a suspended Snakepit.stream/3 can be continued only once"
      end
    end
  end
end
