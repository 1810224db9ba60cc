defmodule Snakepit.Call.FanOut do
  @moduledoc false
  # Runs a function over items, each in a process of its own, so many at a time: what `Snakepit.map/3` does.
  #
  # Task.async_stream/3 waits for whichever task is done in the caller's mailbox, and looks through all of it each time.
  # Here a process in between does that. The caller hands it the items, each under a reference that it made for it
  # (see Wire.LaneSocket).

  @doc "The answers, in the order of the items, which are taken one by one in the calling process."
  @spec map(Enumerable.t(), pos_integer(), (term() -> answer)) :: [answer] when answer: term()
  def map(items, concurrency, fun) do
    owner = self()
    callers = [owner | Process.get(:"$callers") || []]

    state = %{
      owner: owner,
      callers: callers,
      fun: fun,
      room: concurrency,
      running: %{},
      answers: %{},
      asking: nil
    }

    runner = spawn_link(fn -> serve(state) end)

    try do
      Enum.each(items, &ask(runner, {:run, &1}))
    catch
      kind, reason ->
        Process.unlink(runner)
        Process.exit(runner, :kill)
        :erlang.raise(kind, reason, __STACKTRACE__)
    end

    ask(runner, :collect)
  end

  # After `:run` the answer comes once there is room for another.
  defp ask(runner, question) do
    ref = :erlang.monitor(:process, runner, alias: :reply_demonitor)
    send(runner, {ref, question})

    receive do
      {^ref, answer} -> answer
      {:DOWN, ^ref, _, _, reason} -> exit(reason)
    end
  end

  # ---- the process in between -------------------------------------------------------------------------------------

  # asking: an answer that is due once a task is done.
  defp serve(state) do
    receive do
      {ref, {:run, item}} ->
        state |> start(item) |> Map.put(:asking, {ref, :run}) |> answer()

      {ref, :collect} ->
        answer(%{state | asking: {ref, :collect}})

      {:DOWN, monitor, :process, _pid, {:done, answer}} ->
        {place, running} = Map.pop!(state.running, monitor)
        answer(%{state | running: running, answers: Map.put(state.answers, place, answer)})
    end
  end

  defp answer(%{asking: {ref, :run}, running: running, room: room} = state) when map_size(running) < room do
    send(ref, {ref, :ok})
    serve(%{state | asking: nil})
  end

  defp answer(%{asking: {ref, :collect}, running: running, answers: answers} = state) when running == %{} do
    # It is to hear of a failure, and not of this.
    Process.unlink(state.owner)
    send(ref, {ref, for(place <- 0..(map_size(answers) - 1)//1, do: Map.fetch!(answers, place))})
  end

  defp answer(state), do: serve(state)

  # Linked, so that it ends with the caller, and the caller with it if it fails.
  defp start(%{fun: fun, callers: callers} = state, item) do
    runner = self()

    {_pid, monitor} =
      :erlang.spawn_opt(
        fn ->
          Process.put(:"$callers", callers)
          answer = fun.(item)
          Process.unlink(runner)
          exit({:done, answer})
        end,
        [:link, :monitor]
      )

    place = map_size(state.running) + map_size(state.answers)
    %{state | running: Map.put(state.running, monitor, place)}
  end
end
