defmodule Snakepit.Worker.Run do
  @moduledoc false
  # One run of a worker's OS process, from its start to its end: what the worker's own process knows of it.
  #
  # `epoch` tells runs apart and is the owner id of this run's shared memory. `info` is what its hello said.
  # `chunks` has those that could not be mapped, too (`refused?`: whether there was one).
  # `phase`: :starting (until it connected) → :greeting (until its hello) → :importing (until ready) → :ready, and
  # :ending from any of them, until the process is known to be gone.
  # index: the worker's. options: the pool's, with the variables of this start. quota: bytes of its own memory, the most it
  # was ever given. on_stop?: whether it has something to do before it ends. doing: what it does between its imports and its
  # first call, a kind and a name.
  # ready_at: since when its lanes were used. importing: the module. ran: the calls it had when its end was noticed.
  # closing: why it is given up if it turns out not to be dying. meant?: its end is for a caller's sake.
  # status: what the companion said of its end. logs: the process that reads its log records. log_level: the last level
  # that it was told, if that changed.

  alias Snakepit.{Native, Pool}
  alias Snakepit.Wire.{ControlSocket, LaneSocket}
  alias Snakepit.Worker.{Heart, Logs}

  @enforce_keys [:pool, :index, :options, :quota, :epoch, :id, :memory, :control, :token, :started_at]
  defstruct @enforce_keys ++
              [:os_pid, :timer, :companion, :heart, :failure, :grpc, :grpc_path, :table, :idle_ms] ++
              [:name, :ready_at, :importing, :doing, :ran, :closing, :status, :logs, :log_level] ++
              [
                phase: :starting,
                lanes: [],
                tools: [],
                info: %{},
                chunks: MapSet.new(),
                refused?: false,
                on_stop?: false,
                grpc_waiting: [],
                meant?: false
              ]

  @type t :: %__MODULE__{
          pool: Pool.Handle.t(),
          name: String.t() | nil,
          index: non_neg_integer(),
          options: Pool.Options.t(),
          quota: pos_integer(),
          doing: {String.t(), String.t()} | nil,
          epoch: pos_integer(),
          id: Snakepit.Companion.id(),
          memory: Native.worker(),
          control: ControlSocket.t(),
          lanes: [LaneSocket.t()],
          chunks: MapSet.t(Native.chunk_id()),
          heart: Heart.t() | nil,
          phase: :starting | :greeting | :importing | :ready | :ending
        }

  @doc "Gives up all that belongs to it but its lanes, once its process is gone."
  @spec close(t()) :: :ok
  def close(%__MODULE__{} = run) do
    Process.cancel_timer(run.timer)
    Process.demonitor(run.companion, [:flush])
    ControlSocket.close(run.control)
    if run.logs, do: Logs.finish(run.logs)
    Enum.each(run.grpc_waiting, &GenServer.reply(&1, {:error, :gone}))
    if run.grpc_path, do: File.rm(run.grpc_path)
    Native.worker_close(run.memory)
  end
end
