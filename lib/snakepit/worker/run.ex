defmodule Snakepit.Worker.Run do
  @moduledoc false
  # The data of a worker's process on its run, besides the state it is in (`Snakepit.Worker`).

  alias Snakepit.Native
  alias Snakepit.Wire.{ControlSocket, LaneSocket}
  alias Snakepit.Worker.{Heart, Launcher, Logs, Spec}

  @enforce_keys [:spec, :number, :memory, :token, :started_at, :size, :quota, :idle_ms]
  defstruct @enforce_keys ++
              [:id, :monitor, :control, :os_pid, :logs, :log_level, :importing, :doing, :heart, :ready_at] ++
              [:table, :grpc, :grpc_path, :ran, :failure, :closing, :status, :outcome] ++
              [
                info: %{},
                lanes: [],
                tools: [],
                chunks: MapSet.new(),
                refused?: false,
                on_stop?: false,
                grpc_waiting: [],
                asking: [],
                warnings: 0,
                looked: 0,
                memory_from: nil,
                meant?: false,
                noted?: false
              ]

  @typedoc """
  - `number`: tells the runs of a pool apart; it owns the run's shared memory. `size`, `quota`: as the spec's, or as they
    are after the pool was resized.
  - `id`, `monitor`: what the launcher gave. `os_pid`, `status`: the OS process and how it ended.
  - `importing`, `doing`: what the worker does before it is ready: a module; a hook or a command, by kind and name.
  - `info`: from its hello. `tools`: until they were reported. `on_stop?`: it has hooks to run before it ends.
  - `chunks`: memory the worker announced, also what could not be mapped (`refused?`: that happened).
  - `log_level`, `table`, `idle_ms`: what the worker was last sent.
  - `ran`: the calls it ran when it went down, nil before. `meant?`: it was ended for a caller's sake.
  - `failure`: why it is killed. `closing`: why it will be, if it closed a socket and does not die.
  - `outcome`: the error its callers get, and how the run ended in words. `noted?`: the owner has acted upon that.
  - `asking`: callers that wait for the outcome. `memory_from`: its memory is not looked at before.
  """
  @type t :: %__MODULE__{
          spec: Spec.t(),
          number: pos_integer(),
          memory: Native.worker(),
          token: binary(),
          started_at: integer(),
          size: pos_integer(),
          quota: pos_integer(),
          idle_ms: non_neg_integer(),
          id: Launcher.id() | nil,
          monitor: reference() | nil,
          control: ControlSocket.t() | nil,
          os_pid: pos_integer() | nil,
          lanes: [LaneSocket.t()],
          chunks: MapSet.t(Native.chunk_id()),
          heart: Heart.t() | nil,
          logs: pid() | nil,
          doing: {String.t(), String.t()} | nil,
          ran: [map()] | nil,
          ready_at: integer() | nil
        }

  @doc "Sends the owner an event of the run. By the run's process."
  @spec report(t(), Snakepit.Worker.event()) :: :ok
  def report(%__MODULE__{spec: spec}, event) do
    send(spec.owner, {:worker, self(), event})
    :ok
  end

  @doc "Releases all that the run holds but its lanes, once its process is gone. To be called once."
  @spec release(t()) :: :ok
  def release(%__MODULE__{} = run) do
    if run.monitor, do: Process.demonitor(run.monitor, [:flush])
    if run.control, do: ControlSocket.close(run.control)
    if run.logs, do: Logs.finish(run.logs)
    Enum.each(run.grpc_waiting, &GenServer.reply(&1, {:error, :gone}))
    if run.grpc_path, do: File.rm(run.grpc_path)
    Native.worker_close(run.memory)
    :ok
  end

  @doc "Closes its lanes. Until then callers read what the worker said last."
  @spec close_lanes(t()) :: :ok
  def close_lanes(%__MODULE__{lanes: lanes}), do: Enum.each(lanes, &LaneSocket.close/1)
end
