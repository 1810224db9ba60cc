defmodule Snakepit.Bench.Chaos.Doomed do
  @moduledoc false
  # A whole VM under load, in an OS process of its own, killed by kill -9 at a random moment: after two seconds no process
  # of it may be left.

  alias Snakepit.Bench.Chaos.Load
  alias Snakepit.Bench.Footprint

  @limit_ms 2_000

  @doc "Kills one VM; milliseconds until its last process was gone, and those that never went."
  @spec kill(String.t(), integer(), non_neg_integer()) :: {number(), left :: [pos_integer()]}
  def kill(mark, seed, pause_ms) do
    code = "Snakepit.Bench.Chaos.Doomed.main(#{inspect(mark)}, #{seed})"
    args = ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]
    env = [{'SNAKEPIT_CHAOS', String.to_charlist(mark)}]
    options = [:binary, :exit_status, line: 1_000, args: args, env: env]
    port = Port.open({:spawn_executable, System.find_executable("elixir")}, options)
    pid = ready(port)
    Process.sleep(pause_ms)
    {_, 0} = System.cmd("kill", ["-9", pid])
    killed = now()
    receive do: ({^port, {:exit_status, _}} -> :ok)
    left = gone(mark, killed)
    ms = now() - killed
    Enum.each(left, &Footprint.kill(&1, mark))
    {ms, left}
  end

  defp ready(port) do
    receive do
      {^port, {:data, {:eol, "ready " <> pid}}} -> pid
      {^port, {:data, _}} -> ready(port)
      {^port, {:exit_status, status}} -> raise "the VM to be killed exited with status #{status}"
    after
      60_000 -> raise "the VM to be killed did not start"
    end
  end

  defp gone(mark, killed) do
    case Footprint.processes(mark) do
      [] ->
        []

      left ->
        if now() - killed > @limit_ms do
          left
        else
          Process.sleep(5)
          gone(mark, killed)
        end
    end
  end

  defp now, do: System.monotonic_time(:millisecond)

  @doc "The main function of the VM."
  @spec main(String.t(), integer()) :: no_return()
  def main(mark, seed) do
    {:ok, _} = Application.ensure_all_started(:snakepit)
    {:ok, _} = Snakepit.start_pool(Load.pool(:doomed, mark, 2))
    Load.start(:doomed, 3, seed)
    IO.puts("ready #{System.pid()}")
    Process.sleep(:infinity)
  end
end
