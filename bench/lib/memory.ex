defmodule Snakepit.Bench.Memory do
  @moduledoc false
  # Proportional set size (Pss): every page counted once, shared between those who map it. From /proc/PID/smaps_rollup.

  @doc "Pss in bytes of this VM, its companion and its workers."
  @spec pss() :: non_neg_integer()
  def pss, do: System.pid() |> tree() |> Enum.map(&(Snakepit.Machine.pss(&1) || 0)) |> Enum.sum()

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
