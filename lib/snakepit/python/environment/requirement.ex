defmodule Snakepit.Python.Environment.Requirement do
  @moduledoc false
  # One thing that was asked for: a package, something local, or a file that lists such. Pure, but for the question
  # whether a path is there.
  #
  # `text` is stored in the stamp: `parse/1` gives the same requirement again, in any directory. It has no secrets.

  @enforce_keys [:kind, :text]
  defstruct [:kind, :text, :path, :name, extras: ""]

  @typedoc """
  `path` is absolute; of a `:package`, `name` is its normalized name. `extras` are in brackets, or "".
  """
  @type t :: %__MODULE__{
          kind: :package | :url | :local | :editable | :file | :constraint | :pyproject,
          text: String.t(),
          path: Path.t() | nil,
          name: String.t() | nil,
          extras: String.t()
        }

  @name "[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
  @extras ~S"\[[A-Za-z0-9._,\s-]*\]"
  # PEP 508, without a URL.
  @clause ~S"(?:===|==|~=|!=|<=|>=|<|>)\s*[^\s,;()=<>!~]+"
  @package Regex.compile!(
             "\\A(#{@name})\\s*(#{@extras})?\\s*\\(?\\s*(?:#{@clause}(?:\\s*,\\s*#{@clause})*)?\\s*\\)?\\s*(?:;.+)?\\z"
           )
  @direct Regex.compile!("\\A(#{@name})\\s*(#{@extras})?\\s*@\\s*(\\S.*)\\z")
  @file_like ~r/\.(txt|in|toml)(\[[^\]]*\])?\z/
  @archive ~r/\.(whl|zip|tar\.gz|tgz|tar\.bz2|tar\.xz)\z/

  @doc "Parses an entry of `requirements:` or `with:`: a word, or an application's path. An error says what is wrong."
  @spec parse(String.t() | {atom(), Path.t()}) :: {:ok, t()} | {:error, String.t()}
  def parse({_app, _path} = place), do: file(Snakepit.Python.expand(place))

  def parse(text) do
    text = String.trim(text)

    cond do
      secret?(text) ->
        {:error,
         "#{scrub(text)} has a password, and what is named here is kept. Write it into a requirements file, where " <>
           "${VARIABLE} stands for a variable of the environment"}

      match = flagged(text, ~w(-r --requirement)) ->
        file(match)

      match = flagged(text, ~w(-c --constraint)) ->
        {:ok, %__MODULE__{kind: :constraint, text: "-c " <> Path.expand(match), path: Path.expand(match)}}

      match = flagged(text, ~w(-e --editable)) ->
        local(match, :editable)

      String.starts_with?(text, "-") ->
        {:error,
         "#{text}: options of pip or uv are not requirements: give them after `--`, or in a requirements file"}

      text =~ @file_like ->
        file(text)

      text =~ ~r{\A[a-z+]+://} and not (text =~ ~r{\Afile://}) ->
        {:ok, %__MODULE__{kind: :url, text: text}}

      direct = Regex.run(@direct, text) ->
        direct(text, direct)

      path?(text) ->
        local(text, :local)

      match = Regex.run(@package, text) ->
        {:ok, %__MODULE__{kind: :package, text: text, name: normalized(Enum.at(match, 1))}}

      true ->
        {:error, "#{inspect(text)} is no requirement#{suggestion(text)}"}
    end
  end

  @doc "A value of `requirements:` as a list. A value that is no list is a file; a package must be in a list."
  @spec listed(nil | String.t() | {atom(), Path.t()} | list()) :: [String.t() | {atom(), Path.t()}]
  def listed(alone) when is_binary(alone), do: if(alone =~ @file_like, do: [alone], else: ["-r " <> alone])
  def listed(other), do: List.wrap(other)

  # The file of a direct reference is local, whatever the package is called.
  defp direct(text, [_, name, extras, url]) do
    case url do
      "file://" <> path ->
        path = URI.decode(path)

        if File.dir?(path) and not project?(path),
          do: {:error, no_project(path)},
          else:
            {:ok, %__MODULE__{kind: :local, text: text, path: path, extras: extras, name: normalized(name)}}

      _ ->
        {:ok, %__MODULE__{kind: :url, text: text, name: normalized(name)}}
    end
  end

  defp file(text) do
    {path, extras} = place(text)

    cond do
      not File.regular?(path) ->
        {:error, "there is no file #{shown(path)}"}

      Path.extname(path) == ".toml" ->
        {:ok, %__MODULE__{kind: :pyproject, text: path <> extras, path: path, extras: extras}}

      extras != "" ->
        {:error, "#{shown(path)}: only a pyproject.toml has extras, #{extras}"}

      true ->
        {:ok, %__MODULE__{kind: :file, text: "-r " <> path, path: path}}
    end
  end

  defp local(text, kind) do
    {path, extras} = text |> String.replace_prefix("file://", "") |> place()
    flag = if kind == :editable, do: "-e ", else: ""

    with :ok <- installable(path),
         do: {:ok, %__MODULE__{kind: kind, text: flag <> path <> extras, path: path, extras: extras}}
  end

  defp installable(path) do
    cond do
      not File.exists?(path) -> {:error, "there is nothing at #{shown(path)}"}
      File.dir?(path) and not project?(path) -> {:error, no_project(path)}
      true -> :ok
    end
  end

  defp no_project(path),
    do: "the directory #{shown(path)} is no Python project: it has neither a pyproject.toml nor a setup.py"

  @doc "Whether it is a directory that uv and pip can install."
  @spec project?(Path.t()) :: boolean()
  def project?(path), do: Enum.any?(~w(pyproject.toml setup.py), &File.regular?(Path.join(path, &1)))

  # A path, and the names in brackets at its end.
  defp place(text) do
    [_, path, extras] = Regex.run(~r/\A(.*?)((?:\[[^\]]*\])?)\z/s, text)
    {Path.expand(path), extras}
  end

  defp path?(text), do: String.contains?(text, "/") or text =~ @archive or text in [".", ".."]

  defp flagged(text, flags) do
    Enum.find_value(flags, fn flag ->
      case String.split(text, [flag <> " ", flag <> "="], parts: 2) do
        ["", rest] -> String.trim(rest)
        _ -> nil
      end
    end)
  end

  defp suggestion(text) do
    cond do
      match = Regex.run(~r/\A(#{@name})\s*=\s*([^=].*)\z/, text) ->
        [_, name, version] = match
        "; did you mean #{name}==#{version}?"

      match = Regex.run(~r/\A(#{@name})\s+(\d\S*)\z/, text) ->
        [_, name, version] = match
        "; did you mean #{name}==#{version}?"

      true ->
        ": write a package's name, with or without a version, as in pandas, pandas==2.2.3 or \"pandas>=2,<3\""
    end
  end

  @doc "PyPI's own spelling of a name: `Ruamel_YAML` is `ruamel-yaml`."
  @spec normalized(String.t()) :: String.t()
  def normalized(name), do: name |> String.downcase() |> String.replace(~r/[-_.]+/, "-")

  @doc "The arguments for uv and pip; a pyproject.toml must have been read before."
  @spec arguments(t()) :: [String.t()]
  def arguments(%__MODULE__{kind: :file, path: path}), do: ["-r", path]
  def arguments(%__MODULE__{kind: :constraint, path: path}), do: ["-c", path]
  def arguments(%__MODULE__{kind: :editable, path: path, extras: extras}), do: ["-e", place_of(path, extras)]

  def arguments(%__MODULE__{kind: :local, name: nil, path: path, extras: extras}),
    do: [place_of(path, extras)]

  def arguments(%__MODULE__{text: text}), do: [text]

  # After a semicolon they read a condition, and after a # a fragment.
  defp place_of(path, extras), do: if(path =~ ~r/[;#]/, do: url(path), else: path) <> extras

  @doc "A file as a URL."
  @spec url(Path.t()) :: String.t()
  def url(path), do: "file://" <> URI.encode(path, &(URI.char_unreserved?(&1) or &1 == ?/))

  @doc "Later requirements take the place of earlier ones of the same package or file."
  @spec merge([t()], [t()]) :: [t()]
  def merge(earlier, later),
    do: Enum.reject(earlier, &(key(&1) in Enum.map(later, fn one -> key(one) end))) ++ later

  defp key(%__MODULE__{name: name}) when name != nil, do: name
  defp key(%__MODULE__{path: path}) when path != nil, do: path
  defp key(%__MODULE__{text: text}), do: text

  @doc "A path as it is seen from here."
  @spec shown(Path.t()) :: Path.t()
  def shown(path), do: Snakepit.Terminal.Name.from_here(path)

  @doc "The text without the names and passwords that its URLs have."
  @spec scrub(String.t()) :: String.t()
  def scrub(text), do: String.replace(text, ~r{(\w://)[^/\s@]+@}, "\\1****@")

  # `git+ssh://git@host` has a name that everybody knows.
  defp secret?(text), do: text =~ ~r{://[^/\s@]+@} and not (text =~ ~r{ssh://[^/\s@:]+@})
end
