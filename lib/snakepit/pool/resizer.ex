defmodule Snakepit.Pool.Resizer do
  @moduledoc false
  # Changes the number of a pool's workers while calls run, one change at a time: who asks meanwhile waits.
  #
  # Workers are numbered from 0, and always the last ones come and go. A pool grows once all new workers are ready, though
  # each takes calls as soon as it is; if one cannot start, the others leave. Of a pool that shrinks, the leaving workers
  # get no more calls, finish those they have, and end in their own time (`Snakepit.Worker`).

  use GenServer
  alias Snakepit.{Error, Pool, Telemetry}
  alias Snakepit.Pool.{Handle, Options}
  require Logger

  @spec start_link(atom()) :: GenServer.on_start()
  def start_link(pool), do: GenServer.start_link(__MODULE__, pool, name: Handle.name(:resizer, pool))

  @doc "Answers when the pool has so many workers, all of which were ready, or cannot have them."
  @spec resize(Handle.t(), pos_integer()) :: {:ok, pos_integer()} | {:error, Error.t()}
  def resize(%Handle{name: name}, size) do
    GenServer.call(Handle.name(:resizer, name), {:resize, size}, :infinity)
  catch
    :exit, _ ->
      words = "pool #{inspect(name)} stopped before it was resized to #{size} workers"
      {:error, Error.new(:pool, :stopped, words, pool: name)}
  end

  @doc "A pool's options with the size that it has by now, when its processes start again after a crash."
  @spec resized(Options.t()) :: Options.t()
  def resized(%Options{name: name} = options) do
    with {:ok, {supervisor, size}} <- Registry.meta(Snakepit.Registry, {:size, name}),
         ^supervisor <- Pool.Supervisor.whereis(name),
         do: %{options | size: size},
         else: (_ -> options)
  end

  # A pool that is stopped and started has another supervisor, and forgets it.
  defp remember(name, size),
    do: Registry.put_meta(Snakepit.Registry, {:size, name}, {Pool.Supervisor.whereis(name), size})

  @impl true
  def init(pool), do: {:ok, pool}

  @impl true
  def handle_call({:resize, size}, {caller, _}, pool) do
    # Who died while waiting wants nothing any more.
    answer = if node(caller) != node() or Process.alive?(caller), do: resize(pool, Handle.fetch!(pool), size)
    {:reply, answer, pool}
  end

  # Of workers of an earlier change.
  @impl true
  def handle_info(_message, pool), do: {:noreply, pool}

  defp resize(_pool, %{options: %{size: size}}, size), do: {:ok, size}

  defp resize(pool, %{options: %{size: from}} = handle, size) do
    started = System.monotonic_time(:millisecond)

    with :ok <- Pool.started(handle), :ok <- change(handle, size) do
      remember(pool, size)
      ms = System.monotonic_time(:millisecond) - started
      Logger.info("pool #{inspect(pool)} has #{size} workers now; it had #{from}")

      Telemetry.execute([:snakepit, :pool, :resized], %{size: size, from: from, duration_ms: ms}, %{
        pool: pool
      })

      {:ok, size}
    end
  end

  defp change(%{options: %{size: from}} = handle, size) when size < from, do: settle(handle, size)

  defp change(%{options: %{size: from} = options} = handle, size) do
    :ok = Pool.make_room(handle, size)
    options = %{options | size: size}
    started = for index <- from..(size - 1), do: start(options, index)
    {answer, waiting} = await(Enum.filter(started, &match?({_pid, _monitor}, &1)), started)

    case answer do
      :ok ->
        settle(handle, size)

      {:error, error} ->
        settle(handle, from)
        # Nothing stays behind of those that serve nobody.
        for {_pid, monitor} <- waiting, do: await_end(monitor)
        {:error, error}
    end
  end

  defp start(options, index) do
    case Pool.Supervisor.start_worker(options, index, {:joining, self(), options.size}) do
      {:ok, pid} -> {pid, Process.monitor(pid)}
      {:error, reason} -> {:error, reason}
    end
  end

  # Until all are ready, or one is known not to be: then the others, who wait.
  defp await(waiting, started) do
    case List.keyfind(started, :error, 0) do
      nil -> await(waiting)
      {:error, reason} -> {{:error, failed("a worker did not start: #{inspect(reason)}")}, waiting}
    end
  end

  defp await([]), do: {:ok, []}

  defp await(waiting) do
    receive do
      {:joined, pid} ->
        with {_pid, monitor} <- List.keyfind(waiting, pid, 0), do: Process.demonitor(monitor, [:flush])
        await(List.keydelete(waiting, pid, 0))

      {:not_joined, pid, error} ->
        # One of an earlier change has been told to leave already.
        if List.keymember?(waiting, pid, 0), do: {{:error, error}, waiting}, else: await(waiting)

      {:DOWN, monitor, :process, _pid, reason} ->
        if List.keymember?(waiting, monitor, 1),
          do:
            {{:error, failed("a worker ended while it started: #{inspect(reason)}")},
             List.keydelete(waiting, monitor, 1)},
          else: await(waiting)
    end
  end

  defp await_end(monitor) do
    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    end
  end

  defp failed(words), do: Error.new(:pool, :not_started, words)

  # From now on the pool has so many. Each worker sees by its own number whether it leaves.
  defp settle(%{name: name} = handle, size) do
    {:ok, handle} = Pool.resized(handle, size)
    for pid <- Pool.Supervisor.workers(name), do: send(pid, {:resized, handle})
    :ok
  end
end
