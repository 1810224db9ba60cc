defmodule Snakepit.Python.Environment.Options do
  @moduledoc false
  # The options of `Snakepit.setup/1` and `mix snakepit.setup`, and the errors when they are wrong. Pure.

  alias Snakepit.{Error, Options}
  alias Snakepit.Python.Environment.Requirement

  @packages {:or, [:string, {:list_of, :string}]}
  @places {:or, [:string, {:list_of, :string}]}

  @schema [
    with: [
      type: @packages,
      default: [],
      doc:
        "What to install beside Snakepit's own package: the names `numpy` (tensors), `grpc` (the gRPC way), `ml_dtypes` " <>
          "(bf16 tensors) and `test` (all that `bin/test` needs, in fixed versions), and any package of PyPI, with a version or " <>
          "without: `\"pandas\"`, `\"scikit-learn==1.5.2\"`, `\"ruamel.yaml>=0.17,<1\"`, a directory `\"./my_package\"`, a wheel's " <>
          "file, `\"name @ https://…\"`. Separated by commas, or a list. Kept for later runs."
    ],
    requirements: [
      type: {:or, [:path, {:list_of, :path}]},
      default: [],
      doc:
        "A requirements file or a pyproject.toml, beside those of `config :snakepit, requirements:`, in the same form. " <>
          "Kept for later runs."
    ],
    python: [
      type: {:or, [{:in, [nil]}, :string]},
      default: nil,
      doc:
        "The interpreter to make the environment from; by default the first `python3` in the path that is new enough."
    ],
    force: [
      type: :boolean,
      default: false,
      doc:
        "Makes the environment anew, even if it is complete, with what is asked for now and what earlier runs asked for."
    ],
    forget: [
      type: :boolean,
      default: false,
      doc: "With `:force`: leaves out what earlier runs asked for."
    ],
    installer: [
      type: {:in, [nil, :uv, :pip]},
      default: nil,
      doc: "`:uv` or `:pip`; by default uv where it is in the path."
    ],
    index_url: [
      type: {:or, [{:in, [nil]}, :string]},
      default: nil,
      doc:
        "The package index, instead of PyPI. Used in this run only, as are the four options below; " <>
          "`PIP_INDEX_URL` or `UV_INDEX_URL` in the environment is used in every run."
    ],
    extra_index_url: [type: @places, default: [], doc: "More package indexes."],
    find_links: [type: @places, default: [], doc: "Directories, or pages, with wheels and source archives."],
    no_index: [type: :boolean, default: false, doc: "Uses no package index, only `:find_links`."],
    offline: [
      type: :boolean,
      default: false,
      doc: "Uses no network: uv takes what is in its cache, pip only `:find_links`."
    ],
    build_for: [
      type: {:or, [:string, {:list_of, :string}]},
      default: [],
      doc:
        "Interpreters that pools name while the application runs: the native part of workers is built for them, too. It " <>
          "is for those that the configuration names."
    ],
    installer_args: [
      type: {:list_of, :string},
      default: [],
      doc: "Arguments that uv or pip gets as they are; on the command line, what stands after `--`."
    ]
  ]

  @enforce_keys Keyword.keys(@schema)
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          with: [String.t()],
          requirements: [String.t() | {atom(), Path.t()}],
          python: String.t() | nil,
          force: boolean(),
          forget: boolean(),
          installer: :uv | :pip | nil,
          index_url: String.t() | nil,
          extra_index_url: [String.t()],
          find_links: [String.t()],
          no_index: boolean(),
          offline: boolean(),
          build_for: [String.t()],
          installer_args: [String.t()]
        }

  @spec docs() :: String.t()
  def docs, do: Options.docs(@schema)

  @spec new(keyword() | map()) :: {:ok, t()} | {:error, Error.t()}
  def new(given) do
    with {:ok, options} <- Options.validate(given, @schema),
         options = listed(options),
         :ok <- consistent(options) do
      {:ok, struct!(__MODULE__, options)}
    else
      {:error, key, message} ->
        {:error, Error.new(:validation, :invalid_option, "setup: #{message}", details: %{key: key})}
    end
  end

  defp listed(options) do
    options
    |> Map.update!(:requirements, &Requirement.listed/1)
    |> Map.update!(:extra_index_url, &List.wrap/1)
    |> Map.update!(:find_links, &List.wrap/1)
    |> Map.update!(:build_for, &List.wrap/1)
    |> Map.update!(:with, fn words -> words |> List.wrap() |> Enum.flat_map(&split/1) |> Enum.uniq() end)
  end

  defp consistent(%{forget: true, force: false}),
    do: {:error, :forget, ":forget is only of use with :force, which makes the environment anew"}

  defp consistent(%{no_index: true, index_url: url}) when url != nil,
    do: {:error, :index_url, ":index_url would be ignored with :no_index"}

  defp consistent(_options), do: :ok

  @doc """
  The requirements in a word of `:with`. A comma stands between two of them, but not within one: `x>=1,<2`, `x[a,b]`.
  """
  @spec split(String.t()) :: [String.t()]
  def split(word) do
    # A URL may have commas anywhere.
    if word =~ ~r{://},
      do: [String.trim(word)],
      else:
        ~r/,(?![^\[]*\])(?!\s*(?:[<>=!~]))/
        |> Regex.split(word)
        |> Enum.map(&String.trim/1)
        |> Enum.reject(&(&1 == ""))
  end
end
