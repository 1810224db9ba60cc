defmodule Snakepit.Worker.Stopping do
  @moduledoc false
  # The end of a run in order: it is told to stop, has some time to clean up, and is listened to until it is gone.

  alias Snakepit.Companion
  alias Snakepit.Wire.ControlSocket
  alias Snakepit.Worker.{Conversation, Launcher, Run}

  @grace_ms 2_000
  # The companion gives the rest of a worker's process group at most this long to clean up.
  @group_ms 1_700

  @doc "The longest that it may take, in milliseconds."
  @spec most_ms(shutdown_timeout :: pos_integer()) :: pos_integer()
  def most_ms(shutdown_timeout), do: shutdown_timeout + @grace_ms + @group_ms

  @doc "Tells it to stop. One that takes too long is killed."
  @spec begin(Run.t()) :: :ok
  # Nothing of the user's runs yet that could want to clean up.
  def begin(%Run{phase: phase} = run) when phase in [:starting, :greeting], do: Launcher.kill(run)

  def begin(%Run{} = run) do
    grace = if run.on_stop?, do: max(run.options.shutdown_timeout, @grace_ms), else: @grace_ms
    # If it cannot be sent, it is gone.
    ControlSocket.send_message(run.control, ["stop"])
    Launcher.stop(run, grace)
  end

  @doc """
  Waits for its end. `output` is called with what it prints until then; who asks for a description of the worker meanwhile
  gets `description`.
  """
  @spec await(Run.t(), (Companion.event() -> any()), description :: map()) :: Run.t()
  def await(%Run{} = run, output, description),
    do: await(run, output, description, now() + most_ms(run.options.shutdown_timeout))

  defp await(%Run{id: id, companion: monitor} = run, output, description, until) do
    receive do
      # The process ends, so no callback answers it any more.
      {:"$gen_call", from, :describe} ->
        GenServer.reply(from, description)
        await(run, output, description, until)

      {:"$gen_call", from, {:why, _epoch}} ->
        GenServer.reply(from, :stopping)
        await(run, output, description, until)

      {:companion, ^id, {:exited, _status, _tail}} ->
        heard(run)

      {:companion, ^id, {:start_failed, _why}} ->
        run

      {:companion, ^id, {:output, _stream, _line} = event} ->
        output.(event)
        await(run, output, description, until)

      {:"$socket", _socket, :select, _ref} ->
        await(heard(run), output, description, until)

      {:DOWN, ^monitor, _, _, _} ->
        run
    after
      max(until - now(), 0) ->
        Launcher.kill(run)
        run
    end
  end

  # Nothing is done any more about what it says wrong.
  defp heard(%Run{phase: :starting} = run), do: run

  defp heard(run) do
    case Conversation.read(run) do
      {:ok, run} -> run
      {:error, _why, run} -> run
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
