defmodule Snakepit.Worker.Upkeep do
  @moduledoc false
  # The questions and messages that a run gets from time to time: whether it is alive, whether it is due for recycling, and what no frame
  # reported to it. The decisions are those of `Heart` and `Recycling`; this module measures and sends.

  alias Snakepit.{Machine, Native}
  alias Snakepit.Wire.ControlSocket
  alias Snakepit.Worker.{Heart, LogLevel, Recycling, Run}
  require Logger

  # How often a worker looks whether it is due for recycling; at every tenth look, at its memory as well.
  @look_ms 500
  @look_at_memory 10
  # A worker whose modules alone exceed its memory.
  @unfit_ms 30_000

  @doc "The next ping, if one is due, and whether it was sent; or why the worker is given up."
  @spec beat(Run.t()) :: {:ok | {:error, term()}, Run.t()} | {:dead, String.t()}
  def beat(%Run{heart: heart} = run) do
    process = if heart.asked_at, do: Machine.process_state(run.control.peer.pid)

    case Heart.beat(heart, now(), process) do
      {:ping, n, heart} ->
        run = send_level(%{run | heart: heart})
        {ControlSocket.send_message(run.control, ["ping", n]), run}

      {:wait, heart} ->
        {:ok, %{run | heart: heart}}

      {:dead, why} ->
        {:dead, why}
    end
  end

  # The worker need not send what Logger drops. No event says that Logger's level changed.
  defp send_level(%Run{logs: nil} = run), do: run

  defp send_level(run) do
    case LogLevel.wanted(run.spec.options.log_level) do
      same when same == run.log_level ->
        run

      level ->
        # If that cannot be sent, the ping cannot, either.
        ControlSocket.send_message(run.control, ["log_level", level])
        %{run | log_level: level}
    end
  end

  @doc "Sends what the worker need not keep any more."
  @spec tend(Run.t()) :: :ok | {:error, term()}
  def tend(run) do
    freed = Native.worker_freed(run.memory)
    free = if freed == [], do: [], else: [["free", freed]]
    drops = for id <- Native.worker_stale(run.memory), do: ["drop", id]

    Enum.reduce_while(free ++ drops, :ok, fn message, :ok ->
      with :ok <- ControlSocket.send_message(run.control, message),
           do: {:cont, :ok},
           else: (error -> {:halt, error})
    end)
  end

  @doc "Whether `due/1` is of any use for it."
  @spec looks?(Run.t()) :: boolean()
  def looks?(run), do: Recycling.wanted?(run.spec.options)

  @spec look_ms() :: pos_integer()
  def look_ms, do: @look_ms

  @doc """
  For a run that is ready now. A worker whose modules alone exceed its memory would be replaced for ever, and so would each
  of its successors: its memory is not looked at for a while.
  """
  @spec begin(Run.t()) :: Run.t()
  def begin(%Run{spec: %{options: %{memory_threshold_mb: mb} = options} = spec} = run) when is_integer(mb) do
    pss = Machine.pss(run.control.peer.pid) || 0

    if Recycling.exceeds?(options, pss) do
      Logger.warning(
        "[#{spec.name}] holds #{div(pss, 1024 * 1024)} MiB before its first call: :memory_threshold_mb is #{mb}"
      )

      %{run | memory_from: now() + @unfit_ms}
    else
      run
    end
  end

  def begin(run), do: run

  @doc "Why the worker is due for recycling, nil if it is not."
  @spec due(Run.t()) :: {String.t() | nil, Run.t()}
  def due(%Run{spec: spec} = run),
    do: {Recycling.due(spec.options, vitals(run)), %{run | looked: run.looked + 1}}

  defp vitals(%Run{spec: spec} = run) do
    %{
      age_ms: now() - run.started_at,
      calls: Native.queue_served(spec.queue, spec.index),
      pss: if(look_at_memory?(run), do: Machine.pss(run.control.peer.pid))
    }
  end

  defp look_at_memory?(%Run{spec: %{options: options}, looked: looked, memory_from: from}),
    do:
      options.memory_threshold_mb != nil and rem(looked, @look_at_memory) == 0 and
        (from == nil or now() >= from)

  defp now, do: System.monotonic_time(:millisecond)
end
