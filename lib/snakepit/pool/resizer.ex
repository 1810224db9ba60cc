defmodule Snakepit.Pool.Resizer do
  @moduledoc false
  # Changes the number of a pool's workers while calls run, one change at a time: who asks meanwhile waits.
  #
  # Workers are numbered from 0, and always the last ones come and go. A pool grows once all new workers are ready, though
  # each takes calls as soon as it is; if one cannot start, the others leave. In a pool that shrinks, the leaving workers
  # get no more calls, finish those they have, and end in their own time.

  use GenServer
  alias Snakepit.{Error, Pool, Telemetry}
  alias Snakepit.Pool.{Handle, Manager, Size}
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

  @impl true
  def init(pool), do: {:ok, pool}

  @impl true
  def handle_call({:resize, size}, {caller, _}, pool) do
    # A caller that died while it waited needs no answer.
    answer = if node(caller) != node() or Process.alive?(caller), do: resize(pool, Handle.fetch!(pool), size)
    {:reply, answer, pool}
  end

  # About workers of an earlier change.
  @impl true
  def handle_info(_message, pool), do: {:noreply, pool}

  defp resize(_pool, %{options: %{size: size}}, size), do: {:ok, size}

  defp resize(pool, %{options: %{size: from}} = handle, size) do
    started = System.monotonic_time(:millisecond)

    with :ok <- Pool.started(handle), :ok <- change(handle, size) do
      Size.remember(pool, size)
      ms = System.monotonic_time(:millisecond) - started
      Logger.info("pool #{inspect(pool)} has #{size} workers now; it had #{from}")

      Telemetry.execute([:snakepit, :pool, :resized], %{size: size, from: from, duration_ms: ms}, %{
        pool: pool
      })

      {:ok, size}
    end
  end

  defp change(%{options: %{size: from}, name: pool}, size) when size < from do
    Manager.resized(pool, size)
    :ok
  end

  defp change(%{options: %{size: from}, name: pool}, size) do
    # Tells the messages of this change from those of earlier ones.
    ref = make_ref()
    :ok = Manager.grow(pool, size, {self(), ref})

    case await(ref, MapSet.new(from..(size - 1))) do
      :ok ->
        Manager.resized(pool, size)
        :ok

      {:error, error} ->
        # Nothing stays behind of those that serve nobody.
        for worker <- Manager.resized(pool, from), do: await_end(Process.monitor(worker))
        {:error, error}
    end
  end

  # Until all are ready, or one is known not to be.
  defp await(ref, waiting) do
    if MapSet.size(waiting) == 0 do
      :ok
    else
      receive do
        {:joined, ^ref, index} -> await(ref, MapSet.delete(waiting, index))
        {:not_joined, ^ref, _index, error} -> {:error, error}
      end
    end
  end

  defp await_end(monitor) do
    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    end
  end
end
