defmodule Snakepit.Worker.Start do
  @moduledoc false
  # The first moments of a run: a socket to listen on, the process that is to connect to it, and whether it is that process
  # which does.

  alias Snakepit.{Error, Machine, Native, Runtime}
  alias Snakepit.Wire.ControlSocket
  alias Snakepit.Worker.{Run, Spec}

  @doc "A run that has not begun. By the worker's process, which owns its memory."
  @spec new(Spec.t()) :: Run.t()
  def new(%Spec{} = spec) do
    # Leases are counted by pool and caller, whichever worker they are of.
    {memory, number} = Native.worker_new(spec.arena, spec.size * spec.quota)

    %Run{
      spec: spec,
      number: number,
      memory: memory,
      token: :crypto.strong_rand_bytes(32),
      started_at: System.monotonic_time(:millisecond),
      size: spec.size,
      quota: spec.quota,
      idle_ms: spec.options.idle_chunk_ms
    }
  end

  @doc "Starts its process. `:companion_gone`: the companion is started again within moments."
  @spec begin(Run.t()) :: {:ok, Run.t()} | {:error, Error.t() | :companion_gone}
  def begin(%Run{spec: spec} = run) do
    with {:ok, dir} <- Runtime.ensure(),
         {:ok, control} <- listen(dir) do
      own = [{"SNAKEPIT_SOCKET", control.path}, {"SNAKEPIT_TOKEN", Base.encode16(run.token)}]

      case launch(spec, own) do
        {:error, _} = error ->
          ControlSocket.close(control)
          error

        {id, monitor} ->
          {:ok, %{run | control: control, id: id, monitor: monitor}}
      end
    end
  end

  defp launch(spec, own) do
    spec.launcher.run(spec.options, own)
  catch
    :exit, _ -> {:error, :companion_gone}
  end

  defp listen(dir) do
    with {:error, reason} <- ControlSocket.listen(Runtime.path(dir, "sock")) do
      # Without the socket's own name, so that the same cause has the same words.
      words = "cannot listen for the worker in #{dir}: #{Error.reason_words(reason)}"
      {:error, Error.new(:worker, :socket, words)}
    end
  end

  @doc """
  Whether the process that connected is the one that was started, or of the group that the companion made for it: a wrapper
  script may have started the interpreter. `:unknown` until both are known.
  """
  @spec peer(Run.t()) :: :ok | :unknown | {:error, String.t()}
  def peer(%Run{os_pid: pid, control: %{peer: %{} = peer}}) when is_integer(pid) do
    if peer.pid == pid or Machine.process_group(peer.pid) == pid,
      do: :ok,
      else: {:error, "process #{peer.pid} connected in place of the worker, #{pid}"}
  end

  def peer(_run), do: :unknown
end
