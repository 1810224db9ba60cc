defmodule Snakepit.Bench.Faults.Host do
  @moduledoc false
  # A VM that is swept: runs the scenario for one fault after the other. One that dies or hangs is ended, and the next fault
  # has a new one.

  alias Snakepit.Bench.Faults.{Control, Scenario}
  alias Snakepit.Bench.Footprint

  # More than all that a scenario may wait for.
  @most_ms 180_000

  defstruct [:port, :os_pid, :dir]

  @type t :: %__MODULE__{port: port() | nil, os_pid: pos_integer() | nil, dir: Path.t()}
  @type seen ::
          Scenario.seen() | %{happened: boolean(), problems: [{:vm_death | :hang, String.t()}], errors: []}

  @doc "`library`: what is preloaded; `dir`: an empty directory of its own. The calling process survives its port from now on."
  @spec start(Path.t(), Path.t()) :: t()
  def start(library, dir) do
    control = Path.join(dir, "control")
    scratch = Path.join(dir, "scratch")
    File.mkdir_p!(scratch)
    Control.create!(control)
    code = "Snakepit.Bench.Faults.Scenario.main(#{inspect(control)}, #{inspect(scratch)})"
    args = ["-pa", Path.join(:code.lib_dir(:snakepit), "ebin"), "-e", code]

    env = [
      {'LD_PRELOAD', String.to_charlist(library)},
      {'SNAKEPIT_FAULTS', String.to_charlist(control)},
      # Its runtime directory.
      {'TMPDIR', String.to_charlist(dir)}
    ]

    options = [:binary, :exit_status, :stderr_to_stdout, line: 65_536, args: args, env: env]
    # A VM that dies while it is written to breaks the pipe.
    Process.flag(:trap_exit, true)
    port = Port.open({:spawn_executable, System.find_executable("elixir")}, options)
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    %__MODULE__{port: port, os_pid: os_pid, dir: dir}
  end

  @doc "The scenario's observations of this fault, or of none; `:ended` if this VM is of no use any more."
  @spec see(t(), Control.fault() | nil) :: {:ok | :ended, seen()}
  def see(%__MODULE__{port: port} = host, fault) do
    # One that died meanwhile is known by its exit status.
    if Port.info(port), do: Port.command(port, Base.encode64(:erlang.term_to_binary(fault)) <> "\n")
    answer(host, "", [])
  rescue
    ArgumentError -> answer(host, "", [])
  end

  @doc "How often each function was used in the last scenario."
  @spec uses(t()) :: %{Control.use() => pos_integer()}
  def uses(%__MODULE__{dir: dir}), do: Control.uses(Path.join(dir, "control"))

  @doc "Ends the VM and whatever is left of it."
  @spec stop(t()) :: :ok
  def stop(%__MODULE__{port: port} = host) do
    for pid <- Footprint.processes(Path.join(host.dir, "control")),
        do: System.cmd("kill", ["-9", to_string(pid)], stderr_to_stdout: true)

    if Port.info(port), do: Port.close(port)
    flush(port)
    File.rm_rf!(host.dir)
    :ok
  end

  defp flush(port) do
    receive do
      {^port, _} -> flush(port)
      {:EXIT, ^port, _} -> flush(port)
    after
      0 -> :ok
    end
  end

  # Other lines of its output are kept for the case that it dies.
  defp answer(%{port: port} = host, line, said) do
    receive do
      {^port, {:data, {:noeol, part}}} ->
        answer(host, line <> part, said)

      {^port, {:data, {:eol, part}}} ->
        case line <> part do
          "seen " <> seen -> {:ok, seen |> Base.decode64!() |> :erlang.binary_to_term()}
          other -> answer(host, "", Enum.take([other | said], 12))
        end

      {:EXIT, ^port, reason} ->
        ended(host, :vm_death, "the VM's pipe is closed: #{inspect(reason)}", said)

      {^port, {:exit_status, status}} ->
        ended(host, :vm_death, "the VM exited with status #{status}", said)
    after
      @most_ms -> ended(host, :hang, "the scenario did not end", said)
    end
  end

  defp ended(host, kind, words, said) do
    happened = Control.happened?(Path.join(host.dir, "control"))
    words = Enum.join([words | Enum.reverse(said)], "\n")
    {:ended, %{happened: happened, problems: [{kind, words}], errors: []}}
  end
end
