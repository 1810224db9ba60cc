defmodule Snakepit.Wheels do
  @moduledoc false
  # Wheels for tests of the setup, so that they need no network.

  @doc "A pure wheel of one module with this source; its path."
  def wheel!(dir, name, version, source) do
    info = "#{name}-#{version}.dist-info"

    write!(dir, "#{name}-#{version}-py3-none-any.whl", info, [
      {"#{name}.py", source},
      {"#{info}/METADATA", "Metadata-Version: 2.1\nName: #{name}\nVersion: #{version}\n"},
      {"#{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    ])
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
