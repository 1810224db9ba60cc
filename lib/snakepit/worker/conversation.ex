defmodule Snakepit.Worker.Conversation do
  @moduledoc false
  # Reads a worker's messages from its control socket (native/PROTOCOL.md), in the state that the run is in, and answers
  # with the state and the run after them, or with why the run must end.

  alias Snakepit.Native
  alias Snakepit.Tool.Described
  alias Snakepit.Wire.{ControlSocket, LaneSocket}

  alias Snakepit.Worker.{
    Chunks,
    Heart,
    Hello,
    ImportFailure,
    LogLevel,
    Logs,
    Report,
    Run,
    StartFailure
  }

  @type state :: Snakepit.Worker.state()
  @type answer :: {:ok, state(), Run.t()} | {:error, String.t() | Snakepit.Error.t(), Run.t()}

  # Events that one run may cause its owner.
  @most_warnings 200

  # The numbers that the library takes. Anything else a worker says would end the process that reads it instead of the worker.
  defguardp is_u64(n) when is_integer(n) and n >= 0 and n <= 0xFFFF_FFFF_FFFF_FFFF

  @doc "Reads all that has come."
  @spec read(state(), Run.t()) :: answer()
  def read(state, %Run{} = run) do
    case ControlSocket.receive_all(run.control) do
      {:error, why, control} -> {:error, why, %{run | control: control}}
      {_ok_or_closed, messages, control} -> each(messages, state, %{run | control: control})
    end
  end

  defp each(messages, state, run) do
    Enum.reduce_while(messages, {:ok, state, run}, fn message, {:ok, state, run} ->
      case message(message, state, run) do
        {state, %Run{} = run} -> {:cont, {:ok, state, run}}
        %Run{} = run -> {:cont, {:ok, state, run}}
        {:error, why} -> {:halt, {:error, why, run}}
      end
    end)
  end

  @doc "Asks for its gRPC server; `from` is answered when that is there."
  @spec ask_for_grpc(Run.t(), GenServer.from()) :: Run.t() | {:error, String.t()}
  def ask_for_grpc(%Run{grpc_waiting: []} = run, from) do
    with {:ok, dir} <- Snakepit.Runtime.ensure() do
      path = Snakepit.Runtime.path(dir, "grpc")

      case ControlSocket.send_message(run.control, ["grpc", path]) do
        :ok -> %{run | grpc_waiting: [from], grpc_path: path}
        {:error, reason} -> {:error, "the control socket: #{inspect(reason)}"}
      end
    else
      {:error, error} ->
        GenServer.reply(from, {:error, error.message})
        run
    end
  end

  def ask_for_grpc(run, from), do: %{run | grpc_waiting: [from | run.grpc_waiting]}

  defp message(["hello", %{} = hello], :greeting, run) do
    with {:ok, info} <- Hello.check(hello, run.token, run.spec.options),
         level = LogLevel.wanted(run.spec.options.log_level),
         run = %{run | info: info, log_level: level},
         :ok <- ControlSocket.send_message(run.control, ["welcome", settings(run)]) do
      {:importing, run}
    else
      {:error, %Snakepit.Error{}} = error -> error
      {:error, words} when is_binary(words) -> {:error, words}
      {:error, reason} -> {:error, "the control socket: #{inspect(reason)}"}
    end
  end

  defp message(["lanes", n], :importing, %Run{lanes: []} = run) when is_integer(n) do
    with false <- :lost in run.control.fds,
         true <- n == run.spec.lanes,
         {:ok, fds, control} <- ControlSocket.take_fds(run.control, n) do
      %{run | control: control, lanes: Enum.map(fds, &LaneSocket.open/1)}
    else
      true -> {:error, "its lanes are more files than this VM may have open (ulimit -n)"}
      _ -> {:error, "the worker sent other lanes than it was asked for"}
    end
  end

  defp message(["logs"], :importing, %Run{logs: nil} = run) do
    with {:ok, [fd], control} when is_integer(fd) <- ControlSocket.take_fds(run.control, 1),
         {:ok, logs} <- Logs.start_link(fd, Logs.who(run)) do
      %{run | control: control, logs: logs}
    else
      {:ok, [:lost], _control} ->
        {:error, "its log socket is a file more than this VM may have open (ulimit -n)"}

      {:error, why} ->
        {:error, "its log socket cannot be read: #{inspect(why)}"}

      :error ->
        {:error, "the worker said \"logs\" without a socket"}
    end
  end

  defp message(["importing", module], :importing, run) when is_binary(module),
    do: %{run | importing: module}

  defp message(["doing", kind, name], :importing, run) when is_binary(kind) and is_binary(name),
    do: %{run | doing: {kind, name}}

  defp message(["ready", %{"tools" => tools} = ready], :importing, %Run{lanes: [_ | _]} = run)
       when is_list(tools) do
    case Described.tools(tools, run.spec.pool) do
      {:ok, tools} -> {:ready, %{run | tools: tools, on_stop?: ready["on_stop"] == true}}
      :error -> {:error, "the worker said \"ready\" and described its tools wrong"}
    end
  end

  defp message(
         ["failed", %{"type" => type, "message" => words, "during" => ["on_start", hook]} = failure],
         :importing,
         run
       )
       when is_binary(type) and is_binary(words) and is_binary(hook),
       do: {:error, StartFailure.error(run.spec.options, "on_start", hook, failure)}

  defp message(["failed", %{"during" => ["warm_up", command], "message" => words} = failure], :importing, run)
       when is_binary(command) and is_binary(words),
       do: {:error, StartFailure.error(run.spec.options, "warm_up", command, failure)}

  defp message(["failed", %{"type" => type, "message" => words} = failure], :importing, run)
       when is_binary(type) and is_binary(words),
       do: {:error, ImportFailure.error(run.spec.options, failure)}

  defp message(["hook_failed", hook, %{"traceback" => traceback}], _state, run)
       when is_binary(hook) and is_binary(traceback) do
    Report.hook_failed(run, hook, traceback)
    run
  end

  defp message(["chunk", id, size], _state, run) when is_u64(id) and is_u64(size),
    do: Chunks.adopt(run, id, size)

  defp message(["drop", id], _state, run) when is_u64(id), do: Chunks.forget(run, id)

  defp message(["released", tokens], _state, run) when is_list(tokens) do
    if Enum.all?(tokens, &u64?/1) and Native.worker_released(run.memory, tokens),
      do: run,
      else: {:error, "the worker returned a token it was not given"}
  end

  defp message(["grpc_ready", path], _state, run) when is_binary(path),
    do: answer_grpc(run, Snakepit.Grpc.connect("unix:" <> path))

  defp message(["grpc_failed", why], _state, run) when is_binary(why), do: answer_grpc(run, {:error, why})
  defp message(["pong", n], _state, %Run{heart: %Heart{}} = run), do: %{run | heart: Heart.pong(run.heart, n)}

  defp message(["warning", words], _state, run) when is_binary(words) do
    if run.warnings < @most_warnings, do: Run.report(run, {:warning, words})
    %{run | warnings: run.warnings + 1}
  end

  defp message([name | _], state, _run)
       when name in ["hello", "lanes", "logs", "ready", "failed", "chunk", "drop", "released"],
       do: {:error, "the worker said #{inspect(name)} while #{state}, or said it wrong"}

  defp message(["source", path, size, crc32], _state, run) when is_binary(path) do
    content = if is_u64(size) and is_u64(crc32), do: {size, crc32}
    if on_source = run.spec.on_source, do: on_source.(path, content)
    run
  end

  # A newer worker may know more.
  defp message(_unknown, _state, run), do: run

  # The settings that differ from run to run.
  defp settings(%Run{spec: spec} = run) do
    Map.merge(spec.welcome, %{
      owner: run.number,
      quota: run.quota,
      log_level: run.log_level,
      worker: %{spec.welcome.worker | size: run.size}
    })
  end

  defp answer_grpc(run, answer) do
    Enum.each(run.grpc_waiting, &GenServer.reply(&1, answer))
    # A failure is not kept: the next call may find grpcio installed.
    %{run | grpc: if(match?({:ok, _}, answer), do: answer), grpc_waiting: []}
  end

  defp u64?(n), do: is_u64(n)
end
