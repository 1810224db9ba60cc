defmodule Snakepit.Pool.Reload do
  @moduledoc false
  # Replaces a pool's workers when a file changes that they imported. Such a pool alone has this process.
  #
  # Workers say what they import (`source`). The files and their directories are looked at twice a second; once they are
  # quiet, one worker after the other is replaced (Pool.Manager.renew/4). If one cannot be for its code, the others are left
  # alone, and the next change is the next try. A pool that could not start has no worker to replace: with this process,
  # all of the pool is started again (Pool.Supervisor is one_for_all).

  use GenServer
  alias Snakepit.{Error, Pool, Python, Telemetry}
  alias Snakepit.Pool.{Handle, Manager, Sources}
  require Logger

  @event [:snakepit, :pool, :reload]
  @look_ms 500
  # An editor writes a file in several steps.
  @quiet_ms 100
  # A supervisor gives up a child that ends three times in five seconds.
  @young_ms 2_500
  # No worker makes this process look at the whole disk.
  @most_files 10_000
  # How often a worker is started that is lost meanwhile, and after what pause.
  @tries 3
  @retry_ms 100

  @spec start_link(atom()) :: GenServer.on_start()
  def start_link(pool), do: GenServer.start_link(__MODULE__, pool, name: Handle.name(:reload, pool))

  @impl true
  def init(pool) do
    handle = Handle.fetch!(pool)
    roots = Python.directories(handle.options)
    look = Sources.look(roots, %{}, seconds())
    # loaded: what was there when the workers were last replaced, or could not be. seen: at the last look.
    state = %{handle: handle, roots: roots, files: MapSet.new(), loaded: look, seen: look, round: nil}
    state = Map.put(state, :started, now())

    case Registry.meta(Snakepit.Registry, {:reload, pool}) do
      {:ok, changed} ->
        Registry.delete_meta(Snakepit.Registry, {:reload, pool})
        {:ok, %{state | round: restart_round(handle, changed)}}

      :error ->
        {:ok, again(state, @look_ms)}
    end
  end

  @impl true
  def handle_cast({:source, path, content}, %{files: files} = state) do
    if path in files or MapSet.size(files) >= @most_files or not own?(state, path) do
      {:noreply, state}
    else
      look = Sources.look([Path.dirname(path) | if(content, do: [], else: [path])], %{}, seconds())
      # The state that the worker saw: it may have changed since.
      look = if content, do: Map.merge(look, Sources.reported(path, content)), else: look
      state = %{state | loaded: Map.merge(look, state.loaded), seen: Map.merge(look, state.seen)}
      {:noreply, %{state | files: MapSet.put(files, path)}}
    end
  end

  @impl true
  def handle_info(:look, %{round: nil} = state), do: look(state)
  # Looked at again when the round is over.
  def handle_info(:look, state), do: {:noreply, state}

  def handle_info({ref, {changed, took_ms, result}}, %{round: %Task{ref: ref}} = state) do
    Process.demonitor(ref, [:flush])
    over(state.handle, changed, took_ms, result)
    Process.send_after(self(), :look, 0)
    {:noreply, %{state | round: nil}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp look(state) do
    as_of = now()
    seen = Sources.look(paths(state), state.seen, seconds())
    changed = Sources.changed(state.loaded, seen)
    quiet? = Sources.changed(state.seen, seen) == []
    state = %{state | seen: seen}

    cond do
      changed == [] -> {:noreply, again(state, @look_ms)}
      not quiet? -> {:noreply, again(state, @quiet_ms)}
      Pool.status(state.handle)[:failure] -> restart(state, changed)
      true -> {:noreply, %{state | loaded: seen, round: round(state.handle, changed, as_of)}}
    end
  end

  # Its next life says what came of it.
  defp restart(state, changed) do
    if now() - state.started < @young_ms do
      {:noreply, again(state, @look_ms)}
    else
      Registry.put_meta(Snakepit.Registry, {:reload, state.handle.name}, changed)
      {:stop, {:shutdown, :reload}, state}
    end
  end

  defp restart_round(handle, changed) do
    began = now()

    Task.async(fn ->
      case Pool.await_ready(handle.name, :infinity) do
        {:error, %Error{reason: reason}} when reason in [:stopped, :stopping] -> {changed, 0, :gone}
        result -> {changed, now() - began, result}
      end
    end)
  end

  defp again(state, ms) do
    Process.send_after(self(), :look, ms)
    state
  end

  defp paths(%{files: files} = state) do
    files = MapSet.to_list(files)
    Enum.uniq(state.roots ++ Sources.directories(files)) ++ files
  end

  defp own?(%{roots: roots}, path),
    do:
      String.valid?(path) and Path.expand(path) == path and
        Enum.any?(roots, &String.starts_with?(path, &1 <> "/"))

  # ---- one round --------------------------------------------------------------------------------------------------

  # In a process of its own: workers say meanwhile what they import.
  defp round(handle, changed, as_of) do
    Task.async(fn ->
      result = replace(handle.name, as_of, "#{names(changed)} changed")

      # By its answer, the pool knows of the last worker that is up: who calls from now on gets no old one.
      Pool.status(handle)
      {changed, now() - as_of, result}
    end)
  end

  # A worker that is lost while it starts says nothing of the code: it is tried again, and then the others have their turn,
  # so that chance does not leave old and new code side by side. If none is new yet, the code may well be to blame, and
  # all keep the old one.
  defp replace(pool, as_of, why) do
    # The pool may have been resized since it was started.
    indices = Enum.to_list(0..(Handle.fetch!(pool).options.size - 1))

    Enum.reduce_while(indices, %{new: [], error: nil}, fn index, done ->
      case renew(pool, index, as_of, why, @tries) do
        :ok -> {:cont, %{done | new: [index | done.new]}}
        :gone -> {:halt, :gone}
        {:error, error} -> failed(%{done | error: done.error || error}, error)
      end
    end)
    |> case do
      :gone -> :gone
      %{error: nil} -> :ok
      %{error: error, new: new} -> {:error, error, Enum.sort(new), indices -- new}
    end
  end

  defp failed(%{new: [_ | _]} = done, error), do: {if(chance?(error), do: :cont, else: :halt), done}
  defp failed(done, _error), do: {:halt, done}

  defp renew(pool, index, as_of, why, tries) do
    answer = Manager.renew(pool, index, as_of, why)

    if tries > 1 and match?({:error, _}, answer) and chance?(elem(answer, 1)) do
      Process.sleep(@retry_ms)
      renew(pool, index, as_of, why, tries - 1)
    else
      answer
    end
  end

  # A worker that is not ready in time most likely runs new code that hangs, and each try would take as long.
  defp chance?(%Error{category: :worker, reason: reason}), do: reason != :startup_timeout
  defp chance?(_error), do: false

  # The pool is stopping.
  defp over(_handle, _changed, _took_ms, :gone), do: :ok

  defp over(%{name: name}, changed, took_ms, result) do
    pool = "pool #{inspect(name)}:"
    after_change = "reloaded after a change of #{names(changed)}"

    case result do
      :ok ->
        Logger.info("#{pool} #{after_change}")

      {:error, error, [_ | _] = new, old} ->
        Logger.error(
          "#{pool} only in part #{after_change}: #{numbered(new)} the new code, #{numbered(old)} the old, " <>
            "and the next change is the next try\n" <> Exception.message(error)
        )

      {:error, error, [], _old} ->
        not_reloaded(pool, after_change, error)

      {:error, error} ->
        not_reloaded(pool, after_change, error)
    end

    result = if match?({:error, _, _, _}, result), do: {:error, elem(result, 1)}, else: result
    Telemetry.execute(@event, %{duration_ms: took_ms}, %{pool: name, files: changed, result: result})
  end

  defp not_reloaded(pool, after_change, error) do
    Logger.error(
      "#{pool} not #{after_change}; workers that run go on with the code they have, and the next change is the next try\n" <>
        Exception.message(error)
    )
  end

  defp numbered([one]), do: "worker #{one} has"
  defp numbered(several), do: "workers #{Enum.join(several, ", ")} have"

  defp names(files) do
    case Enum.map(files, &Path.basename/1) do
      [one, two, _three | _] = all -> "#{one}, #{two} and #{length(all) - 2} more files"
      some -> Enum.join(some, " and ")
    end
  end

  defp seconds, do: System.os_time(:second)
  defp now, do: System.monotonic_time(:millisecond)
end
