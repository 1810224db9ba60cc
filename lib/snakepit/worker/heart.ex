defmodule Snakepit.Worker.Heart do
  @moduledoc false
  # Whether a worker is alive, by its answers to pings. Pure: times are given, in milliseconds.
  #
  # A ping is answered by a thread of its own, whatever the tools do; only a tool that does not let go of the
  # interpreter's lock keeps it from it. Such a tool is distinguished from a dead process by waiting longer (`grace`), and a process
  # that was stopped (SIGSTOP) by what the kernel says of it.

  defstruct [:interval, :grace, number: 0, asked_at: nil, beat_at: nil]

  @type t :: %__MODULE__{
          interval: pos_integer(),
          grace: pos_integer(),
          number: non_neg_integer(),
          asked_at: integer() | nil,
          beat_at: integer() | nil
        }

  @typedoc "The letter of proc(5), `nil` for a process that is not there."
  @type process_state :: String.t() | nil

  @spec new(pos_integer(), pos_integer()) :: t()
  def new(interval, grace), do: %__MODULE__{interval: interval, grace: grace}

  @doc """
  To be called every `interval`, once all answers that came were read: a ping to send, nothing yet, or why the worker is
  given up.
  """
  @spec beat(t(), now :: integer(), process_state()) ::
          {:ping, pos_integer(), t()} | {:wait, t()} | {:dead, String.t()}
  def beat(%__MODULE__{asked_at: nil} = heart, now, _state) do
    heart = %{heart | number: heart.number + 1, asked_at: now, beat_at: now}
    {:ping, heart.number, heart}
  end

  # A process that is this late was stopped itself, or had no core, and so perhaps was the worker.
  def beat(%__MODULE__{} = heart, now, _state) when now - heart.beat_at >= 2 * heart.interval,
    do: {:wait, %{heart | asked_at: now, beat_at: now}}

  def beat(%__MODULE__{} = heart, now, state) do
    silent = now - heart.asked_at

    cond do
      state in ["T", "t"] ->
        {:dead, "it is stopped, and did not answer for #{silent} ms"}

      silent >= heart.grace ->
        {:dead, "it did not answer a heartbeat within #{heart.grace} ms (:heartbeat_grace)"}

      true ->
        {:wait, %{heart | beat_at: now}}
    end
  end

  @doc "An answer came. One to an earlier ping says nothing."
  @spec pong(t(), term()) :: t()
  def pong(%__MODULE__{number: number} = heart, number), do: %{heart | asked_at: nil}
  def pong(heart, _other), do: heart
end
