defmodule Snakepit.Python.Environment.Check do
  @moduledoc false
  # Whether workers can start in an environment: imports what they import, with the variables that they get, for every
  # configured pool.

  alias Snakepit.{Config, Error, Pool, Python}
  alias Snakepit.Python.Environment.{Extras, Requirement}
  alias Snakepit.Python.Preflight

  @doc """
  What fails, as an error. `say` is given what could not be checked; `install` is called once where something is missing:
  somebody took it out.
  """
  @spec run(Path.t(), Path.t(), [String.t()], (String.t() -> any()), (() -> any())) ::
          :ok | {:error, Error.t()}
  def run(venv, python, extras, say, install) do
    modules = Extras.modules(extras)

    with {options, failure} <- failing(pools(python, say), python, modules),
         variable = Preflight.to_blame(python, options, modules),
         {options, failure, variable} <- repaired(python, modules, {options, failure, variable}, install) do
      mend =
        "Run `mix snakepit.setup --force`, or Snakepit.setup(force: true), which makes #{Requirement.shown(venv)} anew"

      failed(Preflight.explain(failure, python, options, variable, mend))
    end
  end

  defp failing(pools, python, modules) do
    Enum.find_value(pools, :ok, fn options ->
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

  # Those whose workers this interpreter runs, each environment once; a plain one if none is configured.
  defp pools(python, say) do
    configured =
      case Config.load() do
        {:ok, config} -> config.pools
        # The application says what is wrong with it.
        {:error, _} -> []
      end

    case Enum.filter(configured, &match?({:ok, ^python}, Python.interpreter(&1))) do
      [] -> [plain()]
      pools -> pools |> Enum.flat_map(&of_workers(&1, say)) |> Enum.uniq_by(&{&1.env, &1.python_path})
    end
  end

  # A function that gives the variables may need what is not compiled or started yet.
  defp of_workers(options, say) do
    case Pool.Env.each(options, &Preflight.concerned?/1) do
      {:ok, all} ->
        all

      {:error, error} ->
        say.("Not checked: the variables that workers get. #{error.message}")
        [%{options | env: %{}}]
    end
  end

  defp plain do
    {:ok, options} = Pool.Options.new(name: :setup, python_module: "none", python_path: [])
    options
  end

  @doc "Pools that were told another interpreter know nothing of this environment: whether that one serves."
  @spec others(Path.t(), (String.t() -> any())) :: :ok | {:error, Error.t()}
  def others(python, say) do
    with nil <- Config.get(:python), do: :ok, else: (named -> other(named, python, say))
  end

  defp other(named, python, say) do
    options = plain()

    case Python.interpreter(options) do
      {:ok, ^python} ->
        :ok

      {:ok, other} ->
        say.("Pools use #{named} instead, as `config :snakepit, python:` says")

        with {:error, failure} <- Preflight.run(other, options, []) do
          mend = "Install what is missing for it: #{other} -m pip install msgpack"
          failed(Preflight.explain(failure, other, options, Preflight.to_blame(other, options, []), mend))
        end

      {:error, _} ->
        failed("`config :snakepit, python: #{inspect(named)}`: there is no such program")
    end
  end

  defp failed(message), do: {:error, Error.new(:pool, :setup_failed, message, details: %{cause: :check})}
end
