defmodule Snakepit.Python.Environment.Command do
  @moduledoc false
  # Runs programs for the setup: short ones for their output, long ones whose lines are passed on as they come.

  # Neither a module path, nor another environment, nor a setting of where to install may lead a program astray.
  @unset ~w(PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON UV_SYSTEM_PYTHON)
  # The part of a long output that is kept for an error.
  @kept 400
  @longest_line 8_192

  # Ends the program, and all that it started, when the VM ends: half an installation must not run beside the next one.
  # Ctrl-C in a terminal reaches all processes of the group: it is for the VM.
  @guard """
  import os, signal, subprocess, sys, threading, time
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  child = subprocess.Popen(
      sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True,
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
  def end():
      while os.read(0, 4096): pass
      for sig in (signal.SIGTERM, signal.SIGKILL):
          try: os.killpg(child.pid, sig)
          except OSError: pass
          time.sleep(2)
  threading.Thread(target=end, daemon=True).start()
  code = child.wait()
  sys.exit(code if code >= 0 else 128 - code)
  """

  # A lock on the directory itself leaves no file behind, and ends with the process that has it.
  @lock """
  import fcntl, os, sys
  try:
      directory = os.open(sys.argv[1], os.O_RDONLY)
      try:
          fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
          print("waiting", flush=True)
          fcntl.flock(directory, fcntl.LOCK_EX)
  except OSError:
      pass
  print("locked", flush=True)
  while os.read(0, 4096): pass
  """

  @doc "Its output and status; 127 with the reason where it cannot be run."
  @spec run(Path.t(), [String.t()]) :: {String.t(), non_neg_integer()}
  def run(program, args) do
    System.cmd(program, args, stderr_to_stdout: true, env: for(name <- @unset, do: {name, nil}))
  rescue
    error in [ErlangError, File.Error] -> {Exception.message(error), 127}
  end

  @doc "As `run/2`, for long runs: `fun` gets each line as it comes. `python` runs the watchdog."
  @spec stream(Path.t(), Path.t(), [String.t()], (String.t() -> any())) :: {String.t(), non_neg_integer()}
  def stream(python, program, args, fun) do
    port = open(python, ["-c", @guard, program | args])
    collect(port, fun, "", [])
  end

  defp collect(port, fun, begun, lines) do
    receive do
      {^port, {:data, {:noeol, part}}} ->
        collect(port, fun, String.slice(begun <> part, 0, @longest_line), lines)

      {^port, {:data, {:eol, part}}} ->
        line = printable(begun <> part)
        fun.(line)
        collect(port, fun, "", Enum.take([line | lines], @kept))

      {^port, {:exit_status, status}} ->
        {lines |> Enum.reverse() |> Enum.join("\n"), status}
    end
  end

  # A progress bar overwrites itself: its last state counts.
  defp printable(line) do
    line
    |> String.codepoints()
    |> Enum.map_join(&if(String.valid?(&1), do: &1, else: "\uFFFD"))
    |> String.trim_trailing("\r")
    |> String.split("\r")
    |> List.last()
    |> String.replace(~r/\e\[[0-9;?]*[A-Za-z]/, "")
    |> String.trim_trailing()
  end

  @doc "Runs `fun` while no other setup, of this or another VM, runs one for something in `directory`."
  @spec locked(Path.t(), Path.t(), (() -> any()), (() -> result)) :: result when result: term()
  def locked(python, directory, waiting, fun) do
    port = open(python, ["-c", @lock, directory])

    try do
      await_lock(port, waiting)
      fun.()
    after
      close(port)
    end
  end

  defp await_lock(port, waiting) do
    receive do
      {^port, {:data, {:eol, "waiting"}}} ->
        waiting.()
        await_lock(port, waiting)

      {^port, {:data, {:eol, "locked"}}} ->
        :ok

      {^port, {:data, _other}} ->
        await_lock(port, waiting)

      # A Python that cannot lock is still one to install with.
      {^port, {:exit_status, _}} ->
        :ok
    end
  end

  defp close(port) do
    Port.close(port)
  rescue
    ArgumentError -> true
  after
    receive do
      {^port, _} -> :ok
    after
      0 -> :ok
    end
  end

  defp open(program, args) do
    Port.open({:spawn_executable, program}, [
      :binary,
      :exit_status,
      :stderr_to_stdout,
      :hide,
      line: 1024,
      args: args,
      env: [{'PYTHONUNBUFFERED', '1'} | for(name <- @unset, do: {String.to_charlist(name), false})]
    ])
  end
end
