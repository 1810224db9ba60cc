defmodule Snakepit.Options.Configured do
  @moduledoc false
  # The keys of `config :snakepit` that are read where they are used: a worker's start and `mix snakepit.setup` need them
  # without the pools. `Snakepit.Config` validates these keys with all others.

  @schema [
    python: [
      type: {:or, [{:in, [nil]}, :string]},
      default: nil,
      doc: "The Python interpreter of all pools that name none."
    ],
    venv: [
      type: :path,
      default: ".snakepit/venv",
      doc:
        "Where `mix snakepit.setup` makes its virtual environment: seen from the working directory, or " <>
          "`{:my_app, \"priv/venv\"}`, which holds in a release as well."
    ],
    reload: [
      type: {:or, [{:in, [nil]}, :boolean]},
      default: nil,
      doc:
        "Whether pools that do not say so themselves load Python code anew when it changes: see `:reload` of a pool. " <>
          "`nil`: in a Mix project's `:dev`, and never in a release."
    ],
    requirements: [
      type: {:or, [{:in, [nil]}, :path, {:list_of, :path}]},
      default: nil,
      doc:
        "The Python packages your tools import, which `mix snakepit.setup` installs: a requirements file or a pyproject.toml " <>
          "(`\"pyproject.toml[dev]\"` with its extra or group `dev`; its `[tool]` tables are not read), `{:my_app, \"priv/python/requirements.txt\"}`, " <>
          "or a list of requirements, such as `[\"pandas>=2,<3\", \"./my_package\", \"-r more.txt\"]`."
    ]
  ]

  @type key :: :python | :venv | :reload | :requirements

  @doc "The schema of these keys, a part of that of the whole configuration."
  @spec schema() :: keyword()
  def schema, do: @schema

  @doc "The value of one key as it is configured, not validated."
  @spec get(key()) :: term()
  def get(key) when key in [:python, :venv, :reload, :requirements],
    do: Application.get_env(:snakepit, key, @schema[key][:default])
end
