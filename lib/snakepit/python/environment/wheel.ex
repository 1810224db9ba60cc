defmodule Snakepit.Python.Environment.Wheel do
  @moduledoc false
  # Snakepit's own package as a wheel. It is plain Python, so a wheel of it is a zip file, and nothing need be fetched
  # to build it: an install without a network does not want setuptools.

  @doc "The directory of the package."
  @spec source() :: Path.t()
  def source, do: Path.join(:code.priv_dir(:snakepit), "python")

  @doc "Digest of the package's own requirements, without its modules: workers import these from their source directory."
  @spec digest() :: String.t()
  def digest do
    parts = for name <- ["pyproject.toml", "requirements-test.txt"], do: File.read!(Path.join(source(), name))
    :crypto.hash(:sha256, parts) |> Base.encode16(case: :lower)
  end

  @doc "Writes the wheel into `dir`; its path."
  @spec write!(Path.t()) :: Path.t()
  def write!(dir) do
    project = File.read!(Path.join(source(), "pyproject.toml"))
    version = field(project, "version")
    info = "snakepit-#{version}.dist-info"

    modules =
      for path <- Path.wildcard(Path.join(source(), "snakepit/**/*.{py,typed}")),
          do: {Path.relative_to(path, source()), File.read!(path)}

    files =
      modules ++
        [
          {"#{info}/METADATA", metadata(project, version)},
          {"#{info}/WHEEL",
           "Wheel-Version: 1.0\nGenerator: snakepit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
        ]

    record = Enum.map_join(files, "", &recorded/1) <> "#{info}/RECORD,,\n"
    path = Path.join(dir, "snakepit-#{version}-py3-none-any.whl")
    entries = for {name, text} <- files ++ [{"#{info}/RECORD", record}], do: {String.to_charlist(name), text}
    {:ok, _} = :zip.create(String.to_charlist(path), entries)
    path
  end

  defp recorded({name, text}) do
    hash = :crypto.hash(:sha256, text) |> Base.url_encode64(padding: false)
    "#{name},sha256=#{hash},#{byte_size(text)}\n"
  end

  defp metadata(project, version) do
    [extras] =
      Regex.run(~r/^\[project\.optional-dependencies\]\n((?:.+\n)*)/m, project, capture: :all_but_first)

    optional =
      for [_, extra, listed] <- Regex.scan(~r/^(\w+) = \[(.*)\]$/m, extras) do
        [
          "Provides-Extra: #{extra}\n"
          | for(one <- strings(listed), do: "Requires-Dist: #{one}; extra == '#{extra}'\n")
        ]
      end

    [listed] = Regex.run(~r/^dependencies = \[(.*)\]$/m, project, capture: :all_but_first)

    IO.iodata_to_binary([
      "Metadata-Version: 2.1\nName: snakepit\nVersion: #{version}\n",
      "Summary: #{field(project, "description")}\nRequires-Python: #{field(project, "requires-python")}\n",
      for(one <- strings(listed), do: "Requires-Dist: #{one}\n"),
      optional
    ])
  end

  defp field(project, name) do
    [value] = Regex.run(~r/^#{name} = "(.*)"$/m, project, capture: :all_but_first)
    value
  end

  defp strings(listed), do: for([_, one] <- Regex.scan(~r/"([^"]*)"/, listed), do: one)
end
