defmodule Snakepit.Bench.Footprint do
  @moduledoc false
  # The resources left in the system: read from /proc, and not asked of Snakepit.
  #
  # `mark` is a string in the environment of a pool's workers (`env:`); whatever they start inherits it, so that a process
  # is found even when it left its group or lost its parent.

  defstruct processes: [], descriptors: 0, chunks: 0, bytes: 0

  @type t :: %__MODULE__{
          processes: [pos_integer()],
          descriptors: non_neg_integer(),
          chunks: non_neg_integer(),
          bytes: non_neg_integer()
        }

  @doc "The footprint of this VM, and of the processes with the mark, once all garbage is collected."
  @spec take(String.t()) :: t()
  def take(mark) do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    Snakepit.Native.unmap_unused()
    chunks = chunks()
    bytes = chunks |> Map.values() |> Enum.sum()

    %__MODULE__{
      processes: processes(mark),
      descriptors: length(File.ls!("/proc/self/fd")),
      chunks: map_size(chunks),
      bytes: bytes
    }
  end

  @doc "The excess of `now` over `before`."
  @spec growth(t(), t()) :: %{atom() => non_neg_integer()}
  def growth(before, now) do
    %{
      processes: length(now.processes -- before.processes),
      descriptors: max(now.descriptors - before.descriptors, 0),
      chunks: max(now.chunks - before.chunks, 0),
      bytes: max(now.bytes - before.bytes, 0)
    }
  end

  @doc "Whether nothing of it is left."
  @spec nothing?(%{atom() => non_neg_integer()}) :: boolean()
  def nothing?(growth), do: Enum.all?(growth, fn {_, n} -> n == 0 end)

  @doc "The OS processes whose environment has the mark; zombies have none any more."
  @spec processes(String.t()) :: [pos_integer()]
  def processes(mark) do
    for name <- File.ls!("/proc"), {pid, ""} <- [Integer.parse(name)], marked?(pid, mark), do: pid
  end

  @spec marked?(pos_integer(), String.t()) :: boolean()
  def marked?(pid, mark) do
    case File.read("/proc/#{pid}/environ") do
      {:ok, environment} -> String.contains?(environment, mark)
      {:error, _} -> false
    end
  end

  @doc "Kills a process that has the mark. Another process may have its number by now, and is left alone."
  @spec kill(pos_integer(), String.t()) :: :ok
  def kill(pid, mark), do: if(marked?(pid, mark), do: kill(pid), else: :ok)

  @doc "Kills a process."
  @spec kill(pos_integer()) :: :ok
  def kill(pid) do
    System.cmd("kill", ["-9", to_string(pid)], stderr_to_stdout: true)
    :ok
  end

  # Chunks that are mapped, or open without being mapped: inode => bytes.
  defp chunks do
    mapped =
      for line <- "/proc/self/maps" |> File.read!() |> String.split("\n"),
          String.contains?(line, "/memfd:snakepit"),
          [range, _, _, _, inode | _] = String.split(line) do
        [from, to] = range |> String.split("-") |> Enum.map(&String.to_integer(&1, 16))
        {String.to_integer(inode), to - from}
      end

    open =
      for fd <- File.ls!("/proc/self/fd"),
          path = "/proc/self/fd/#{fd}",
          {:ok, "/memfd:snakepit" <> _} <- [File.read_link(path)],
          {:ok, stat} <- [File.stat(path)],
          do: {stat.inode, stat.size}

    Map.new(mapped ++ open)
  end
end
