defmodule Snakepit.Python.Environment.Stamp do
  @moduledoc false
  # The file in an environment that lists its contents. It is marked as unfinished before an installation and written
  # after it, so a failed installation is done again, and the requirements of earlier runs are kept. It has no secrets:
  # requirements are stored without indexes and passwords, files by their digest.
  #
  # Lines: digest of the package's own requirements, version of Python, prefix of the interpreter it was made from,
  # "-" and the extras, digest of the user's requirements, then one requirement each that an earlier run asked for.

  alias Snakepit.Python.Environment.Extras

  @enforce_keys [:package, :version, :base, :extras, :digest, :asked]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          package: String.t(),
          version: String.t(),
          base: Path.t(),
          extras: [String.t()],
          digest: String.t(),
          asked: [String.t()]
        }

  @file_name "snakepit.stamp"
  # Equal to no digest.
  @unfinished "unfinished"

  @spec path(Path.t()) :: Path.t()
  def path(venv), do: Path.join(venv, @file_name)

  @spec read(Path.t()) :: t() | nil
  def read(venv) do
    with {:ok, text} <- File.read(path(venv)),
         [package, version, base, extras | user] <- String.split(text, "\n", trim: true) do
      # Stamps of versions that installed no requirements of the user end here.
      {digest, asked} = with [digest | asked] <- user, do: {digest, asked}, else: ([] -> {nothing(), []})
      extras = extras |> String.split(",") |> Extras.complete()

      %__MODULE__{
        package: package,
        version: version,
        base: base,
        extras: extras,
        digest: digest,
        asked: asked
      }
    else
      _ -> nil
    end
  end

  @spec write(Path.t(), t()) :: :ok | {:error, File.posix()}
  def write(venv, %__MODULE__{} = stamp) do
    # "-" keeps the line when there are no extras.
    lines = [
      stamp.package,
      stamp.version,
      stamp.base,
      Enum.join(["-" | stamp.extras], ","),
      stamp.digest | stamp.asked
    ]

    half = path(venv) <> ".new"
    with :ok <- File.write(half, Enum.map(lines, &[&1, "\n"])), do: File.rename(half, path(venv))
  end

  @doc "Marks the environment as unfinished until `write/2`; `earlier` is the stamp that it had."
  @spec begin(Path.t(), t() | nil) :: :ok | {:error, File.posix()}
  def begin(venv, nil), do: with({:error, :enoent} <- File.rm(path(venv)), do: :ok)
  def begin(venv, earlier), do: write(venv, %{earlier | package: @unfinished})

  @doc "The digest when the user has no requirements."
  @spec nothing() :: String.t()
  def nothing do
    {:ok, digest, []} = Snakepit.Python.Environment.Contents.read([])
    digest
  end
end
