defmodule Snakepit.Worker.Stopping do
  @moduledoc false
  # The end of a run in order: it is asked to stop, has some time to clean up, and is listened to until it is gone.

  alias Snakepit.{Companion, Worker}
  alias Snakepit.Wire.ControlSocket
  alias Snakepit.Worker.{Conversation, Launcher, Run}

  @grace_ms 2_000
  # The companion gives the rest of a worker's process group at most this long to clean up.
  @group_ms 1_700

  @doc "The longest that it may take, in milliseconds."
  @spec most_ms(shutdown_timeout :: pos_integer()) :: pos_integer()
  def most_ms(shutdown_timeout), do: shutdown_timeout + @grace_ms + @group_ms

  @doc "Asks it to stop. One that takes too long is killed."
  @spec begin(Worker.state(), Run.t()) :: :ok
  # Nothing of the user's runs yet that could want to clean up.
  def begin(state, %Run{} = run) when state in [:starting, :greeting], do: Launcher.kill(run)

  def begin(_state, %Run{} = run) do
    grace = if run.on_stop?, do: max(run.spec.options.shutdown_timeout, @grace_ms), else: @grace_ms
    # If it cannot be sent, it is gone.
    ControlSocket.send_message(run.control, ["stop"])
    Launcher.stop(run, grace)
  end

  @doc """
  Waits for its end. `output` is called with what it prints until then. The process that waits is itself about to end, and
  answers its callers here: one that asks for a description of the worker gets `description`.
  """
  @spec await(Worker.state(), Run.t(), (Companion.event() -> any()), description :: map()) :: Run.t()
  def await(state, %Run{} = run, output, description),
    do: await(state, run, output, description, now() + most_ms(run.spec.options.shutdown_timeout))

  defp await(state, %Run{id: id, monitor: monitor} = run, output, description, until) do
    receive do
      {:"$gen_call", from, request} ->
        GenServer.reply(from, answer(request, description))
        await(state, run, output, description, until)

      {:companion, ^id, {:exited, _status, _tail}} ->
        elem(heard(state, run), 1)

      {:companion, ^id, {:start_failed, _why}} ->
        run

      {:companion, ^id, {:output, _stream, _line} = event} ->
        output.(event)
        await(state, run, output, description, until)

      {:"$socket", _socket, :select, _ref} ->
        {state, run} = heard(state, run)
        await(state, run, output, description, until)

      {:DOWN, ^monitor, _, _, _} ->
        run
    after
      max(until - now(), 0) ->
        Launcher.kill(run)
        run
    end
  end

  defp answer(:describe, description), do: description
  defp answer(:why, _description), do: :stopping
  defp answer(_needs_the_worker, _description), do: {:error, :gone}

  # Nothing is done any more about a message that is wrong.
  defp heard(:starting, run), do: {:starting, run}

  defp heard(state, run) do
    case Conversation.read(state, run) do
      {:ok, state, run} -> {state, run}
      {:error, _why, run} -> {state, run}
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
