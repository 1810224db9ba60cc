defmodule Snakepit.Worker.Conversation do
  @moduledoc false
  # What a worker says on its control socket (native/PROTOCOL.md), and what becomes of it: the run it belongs to, or why
  # that must end. The worker's own process calls it, and compares phases to see what is new.

  alias Snakepit.{Native, Pool, Python}
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

  @type answer :: {:ok, Run.t()} | {:error, String.t() | Snakepit.Error.t(), Run.t()}

  # What the library takes. Anything else a worker says would end the process that reads it instead of the worker.
  defguardp is_u64(n) when is_integer(n) and n >= 0 and n <= 0xFFFF_FFFF_FFFF_FFFF

  @doc "Reads all that has come."
  @spec read(Run.t()) :: answer()
  def read(%Run{} = run) do
    case ControlSocket.receive_all(run.control) do
      {:error, why, control} -> {:error, why, %{run | control: control}}
      {_ok_or_closed, messages, control} -> each(messages, %{run | control: control})
    end
  end

  defp each(messages, run) do
    Enum.reduce_while(messages, {:ok, run}, fn message, {:ok, run} ->
      case message(message, run.phase, run) do
        %Run{} = run -> {:cont, {:ok, run}}
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
    with {:ok, info} <- Hello.check(hello, run.token, run.pool.options),
         level = LogLevel.wanted(run.pool.options.log_level),
         run = %{run | phase: :importing, info: info, log_level: level},
         :ok <- ControlSocket.send_message(run.control, ["welcome", settings(run)]) do
      run
    else
      {:error, %Snakepit.Error{}} = error -> error
      {:error, words} when is_binary(words) -> {:error, words}
      {:error, reason} -> {:error, "the control socket: #{inspect(reason)}"}
    end
  end

  defp message(["lanes", n], :importing, %Run{lanes: []} = run) when is_integer(n) do
    with false <- :lost in run.control.fds,
         true <- n == Pool.Options.lanes(run.pool.options),
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
    case Described.tools(tools, run.pool.name) do
      {:ok, tools} -> %{run | phase: :ready, tools: tools, on_stop?: ready["on_stop"] == true}
      :error -> {:error, "the worker said \"ready\" and described its tools wrong"}
    end
  end

  defp message(
         ["failed", %{"type" => type, "message" => words, "during" => ["on_start", hook]} = failure],
         :importing,
         run
       )
       when is_binary(type) and is_binary(words) and is_binary(hook),
       do: {:error, StartFailure.error(run.pool.options, "on_start", hook, failure)}

  defp message(["failed", %{"during" => ["warm_up", command], "message" => words} = failure], :importing, run)
       when is_binary(command) and is_binary(words),
       do: {:error, StartFailure.error(run.pool.options, "warm_up", command, failure)}

  defp message(["failed", %{"type" => type, "message" => words} = failure], :importing, run)
       when is_binary(type) and is_binary(words),
       do: {:error, ImportFailure.error(run.pool.options, failure)}

  defp message(["hook_failed", hook, %{"traceback" => traceback}], _phase, run)
       when is_binary(hook) and is_binary(traceback) do
    Report.hook_failed(run, hook, traceback)
    run
  end

  defp message(["chunk", id, size], _phase, run) when is_u64(id) and is_u64(size),
    do: Chunks.adopt(run, id, size)

  defp message(["drop", id], _phase, run) when is_u64(id), do: Chunks.forget(run, id)

  defp message(["released", tokens], _phase, run) when is_list(tokens) do
    if Enum.all?(tokens, &u64?/1) and Native.worker_released(run.memory, tokens),
      do: run,
      else: {:error, "the worker returned a token it was not given"}
  end

  defp message(["grpc_ready", path], _phase, run) when is_binary(path),
    do: answer_grpc(run, Snakepit.Grpc.connect("unix:" <> path))

  defp message(["grpc_failed", why], _phase, run) when is_binary(why), do: answer_grpc(run, {:error, why})
  defp message(["pong", n], _phase, %Run{heart: %Heart{}} = run), do: %{run | heart: Heart.pong(run.heart, n)}

  defp message(["warning", words], _phase, run) when is_binary(words) do
    Report.warned(run.pool.name, words)
    run
  end

  defp message([name | _], phase, _run)
       when name in ["hello", "lanes", "logs", "ready", "failed", "chunk", "drop", "released"],
       do: {:error, "the worker said #{inspect(name)} while #{phase}, or said it wrong"}

  defp message(["source", path, size, crc32], _phase, run) when is_binary(path) do
    content = if is_u64(size) and is_u64(crc32), do: {size, crc32}
    Pool.Reload.source(run.pool.name, path, content)
    run
  end

  # A newer worker may know more.
  defp message(_unknown, _phase, run), do: run

  # As people call it: without the colon, or the prefix of a module.
  defp name(pool), do: pool |> Atom.to_string() |> String.replace_prefix("Elixir.", "")

  # They were encoded once before, when the pool's options were checked.
  defp warm_up(calls) do
    {:ok, envelopes} = Pool.WarmUp.envelopes(calls)
    for {{command, _args}, envelope} <- Enum.zip(calls, envelopes), do: [command, Snakepit.bytes(envelope)]
  end

  defp settings(%Run{pool: %{options: options} = pool} = run) do
    %{
      owner: run.epoch,
      lanes: Pool.Options.lanes(options),
      inline_limit: options.inline_limit,
      chunk_size: options.chunk_size,
      quota: Chunks.quota(pool),
      idle_ms: options.idle_chunk_ms,
      max_result: options.max_result,
      pool: inspect(options.name),
      worker: %{pool: name(options.name), index: run.index, size: options.size},
      warm_up: warm_up(options.warm_up),
      modules: options.python_module,
      source: Pool.Options.source(options),
      install: Python.install(options),
      numpy_memory: Python.numpy_memory(options),
      fork_memory: Python.fork_memory(),
      busy_poll: Pool.Options.busy_poll(options),
      log_level: run.log_level,
      watch: if(Pool.Reload.wanted?(options), do: Python.directories(options), else: []),
      check_returns: Pool.Options.check_returns?(options)
    }
  end

  defp answer_grpc(run, answer) do
    Enum.each(run.grpc_waiting, &GenServer.reply(&1, answer))
    # A failure is not kept: the next call may find grpcio installed.
    %{run | grpc: if(match?({:ok, _}, answer), do: answer), grpc_waiting: []}
  end

  defp u64?(n), do: is_u64(n)
end
