defmodule Snakepit.Worker do
  @moduledoc false
  # One run of one worker: this process lives as long as the OS process that it starts, and a moment longer. It shakes hands,
  # owns the sockets and checks the heartbeat. Calls do not pass through it; callers use the lanes, which the pool gives out.
  #
  # | state       | the run                                             | goes on when                               | to          |
  # |-------------|-----------------------------------------------------|--------------------------------------------|-------------|
  # | `starting`  | its process was started, and has not connected      | it connects                                | `greeting`  |
  # | `greeting`  | it connected, and has not said hello                | its hello is right                         | `importing` |
  # | `importing` | it imports its modules, runs hooks and warm-up calls | it says that it is ready                   | `ready`     |
  # | `ready`     | its lanes are given out to callers                  | the owner drains it                        | `draining`  |
  # | `draining`  | no new calls; those that run may finish             | the pool says that the last one is over    | (stops)     |
  # | `ending`    | no calls; its process was killed, or is dying       | the launcher says that the process is gone | `over`      |
  # | `over`      | its resources are released but for the lanes        | callers had time to read and ask why       | (stops)     |
  #
  # Any state before `ending` goes to `ending` when the worker breaks the protocol, closes a socket or its heartbeat fails, when
  # it is not ready in time, or when a caller discards it; and to `over` when its process is gone. A run that is stopped
  # (by its owner or its supervisor) is asked to stop, and waited for, when this process terminates.
  #
  # Events are sent to the owner as `{:worker, pid, event}`. The owner answers `:ready` and `:ended` by `noted/2` once it
  # has acted upon them: only then the run's events are emitted, and callers hear why it ended.
  #
  # This module is the interface; `Snakepit.Worker.States` handles events, `Snakepit.Worker.Transitions` has what they do.

  alias Snakepit.{Error, Native, Tool}
  alias Snakepit.Worker.{Lane, Outcome, Spec, States, Stopping}

  # Longer than a worker that closed a lane may take to die.
  @why_ms 3_000
  # Importing grpcio takes a while.
  @grpc_ms 30_000

  @type state :: :starting | :greeting | :importing | :ready | :draining | :ending | :over

  @typedoc """
  What the owner is sent:

  - `:ready`: its lanes may be used. `started_at`: monotonic ms.
  - `:due`: its pool's options want it replaced, and why.
  - `:warning`: it warns of a tool.
  - `:down`: its lanes must not be used any more. Also sent before the `:ended` of every run that was ready.
  - `:not_ready`: it could not be started, and has no process.
  - `:ended`: its process is gone.
  """
  @type event ::
          {:ready, %{lanes: [Lane.t(), ...], tools: [Tool.t()], started_at: integer()}}
          | {:due, why :: String.t()}
          | {:warning, String.t()}
          | :down
          | {:not_ready, Error.t() | :companion_gone}
          | {:ended, Outcome.t()}

  # ---- for the owner ----------------------------------------------------------------------------------------------

  def child_spec(%Spec{} = spec) do
    shutdown = Stopping.most_ms(spec.options.shutdown_timeout) + 1_000
    %{id: __MODULE__, start: {__MODULE__, :start_link, [spec]}, shutdown: shutdown, restart: :temporary}
  end

  @spec start_link(Spec.t()) :: :gen_statem.start_ret()
  def start_link(%Spec{} = spec), do: :gen_statem.start_link(States, spec, [])

  @doc "The owner has acted upon what it was sent."
  @spec noted(pid(), :ready | {:ended, again? :: boolean()}) :: :ok
  def noted(worker, what), do: :gen_statem.cast(worker, {:noted, what})

  @doc "Its lanes are not given out any more. `retired/1` follows when the last call is over."
  @spec drain(pid()) :: :ok
  def drain(worker), do: :gen_statem.cast(worker, :drain)

  @doc "No call runs on it, and none will: it stops."
  @spec retired(pid()) :: :ok
  def retired(worker), do: :gen_statem.cast(worker, :stop)

  @doc "It is not wanted any more, though it was never ready: it stops."
  @spec stop(pid()) :: :ok
  def stop(worker), do: :gen_statem.cast(worker, :stop)

  @doc "Its pool has so many workers, each of which may have so many bytes of its own."
  @spec resized(pid(), size :: pos_integer(), quota :: pos_integer()) :: :ok
  def resized(worker, size, quota), do: :gen_statem.cast(worker, {:resized, size, quota})

  @doc "Its state, OS process, version of Python and buffers that it holds; nil if it is gone."
  @spec describe(pid()) :: map() | nil
  def describe(worker), do: call(worker, :describe, 10_000, nil)

  # ---- for callers ------------------------------------------------------------------------------------------------

  @doc """
  Waits until a chunk that a reply refers to has been mapped. The worker announces a chunk before it sends the reply: a chunk
  that is `:unknown` was never announced. `:gone`: the worker is.
  """
  @spec await_chunk(Lane.t(), Native.chunk_id(), timeout()) :: :ok | {:error, :unknown | :gone | :timeout}
  def await_chunk(%Lane{worker: worker}, id, timeout), do: call(worker, {:await_chunk, id}, timeout)

  @doc "Sends the worker the descriptors of chunks, unless it has them."
  @spec announce(pid(), [Native.chunk_id()]) :: :ok
  def announce(worker, ids), do: :gen_statem.cast(worker, {:announce, ids})

  @doc "Sends the worker the descriptors that a request needs which was written for it."
  @spec send_chunks(pid(), [Native.chunk_id()]) :: :ok
  def send_chunks(_worker, []), do: :ok
  def send_chunks(worker, ids), do: :gen_statem.cast(worker, {:send_chunks, ids})

  @doc "Sends the worker the table by which it chooses the ways of results, unless it has it."
  @spec table(pid(), binary()) :: :ok
  def table(worker, table), do: :gen_statem.cast(worker, {:table, table})

  @doc "After how long without use the worker gives its shared memory back."
  @spec idle_ms(pid(), non_neg_integer()) :: :ok
  def idle_ms(worker, ms), do: :gen_statem.cast(worker, {:idle_ms, ms})

  @doc "A gRPC channel to the worker; its server is started when it is first asked for."
  @spec grpc(Lane.t(), timeout()) :: {:ok, reference()} | {:error, String.t() | :gone | :timeout}
  def grpc(%Lane{worker: worker}, timeout) do
    with {:error, :timeout} when timeout > @grpc_ms <- call(worker, :grpc, min(timeout, @grpc_ms)),
         do: {:error, "its gRPC server did not start within #{@grpc_ms} ms"}
  end

  @doc "Nobody waits for this call of the lane, or one before it, any more: its tool is ended."
  @spec cancel(Lane.t(), non_neg_integer()) :: :ok
  def cancel(%Lane{worker: worker, number: number}, call_id), do: cancel(worker, number, call_id)

  @spec cancel(pid(), lane :: non_neg_integer(), non_neg_integer()) :: :ok
  def cancel(worker, number, call_id), do: :gen_statem.cast(worker, {:cancel, number, call_id})

  @doc "The lane is in an unknown state, or the worker `:closed` it: the worker is ended."
  @spec discard(Lane.t(), String.t() | :closed) :: :ok
  def discard(%Lane{worker: worker}, why), do: :gen_statem.cast(worker, {:discard, why})

  @doc """
  Why the run ended, in words. Waits for the end of one that is just ending, but not beyond `timeout`. `:gone`: this process
  ended, or did not know in time; `:stopping`: it is being stopped.
  """
  @spec why(Lane.t(), timeout()) :: String.t() | :stopping | :gone
  def why(%Lane{worker: worker}, timeout), do: call(worker, :why, min(timeout, @why_ms), :gone)

  defp call(worker, request, timeout) do
    :gen_statem.call(worker, request, timeout)
  catch
    :exit, {:timeout, _} -> {:error, :timeout}
    :exit, _ -> {:error, :gone}
  end

  defp call(worker, request, timeout, otherwise) do
    with {:error, _} <- call(worker, request, timeout), do: otherwise
  end
end
