defmodule Snakepit.Wheels do
  @moduledoc false
  # Wheels for tests of the setup, so that they need no network: tiny ones, and the installed msgpack as one again.

  @doc "A pure wheel of one module with this source; its path."
  def wheel!(dir, name, version, source) do
    info = "#{name}-#{version}.dist-info"

    write!(dir, "#{name}-#{version}-py3-none-any.whl", info, [
      {"#{name}.py", source},
      {"#{info}/METADATA", "Metadata-Version: 2.1\nName: #{name}\nVersion: #{version}\n"},
      {"#{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    ])
  end

  @doc "msgpack as the tests' own environment has it."
  def msgpack!(dir) do
    place = "import sysconfig; print(sysconfig.get_path('platlib'))"
    {site, 0} = System.cmd(Snakepit.Python.venv_python(), ["-c", place])
    site = String.trim(site)
    [info] = Path.wildcard(Path.join(site, "msgpack-*.dist-info"))

    files =
      for path <-
            Path.wildcard(Path.join(site, "msgpack/*.{py,so}")) ++
              Enum.map(~w(METADATA WHEEL), &Path.join(info, &1)),
          do: {Path.relative_to(path, site), File.read!(path)}

    # What the wheel's name says may be several tags at once.
    tags = Regex.scan(~r/^Tag: (\S+)$/m, File.read!(Path.join(info, "WHEEL")), capture: :all_but_first)
    parts = tags |> List.flatten() |> Enum.map(&String.split(&1, "-"))
    tag = for i <- 0..2, do: parts |> Enum.map(&Enum.at(&1, i)) |> Enum.uniq() |> Enum.join(".")
    version = info |> Path.basename() |> String.replace_suffix(".dist-info", "")
    write!(dir, "#{version}-#{Enum.join(tag, "-")}.whl", Path.basename(info), files)
  end

  defp write!(dir, name, info, files) do
    record =
      Enum.map_join(files, "", fn {name, text} ->
        hash = :crypto.hash(:sha256, text) |> Base.url_encode64(padding: false)
        "#{name},sha256=#{hash},#{byte_size(text)}\n"
      end)

    entries =
      for {name, text} <- files ++ [{"#{info}/RECORD", record <> "#{info}/RECORD,,\n"}],
          do: {String.to_charlist(name), text}

    path = Path.join(dir, name)
    File.mkdir_p!(dir)
    {:ok, _} = path |> String.to_charlist() |> :zip.create(entries)
    path
  end
end
