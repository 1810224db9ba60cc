defmodule Snakepit.Worker.Report do
  @moduledoc false
  # A worker's comings and goings, as log lines and events. One warning for each end that nobody wanted, one for each
  # cause of a start that fails, however often it is tried.

  alias Snakepit.{Error, Machine, Python, Telemetry}
  alias Snakepit.Worker.{Launcher, Run, Words}
  require Logger

  @up [:snakepit, :worker, :up]
  @down [:snakepit, :worker, :down]

  @doc "Its lanes are used from now on."
  @spec up(Run.t()) :: :ok
  def up(run) do
    measurements = %{start_ms: run.ready_at - run.started_at}
    Telemetry.execute(@up, measurements, Map.put(who(run), :restarts, run.spec.restarts))
  end

  @doc "Its process is gone, or will be in a moment. `why`: in words."
  @spec down(Run.t(), String.t()) :: :ok
  def down(run, why), do: down(run, why, run.meant?)

  @doc "It is ended because its pool stops or has fewer workers, or because its successor took over."
  @spec stopped(Run.t()) :: :ok
  def stopped(run) do
    Logger.debug(fn -> "[#{run.spec.name}] is stopped" end)
    down(run, "it is stopped", true)
  end

  defp down(run, why, meant?) do
    measurements = %{lived_ms: if(run.ready_at, do: now() - run.ready_at, else: 0)}
    more = %{cause: why, status: run.status, meant?: meant?, running: run.ran || []}
    Telemetry.execute(@down, measurements, Map.merge(who(run), more))
  end

  defp who(run), do: %{pool: run.spec.pool, worker: run.spec.name, os_pid: Launcher.os_pid(run)}

  @doc "A run that served ended, and nobody wanted it to. `again?`: another one follows."
  @spec died(Run.t(), String.t(), boolean()) :: :ok
  def died(%Run{spec: spec} = run, why, again?) do
    Logger.warning(
      "pool #{inspect(spec.pool)}: worker #{spec.name}#{os_process(run)} ended: #{why}, " <>
        "#{ran(run.ran || [], now() - run.ready_at, run.meant?)}" <>
        if(again?, do: "; it is started again", else: "")
    )
  end

  defp os_process(run), do: if(pid = Launcher.os_pid(run), do: " (OS process #{pid})", else: "")

  # A process that has it ended for a caller's sake says why, and its call is over.
  defp ran([], ms, true), do: "#{ms} ms after it became ready"
  defp ran([], ms, false), do: "without a call, #{ms} ms after it became ready"
  defp ran(calls, _ms, _meant?), do: "while it ran " <> Enum.map_join(calls, " and ", &call/1)

  defp call(%{command: command, correlation_id: nil, ms: ms}), do: "#{inspect(command)} (for #{ms} ms)"

  defp call(%{command: command, correlation_id: id, ms: ms}),
    do: "#{inspect(command)} (correlation id #{inspect(id)}, for #{ms} ms)"

  @doc "A start after the first that failed."
  @spec not_started(atom(), String.t(), String.t()) :: :ok
  def not_started(pool, name, why) do
    Logger.warning(
      "pool #{inspect(pool)}: worker #{name} could not be started again: #{why}\n" <>
        "It is tried again and again; this is said once for each cause"
    )
  end

  @doc "It printed a line."
  @spec printed(Run.t(), :stdout | :stderr, binary()) :: :ok
  def printed(%Run{spec: spec} = run, stream, line) do
    metadata = [pool: spec.pool, worker: spec.name, os_pid: run.os_pid, stream: stream]
    Logger.info(fn -> "[#{spec.name} #{stream}] #{Words.printable(line)}" end, metadata)
  end

  @doc "A worker warns of a tool."
  @spec warned(atom(), String.t()) :: :ok
  def warned(pool, words), do: Logger.warning("pool #{inspect(pool)}: #{Words.printable(words)}")

  @doc "The error of a start that took too long: what the worker was doing."
  @spec too_slow(state :: atom(), Run.t()) :: Error.t()
  def too_slow(state, %Run{spec: spec} = run) do
    words =
      "pool #{inspect(spec.pool)}: worker #{spec.name} was not ready within #{spec.options.startup_timeout} ms " <>
        "(startup_timeout: of the pool): #{doing(state, run)}#{stopped_process(run.os_pid)}"

    details = %{phase: state, module: run.importing, doing: run.doing}
    Error.new(:worker, :startup_timeout, words, details: details)
  end

  defp doing(:starting, %Run{os_pid: nil}), do: "its interpreter was not started"
  defp doing(:starting, %Run{os_pid: pid}), do: "its interpreter (OS process #{pid}) never connected"
  defp doing(:greeting, _run), do: "it connected, and never said hello"
  defp doing(_state, %Run{doing: {_, _}} = run), do: "it " <> busy_with(run)
  defp doing(_state, %Run{importing: nil}), do: "it had not begun to import its modules"
  defp doing(_state, %Run{importing: module}), do: "it was importing #{module}"

  @doc "The work of a run between its imports and its first call, in words that follow its name."
  @spec busy_with(Run.t()) :: String.t()
  def busy_with(%Run{doing: {"on_start", hook}}), do: "was running @snakepit.on_start #{hook}"
  def busy_with(%Run{doing: {"warm_up", command}}), do: "was running #{inspect(command)} of warm_up:"
  def busy_with(%Run{doing: {_newer, name}}), do: "was running #{name}"

  @doc "An `on_stop` raised. Nothing else comes of it."
  @spec hook_failed(Run.t(), String.t(), String.t()) :: :ok
  def hook_failed(run, hook, traceback) do
    who = "pool #{inspect(run.spec.pool)}: worker #{run.spec.name}"
    Logger.warning("#{who}: @snakepit.on_stop #{hook} failed: #{String.trim(traceback)}")
  end

  defp stopped_process(pid) do
    if is_integer(pid) and Machine.process_state(pid) in ["T", "t"],
      do: ", and is stopped (SIGSTOP)",
      else: ""
  end

  @doc "The error with what the worker printed."
  @spec with_output(Error.t(), String.t()) :: Error.t()
  def with_output(error, ""), do: error

  def with_output(error, said),
    do: %{
      error
      | message: error.message <> "; it said:\n" <> said,
        details: Map.put(error.details, :stderr, said)
    }

  @doc "The error of a failed start, with the settings that put what it names into Python's way."
  @spec with_origin(Error.t(), options :: map()) :: Error.t()
  def with_origin(%Error{} = error, options) do
    case Python.blame(options, error.message <> "\n" <> (error.python_traceback || "")) do
      [] -> error
      suggestions -> %{error | message: Enum.join([error.message | suggestions], "\n")}
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
