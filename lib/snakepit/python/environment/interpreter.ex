defmodule Snakepit.Python.Environment.Interpreter do
  @moduledoc false
  # Finds the interpreters of this machine that can be the base of an environment, and the interpreter of an
  # environment.

  alias Snakepit.Python.Environment.{Command, Failure, Plan}

  @names ["python3" | Enum.map(14..11//-1, &"python3.#{&1}")]
  @probe "import sys; print(*sys.version_info[:2], sys.base_prefix, sys.version.replace(chr(10), ' '), sep=chr(10))"

  @type t :: %{path: Path.t(), release: {integer(), integer()}, prefix: Path.t(), version: String.t()}

  @doc "The version and prefix that an interpreter reports."
  @spec probe(Path.t()) :: {:ok, t()} | {:error, String.t()}
  def probe(python) do
    with {text, 0} <- Command.run(python, ["-c", @probe]),
         [major, minor, prefix, version] <- String.split(text, "\n", trim: true) do
      release = {String.to_integer(major), String.to_integer(minor)}
      {:ok, %{path: python, release: release, prefix: prefix, version: version}}
    else
      {text, _status} -> {:error, text}
      _ -> {:error, "it did not answer as a Python 3 does"}
    end
  end

  @doc "The one that was named."
  @spec named(String.t(), option :: String.t()) :: {:ok, t()} | {:error, String.t()}
  def named(name, option \\ "--python") do
    found = if String.contains?(name, "/"), do: Path.expand(name), else: System.find_executable(name)

    if found && File.regular?(found) do
      case probe(found) do
        {:ok, base} ->
          if new_enough?(base),
            do: {:ok, base},
            else: {:error, "#{option} #{name} is Python #{base.version}; #{needed()}"}

        {:error, text} ->
          {:error, "#{option} #{name} does not run: #{Failure.last_lines(text, 3)}"}
      end
    else
      {:error, "#{option} #{name}: there is no such program"}
    end
  end

  @doc "The first in the path that serves."
  @spec find() :: {:ok, t()} | {:error, String.t()}
  def find do
    found = for name <- @names, path = System.find_executable(name), {:ok, base} <- [probe(path)], do: base

    case {Enum.find(found, &new_enough?/1), found} do
      {nil, []} ->
        {:error, "no python3 in the path; #{needed()}: sudo apt-get install python3 python3-venv"}

      {nil, [old | _]} ->
        {:error, "#{old.path} is Python #{old.version}; #{needed()}. Name another with --python PATH"}

      {base, _} ->
        {:ok, base}
    end
  end

  defp new_enough?(%{release: release}), do: release >= Plan.oldest()

  defp needed do
    {major, minor} = Plan.oldest()
    "Python #{major}.#{minor} or later is needed"
  end
end
