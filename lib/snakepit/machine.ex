defmodule Snakepit.Machine do
  @moduledoc false
  # Memory and CPUs of this machine, as far as this process may use them.

  @doc "Bytes of memory: the cgroup's limit if there is one, else the host's."
  @spec memory() :: pos_integer()
  def memory do
    host = with_number("/proc/meminfo", ~r/MemTotal:\s+(\d+) kB/, 1024) || 1024 ** 3
    limits = for {limit, _usage, _stat} <- groups(), n = with_number(limit, ~r/\A(\d+)/, 1), do: n
    Enum.min([host | limits])
  end

  @doc """
  The share of the memory that is used, and bytes that are left: of the cgroup's limit if there is one below the host's.
  Page cache that can be dropped at once counts as left. `nil` if it cannot be read.
  """
  @spec memory_use() :: {used :: float(), available :: non_neg_integer()} | nil
  def memory_use do
    with {:ok, text} <- File.read("/proc/meminfo"),
         [_, total] <- Regex.run(~r/MemTotal:\s+(\d+) kB/, text),
         [_, available] <- Regex.run(~r/MemAvailable:\s+(\d+) kB/, text) do
      {total, available} = {String.to_integer(total) * 1024, String.to_integer(available) * 1024}
      host = {1 - available / total, available}
      Enum.max_by([host | group_use(total)], &elem(&1, 0))
    else
      _ -> nil
    end
  end

  defp group_use(host) do
    for {limit, usage, stat} <- groups(),
        limit = with_number(limit, ~r/\A(\d+)/, 1),
        limit < host,
        usage = with_number(usage, ~r/\A(\d+)/, 1) do
      # As the kernel's MemAvailable has it: page cache makes room, whether or not it was used lately.
      used = max(usage - cached(stat, "inactive_file") - cached(stat, "active_file"), 0)
      {used / limit, max(limit - used, 0)}
    end
  end

  # Version 1 tells what is a group's own, and the total with those below it, which its usage is of.
  defp cached(stat, list),
    do: with_number(stat, ~r/^total_#{list} (\d+)/m, 1) || with_number(stat, ~r/^#{list} (\d+)/m, 1) || 0

  defp groups do
    case File.read("/proc/self/cgroup") do
      {:ok, text} -> groups(text)
      {:error, _} -> []
    end
  end

  @doc """
  The files of limit, usage and statistics of every memory group that a process of this /proc/self/cgroup is in (cgroups(7)):
  its own and those above, any of which may be the tightest.
  """
  @spec groups(String.t()) :: [{Path.t(), Path.t(), Path.t()}]
  def groups(text) do
    Enum.flat_map(String.split(text, "\n", trim: true), fn line ->
      case String.split(line, ":", parts: 3) do
        ["0", "", path] ->
          files("/sys/fs/cgroup", path, ~w(memory.max memory.current memory.stat))

        [_, controllers, path] ->
          if "memory" in String.split(controllers, ","),
            do:
              files(
                "/sys/fs/cgroup/memory",
                path,
                ~w(memory.limit_in_bytes memory.usage_in_bytes memory.stat)
              ),
            else: []

        _ ->
          []
      end
    end)
  end

  # A container sees its own group as the root, whatever path /proc names, so groups that are not there are skipped.
  defp files(root, path, names) do
    parts = path |> String.split("/", trim: true) |> Enum.reject(&(&1 == ".."))

    for n <- length(parts)..0 do
      dir = Path.join([root | Enum.take(parts, n)])
      names |> Enum.map(&Path.join(dir, &1)) |> List.to_tuple()
    end
  end

  @doc "Ticks that the CPUs were busy, and in all, since the machine started (proc(5), stat); `nil` if that cannot be read."
  @spec cpu_times() :: {busy :: non_neg_integer(), all :: non_neg_integer()} | nil
  def cpu_times do
    with {:ok, "cpu " <> rest} <- File.read("/proc/stat"),
         [user, nice, system, idle, iowait, irq, softirq, steal | _] <-
           rest |> String.split("\n", parts: 2) |> hd() |> String.split() |> Enum.map(&String.to_integer/1) do
      busy = user + nice + system + irq + softirq + steal
      {busy, busy + idle + iowait}
    else
      _ -> nil
    end
  end

  @doc "The percentage of the last ten seconds that somebody waited for \"cpu\" or \"memory\" (the kernel's PSI)."
  @spec stalled(String.t()) :: float() | nil
  def stalled(what) do
    with {:ok, text} <- File.read("/proc/pressure/" <> what),
         [_, percent] <- Regex.run(~r/some avg10=([\d.]+)/, text),
         do: String.to_float(percent),
         else: (_ -> nil)
  end

  @doc "Pss in bytes of one process, every shared page counted by its share; `nil` if it is gone (proc(5), smaps_rollup)."
  @spec pss(pos_integer() | String.t()) :: non_neg_integer() | nil
  def pss(pid), do: with_number("/proc/#{pid}/smaps_rollup", ~r/^Pss:\s+(\d+) kB/m, 1024)

  @doc "The letter for what a process does (proc(5), stat): R runs, S sleeps, T is stopped; `nil` if it is gone."
  @spec process_state(pos_integer()) :: String.t() | nil
  def process_state(pid), do: pid |> process_stat() |> Enum.at(0)

  @doc "The process group of a process; `nil` if it is gone."
  @spec process_group(pos_integer()) :: pos_integer() | nil
  def process_group(pid) do
    with group when is_binary(group) <- pid |> process_stat() |> Enum.at(2), do: String.to_integer(group)
  end

  # From the third field of stat on. The second, its name, may hold anything but ends at the last parenthesis.
  defp process_stat(pid) do
    case File.read("/proc/#{pid}/stat") do
      {:ok, stat} -> stat |> String.split(") ") |> List.last() |> String.split()
      {:error, _} -> []
    end
  end

  @doc "CPUs that this process may use."
  @spec cores() :: pos_integer()
  def cores do
    case :erlang.system_info(:logical_processors_available) do
      n when is_integer(n) -> n
      :unknown -> System.schedulers_online()
    end
  end

  @doc "As `cores/0`, where only these CPUs may be used; nil is all."
  @spec cores([non_neg_integer()] | nil) :: pos_integer()
  def cores(nil), do: cores()
  def cores(cpus), do: length(cpus)

  @doc "As `cores/0`, or fewer where a quota of CPU time (`cpu.max` of a cgroup) allows no more than that on average."
  @spec cores_by_quota() :: pos_integer()
  def cores_by_quota do
    case :erlang.system_info(:cpu_quota) do
      n when is_integer(n) -> n |> min(cores()) |> max(1)
      :unknown -> cores()
    end
  end

  @doc "The numbers of the machine's CPUs, as far as they are switched on."
  @spec cpus() :: [non_neg_integer()]
  def cpus do
    case File.read("/sys/devices/system/cpu/online") do
      {:ok, text} -> text |> String.trim() |> String.split(",") |> Enum.flat_map(&span/1)
      {:error, _} -> Enum.to_list(0..(cores() - 1))
    end
  end

  # "3" or "0-7".
  defp span(text) do
    ends = text |> String.split("-") |> Enum.map(&String.to_integer/1)
    Enum.to_list(hd(ends)..List.last(ends))
  end

  @doc "The machine, system and versions that belong to every measurement."
  @spec describe() :: map()
  def describe do
    %{
      cpu: text("/proc/cpuinfo", ~r/model name\s*:\s*(.+)/),
      cores: System.schedulers_online(),
      memory_bytes: memory(),
      kernel: text("/proc/sys/kernel/osrelease", ~r/(.+)/),
      otp: List.to_string(:erlang.system_info(:otp_release)),
      erts: List.to_string(:erlang.system_info(:version)),
      elixir: System.version(),
      snakepit: to_string(Application.spec(:snakepit, :vsn)),
      date: Date.to_iso8601(Date.utc_today())
    }
  end

  defp with_number(path, regex, factor) do
    with {:ok, text} <- File.read(path),
         [_, number] <- Regex.run(regex, text),
         do: String.to_integer(number) * factor,
         else: (_ -> nil)
  end

  defp text(path, regex) do
    with {:ok, text} <- File.read(path),
         [_, found] <- Regex.run(regex, text),
         do: found,
         else: (_ -> "unknown")
  end
end
