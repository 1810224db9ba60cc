defmodule Snakepit.Worker.Words do
  @moduledoc false
  # How a worker ended, in words. Pure.

  @doc "The companion's report of a process's end, in words."
  @spec exit(:companion_died | Snakepit.Companion.status()) :: String.t()
  def exit(:companion_died), do: "the companion died, and the worker with it"
  def exit({:status, 0}), do: "the worker exited"
  def exit({:status, n}), do: "the worker exited with status #{n}"
  def exit({:signal, n}), do: "the worker was killed by signal #{n}#{signal(n)}"

  def exit({:signal, _, {:out_of_memory, limit}}) do
    mib = Float.round(limit / 1_048_576, 1)
    mib = if mib == trunc(mib), do: trunc(mib), else: mib
    "the worker was killed by the kernel: memory ran out (its limit is #{mib} MiB)"
  end

  def exit({:signal, n, :out_of_memory}),
    do: "the worker was killed by signal #{n}#{signal(n)}, most likely by the kernel because memory ran out"

  defp signal(n) do
    case %{4 => "SIGILL", 6 => "SIGABRT", 7 => "SIGBUS", 9 => "SIGKILL", 11 => "SIGSEGV", 15 => "SIGTERM"} do
      %{^n => name} -> " (#{name})"
      _ -> ""
    end
  end

  @doc "The message of a run's end; `said`: what it printed last, if that matters."
  @spec end_of(atom(), String.t(), how :: String.t(), said :: String.t()) :: String.t()
  def end_of(pool, worker, how, ""), do: "pool #{inspect(pool)}: worker #{worker}: #{how}"
  def end_of(pool, worker, how, said), do: end_of(pool, worker, how, "") <> "; it said:\n" <> said

  @doc "Output is whatever a tool prints; a log line is UTF-8."
  @spec printable(binary()) :: String.t()
  def printable(bytes) do
    if String.valid?(bytes),
      do: bytes,
      else: for(c <- String.codepoints(bytes), into: "", do: if(String.valid?(c), do: c, else: "\uFFFD"))
  end
end
