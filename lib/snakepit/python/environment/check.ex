defmodule Snakepit.Python.Environment.Check do
  @moduledoc false
  # Whether workers can start in an environment: imports what they import, with the variables that they get.

  alias Snakepit.{Error, Python}
  alias Snakepit.Options.Configured
  alias Snakepit.Python.Environment.{Extras, Requirement}
  alias Snakepit.Python.{Extension, Preflight}

  @doc """
  The first failure among these workers, as an error; no workers stand for a plain one. `install` is called once where a
  module is missing that an earlier setup installed.
  """
  @spec run(Path.t(), Path.t(), [String.t()], [Python.options()], (() -> any())) :: :ok | {:error, Error.t()}
  def run(venv, python, extras, workers, install) do
    modules = Extras.modules(extras)

    with {options, failure} <- failing(workers, python, modules),
         variable = Preflight.to_blame(python, options, modules),
         {options, failure, variable} <- repaired(python, modules, {options, failure, variable}, install) do
      mend =
        "Run `mix snakepit.setup --force`, or Snakepit.setup(force: true), which makes #{Requirement.shown(venv)} anew"

      failed(Preflight.explain(failure, python, options, variable, mend))
    end
  end

  defp failing([], python, modules), do: failing([plain()], python, modules)

  defp failing(workers, python, modules) do
    Enum.find_value(workers, :ok, fn options ->
      with {:error, failure} <- Preflight.run(python, options, modules),
           do: {options, failure},
           else: (:ok -> nil)
    end)
  end

  defp repaired(python, modules, {options, failure, variable} = found, install) do
    if variable == nil and Preflight.missing?(failure) do
      install.()

      case Preflight.run(python, options, modules) do
        :ok -> :ok
        {:error, failure} -> {options, failure, nil}
      end
    else
      found
    end
  end

  # A worker of a pool that has only a name.
  defp plain do
    %{
      name: :setup,
      python: nil,
      python_path: [],
      env: %{},
      size: 1,
      worker_profile: :process,
      limits: %{cpus: nil}
    }
  end

  @doc "Where `config :snakepit, python:` names another interpreter: whether workers can start with that one."
  @spec others(Path.t(), (String.t() -> any())) :: :ok | {:error, Error.t()}
  def others(python, say) do
    with nil <- Configured.get(:python), do: :ok, else: (named -> other(named, python, say))
  end

  defp other(named, python, say) do
    options = plain()

    case Python.interpreter(options) do
      {:ok, ^python} ->
        :ok

      {:ok, other} ->
        say.("Pools use #{named} instead, as `config :snakepit, python:` says")

        with :ok <- Extension.complete(other, say),
             {:error, failure} <- Preflight.run(other, options, []) do
          mend = "Mend #{other}, or name another interpreter with `config :snakepit, python:`"
          failed(Preflight.explain(failure, other, options, Preflight.to_blame(other, options, []), mend))
        end

      {:error, _} ->
        failed("`config :snakepit, python: #{inspect(named)}`: there is no such program")
    end
  end

  defp failed(message), do: {:error, Error.new(:pool, :setup_failed, message, details: %{cause: :check})}
end
