defmodule Snakepit.Bench.Memory do
  @moduledoc false
  # Proportional set size (Pss): every page counted once, shared between those who map it. From /proc/PID/smaps_rollup.

  @doc "Pss in bytes of this VM, its companion and its workers."
  @spec pss() :: non_neg_integer()
  def pss, do: System.pid() |> tree() |> Enum.map(&pss/1) |> Enum.sum()

  @doc "Pss in bytes of one process; 0 if it is gone."
  @spec pss(String.t()) :: non_neg_integer()
  def pss(pid) do
    with {:ok, text} <- File.read("/proc/#{pid}/smaps_rollup"),
         [_, kb] <- Regex.run(~r/^Pss:\s+(\d+) kB/m, text) do
      String.to_integer(kb) * 1024
    else
      _ -> 0
    end
  end

  defp tree(pid) do
    children =
      "/proc/#{pid}/task/*/children"
      |> Path.wildcard()
      |> Enum.flat_map(fn path ->
        with({:ok, text} <- File.read(path), do: String.split(text), else: (_ -> []))
      end)

    [pid | Enum.flat_map(children, &tree/1)]
  end
end
