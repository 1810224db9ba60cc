defmodule Snakepit.Worker.Chunks do
  @moduledoc false
  # The shared memory of one run: chunks the worker announced, and chunks that are announced to it.

  alias Snakepit.Native
  alias Snakepit.Wire.ControlSocket
  alias Snakepit.Worker.Run
  require Logger

  @doc "Bytes that one worker's own arena may have: its share of what a pool of these options may hold."
  @spec quota(%{:quota => pos_integer(), :options => map(), optional(any()) => any()}) :: pos_integer()
  def quota(%{quota: quota, options: options}),
    do: max(div(quota, 2 * options.size), options.chunk_size)

  # Each costs this VM a descriptor and a mapping. The smallest that an honest worker makes is half of `chunk_size`; of
  # twice as many, half may have been given up and the word of it be on its way.
  defp most(%Run{spec: %{options: options}, quota: quota}), do: 4 * div(quota, options.chunk_size) + 4

  @doc """
  Takes over a chunk that the worker announced, with the next descriptor it sent. One that the system does not let this VM
  have is refused: the worker goes on without it.
  """
  @spec adopt(Run.t(), Native.chunk_id(), non_neg_integer()) :: Run.t() | {:error, String.t()}
  def adopt(%Run{chunks: chunks} = run, id, size) do
    with {:most, true} <- {:most, MapSet.size(chunks) < most(run)},
         {:ok, [fd], control} <- ControlSocket.take_fds(run.control, 1),
         run = %{run | control: control, chunks: MapSet.put(chunks, id)},
         {:mapped, _run, :ok} <- {:mapped, run, map(run, id, size, fd)} do
      run
    else
      {:mapped, run, {:error, {:errno, why}}} -> refuse(run, id, why)
      {:mapped, _run, {:error, why}} -> {:error, "the worker's chunk was refused: #{why}"}
      {:most, false} -> {:error, "the worker announced more than #{most(run)} chunks"}
      :error -> {:error, "a chunk was announced without its descriptor"}
    end
  end

  defp map(run, id, _size, :lost) do
    with :ok <- Native.worker_refuse(run.memory, id),
         do: {:error, {:errno, "this VM has as many open files as it may (ulimit -n)"}}
  end

  # The library takes the descriptor over, whatever it says of it.
  defp map(run, id, size, fd), do: Native.worker_adopt(run.memory, id, size, fd)

  defp refuse(run, id, why) do
    unless run.refused? do
      pool = inspect(run.spec.pool)
      Logger.warning("pool #{pool}: a worker's memory cannot be mapped, results go another way: #{why}")
    end

    # Should that not be sent, the worker is gone, or so stuck that its heart tells.
    ControlSocket.send_message(run.control, ["refused", id])
    %{run | refused?: true}
  end

  @doc "The worker has given up a chunk of its own."
  @spec forget(Run.t(), Native.chunk_id()) :: Run.t()
  def forget(%Run{chunks: chunks} = run, id) do
    Native.worker_forget(run.memory, id)
    %{run | chunks: MapSet.delete(chunks, id)}
  end

  @doc "Sends the descriptors of these chunks, but not of those the worker has."
  @spec announce(Run.t(), [Native.chunk_id()]) :: :ok | {:error, term()}
  def announce(run, ids), do: send_all(run, Enum.filter(ids, &Native.worker_needs_chunk(run.memory, &1)))

  @doc "Sends the descriptors of these chunks; of those that are gone meanwhile, none."
  @spec send_all(Run.t(), [Native.chunk_id()]) :: :ok | {:error, term()}
  def send_all(run, ids) do
    Enum.reduce_while(ids, :ok, fn id, :ok ->
      with {:ok, fd, size, chunk} <- Native.chunk_fd(id),
           sent = ControlSocket.send_message(run.control, ["chunk", id, size], [fd]),
           :ok = Native.chunk_sent(chunk),
           {:error, _reason} <- sent do
        {:halt, sent}
      else
        _ -> {:cont, :ok}
      end
    end)
  end
end
