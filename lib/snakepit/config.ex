defmodule Snakepit.Config do
  @moduledoc """
  The application's configuration, read in this one place and validated once.

      config :snakepit,
        python: "/usr/bin/python3",
        pools: [%{name: :ml, size: 4, python_module: "my_app.tools"}]

  See `Snakepit.Pool.Options` for a pool's options. In tests, `{Snakepit.Test, name: :ml, tools: MyApp.FakeTools}` is a pool
  of fake tools.
  """

  alias Snakepit.{Error, Options, Performance, Pool}
  alias Snakepit.Performance.{Policy, Settings}

  @schema [
    performance_optimization: [
      type: {:options, Settings.schema()},
      default: [],
      doc: "How ways are chosen: see `Snakepit.Performance.Settings`."
    ],
    default_pool: [
      type: {:or, [{:in, [nil]}, :atom]},
      default: nil,
      doc: "The pool of calls that name none; by default the first of `pools`."
    ]
  ]

  @schema [pools: [type: :any, default: [], doc: "Pools started with the application."]] ++
            Options.Configured.schema() ++ @schema

  @moduledoc @moduledoc <> "\n" <> Options.docs(@schema)

  defstruct Keyword.keys(@schema)

  @type t :: %__MODULE__{
          pools: [Pool.Options.t()],
          python: String.t() | nil,
          venv: Path.t() | {atom(), Path.t()},
          reload: boolean() | nil,
          requirements: nil | Path.t() | {atom(), Path.t()} | [String.t() | {atom(), Path.t()}],
          performance_optimization: Settings.t(),
          default_pool: atom() | nil
        }

  @doc "The running application's configuration, validated."
  @spec load() :: {:ok, t()} | {:error, Error.t()}
  def load do
    # OTP adds keys of its own to an application's environment.
    :snakepit |> Application.get_all_env() |> Keyword.drop([:included_applications]) |> validate()
  end

  @doc """
  Reads `performance_optimization:` of the application's environment anew and puts it in force, in running pools as well:

      Application.put_env(:snakepit, :performance_optimization, exploration_rate: 0.01)
      {:ok, %{changed: [:exploration_rate], at_start: []}} = Snakepit.Config.reload()

  `changed` are the settings that differ from before; `at_start` those among them that act only on pools that start from now
  on. A pool's policy follows, unless `Snakepit.Performance.Controller.update_policy/2` has set another one. If anything in the
  configuration is wrong, nothing changes, and the error names it. Pools' own options are read when they start:
  `Snakepit.restart_pool/1`.
  """
  @spec reload() :: {:ok, %{changed: [atom()], at_start: [atom()]}} | {:error, Error.t()}
  def reload do
    with {:ok, %{performance_optimization: new}} <- load() do
      old = Settings.current()
      Settings.publish(new)
      Performance.Controller.apply_settings(old, new)
      {:ok, Settings.changes(old, new)}
    end
  end

  @doc "Checks a configuration as `load/0` does, and starts nothing."
  @spec validate(keyword() | map()) :: {:ok, t()} | {:error, Error.t()}
  def validate(env) do
    with {:ok, config} <- own(env),
         {:ok, pools} <- pools(config.pools) do
      default = config.default_pool || List.first(Enum.map(pools, & &1.name))
      {:ok, struct!(__MODULE__, %{config | pools: pools, default_pool: default})}
    end
  end

  @doc "The configured value of one key, for code that runs before the pools or without them."
  @spec get(:python | :venv | :requirements | :reload) :: term()
  def get(key) when key in [:python, :venv, :requirements, :reload] do
    Application.get_env(:snakepit, key, @schema[key][:default])
  end

  @doc "Checks the options of a pool, its `:performance_policy` too; an error names the pool and the key."
  @spec pool(map() | keyword() | {module(), map() | keyword()}) ::
          {:ok, Pool.Options.t()} | {:error, Error.t()}
  def pool(given) do
    with {:ok, options} <- Pool.Options.new(given),
         {:policy, _name, {:ok, _policy}} <-
           {:policy, options.name, Policy.new(options.performance_policy, Settings.default())} do
      {:ok, options}
    else
      {:policy, name, {:error, key, message}} ->
        where = if key, do: "in :performance_policy: ", else: ":performance_policy: "
        words = "pool #{inspect(name)}: #{where}#{message}"
        details = %{key: :performance_policy}
        {:error, Error.new(:validation, :invalid_option, words, details: details, pool: name)}

      error ->
        error
    end
  end

  defp own(env) do
    with {:ok, config} <- Options.validate(env, @schema),
         {:there, true} <- {:there, Snakepit.Python.expandable?(config.venv)},
         {:ok, settings} <- Settings.new(config.performance_optimization) do
      {:ok, %{config | performance_optimization: settings}}
    else
      {:there, false} ->
        own_error(:venv, ":venv names an application that is not there: #{inspect(env[:venv])}")

      {:error, key, message} ->
        own_error(key, message)
    end
  end

  defp own_error(key, message) do
    {:error, Error.new(:validation, :invalid_config, "config :snakepit: #{message}", details: %{key: key})}
  end

  defp pools(pools) when length(pools) >= 0 do
    with {:ok, checked} <- each(pools, []) do
      case checked -- Enum.uniq_by(checked, & &1.name) do
        [] ->
          {:ok, checked}

        [twice | _] ->
          {:error, Error.new(:validation, :invalid_config, "pool #{inspect(twice.name)}: configured twice")}
      end
    end
  end

  defp pools(other) do
    {:error,
     Error.new(
       :validation,
       :invalid_config,
       "config :snakepit: expected :pools to be a list, got: #{inspect(other)}"
     )}
  end

  defp each([], done), do: {:ok, Enum.reverse(done)}

  defp each([pool | rest], done) do
    with {:ok, options} <- pool(pool), do: each(rest, [options | done])
  end
end
