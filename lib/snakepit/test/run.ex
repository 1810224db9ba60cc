defmodule Snakepit.Test.Run do
  @moduledoc false
  # Runs a fake tool's function, in a process of its own, and makes its replies. They go to the lane by messages, so
  # that the process can be killed at any moment without harm to the frame under way.

  alias Snakepit.Test.{Frame, PythonError, Tool}
  alias Snakepit.Worker.Words

  @context {__MODULE__, :context}

  @type context :: %{
          worker: pid(),
          sessions: :ets.table(),
          session: String.t() | nil,
          correlation_id: String.t() | nil,
          chain: [pid() | atom()]
        }

  @doc """
  Starts it, linked to the calling process, which gets `{pid, :item, frame}` for each item of a stream, to be answered by
  `{:go_on, pid}`, and `{pid, :over, frame}`.
  """
  @spec start_link(Frame.request(), Tool.t(), map(), context()) :: pid()
  def start_link(request, tool, args, context) do
    lane = self()

    spawn_link(fn ->
      Process.put(@context, context)
      Process.put(:"$callers", Enum.filter(context.chain, &is_pid/1))
      send(lane, {self(), :over, run(request, tool, args, lane)})
    end)
  end

  @doc "The context of the call that runs in this process."
  @spec context() :: context() | nil
  def context, do: Process.get(@context)

  # Items say how long the next one took; a result, and the end of a stream, how long the tool ran since the last of
  # them.
  defp run(%{stream?: stream?} = request, tool, args, lane) do
    started = now()

    try do
      value = if is_function(tool.fun, 0), do: tool.fun.(), else: tool.fun.(args)

      cond do
        stream? -> stream(request, tool, items(tool, value), lane, started)
        generator?(tool, value) -> result(request, Enum.to_list(value), started)
        true -> result(request, value, started)
      end
    catch
      kind, reason -> Frame.reply(request, :error, raised(kind, reason, __STACKTRACE__), now() - started)
    end
  end

  defp result(request, value, started) do
    ns = now() - started

    case Frame.encode(value, "result") do
      {:ok, envelope} -> Frame.reply(request, :result, envelope, ns)
      {:error, error} -> Frame.reply(request, :error, error, ns)
    end
  end

  # A tool that does not yield streams one item.
  defp items(tool, value), do: if(generator?(tool, value), do: value, else: [value])

  # Neither can be a result.
  defp generator?(tool, value), do: tool.stream? or is_struct(value, Stream) or is_function(value, 2)

  defp stream(request, tool, items, lane, started) do
    items
    |> Enum.reduce_while(started, fn item, since ->
      case Frame.encode(item, "item") do
        {:ok, envelope} ->
          send(lane, {self(), :item, Frame.reply(request, :item, envelope, now() - since)})
          pid = self()

          receive do
            {:go_on, ^pid} -> {:cont, now()}
          end

        {:error, error} ->
          {:halt, {:failed, Frame.reply(request, :error, error, now() - since)}}
      end
    end)
    |> case do
      {:failed, reply} -> reply
      since -> over(request, tool, now() - since)
    end
  end

  # A value that the caller did not ask for is not encoded.
  defp over(request, tool, ns) do
    case Frame.encode(if(request.returned?, do: tool.returns), "returned") do
      {:ok, envelope} -> Frame.reply(request, :end, envelope, ns)
      {:error, error} -> Frame.reply(request, :error, error, ns)
    end
  end

  defp raised(:error, %PythonError{type: type, message: message}, stacktrace),
    do: error(type, message, stacktrace)

  defp raised(:error, reason, stacktrace) do
    exception = Exception.normalize(:error, reason, stacktrace)
    error(inspect(exception.__struct__), Exception.message(exception), stacktrace)
  end

  defp raised(kind, reason, stacktrace), do: error(to_string(kind), inspect(reason), stacktrace)

  @doc "The error reply for an exception of a tool."
  @spec error(String.t(), String.t(), Exception.stacktrace()) :: map()
  def error(type, message, stacktrace) do
    {type, message} = {Words.printable(type), Words.printable(message)}
    line = if message == "", do: type, else: "#{type}: #{message}"
    reply = Frame.refusal("python_error", :raised, line, nil, type)
    Map.put(reply, "traceback", Words.printable(traceback(stacktrace, line)))
  end

  # As Python writes it: the innermost call last.
  defp traceback(stacktrace, line) do
    frames =
      stacktrace
      |> Enum.take_while(fn {module, _, _, _} -> module != __MODULE__ end)
      |> Enum.reverse()
      |> Enum.map(&["  ", Exception.format_stacktrace_entry(&1), "\n"])

    IO.iodata_to_binary(["Traceback (most recent call last):\n", frames, line, "\n"])
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
