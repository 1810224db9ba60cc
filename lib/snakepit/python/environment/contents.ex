defmodule Snakepit.Python.Environment.Contents do
  @moduledoc false
  # The present contents of requirements: a digest that changes with every file that they name, include or lead to, and
  # the local packages among them. Reads files, starts no program.

  alias Snakepit.Python.Environment.Requirement

  # Larger files are known by size and time.
  @largest 8_000_000
  # Files that are no part of a package, or are built from its parts.
  @left_out ~w(__pycache__ build dist node_modules venv env)
  @editable ~w(pyproject.toml setup.py setup.cfg)

  @type seen :: %{lines: iodata(), local: [String.t()], visited: MapSet.t(Path.t()), above: [Path.t()]}

  @doc """
  The digest, and the local packages as arguments of uv or pip, that must be installed again to have what is in them now.
  """
  @spec read([Requirement.t()]) :: {:ok, digest :: String.t(), local :: [String.t()]} | {:error, String.t()}
  def read(requirements) do
    # Whatever order they were asked for in.
    sorted = Enum.sort_by(requirements, & &1.text)
    seen = Enum.reduce(sorted, %{lines: [], local: [], visited: MapSet.new(), above: []}, &one/2)
    digest = :crypto.hash(:sha256, Enum.reverse(seen.lines)) |> Base.encode16(case: :lower)
    {:ok, digest, Enum.reverse(seen.local)}
  catch
    {:unreadable, message} -> {:error, message}
  end

  defp one(%Requirement{kind: kind, path: path}, seen) when kind in [:file, :constraint],
    do: listed(path, nil, seen)

  defp one(%Requirement{kind: :pyproject, path: path, text: text}, seen),
    do: seen |> line([text, contents(path, nil)])

  defp one(%Requirement{kind: :local, path: path, text: text} = requirement, seen),
    do: seen |> line([text, tree(path)]) |> Map.update!(:local, &(Requirement.arguments(requirement) ++ &1))

  defp one(%Requirement{kind: :editable, path: path, text: text}, seen), do: line(seen, [text, project(path)])
  defp one(%Requirement{text: text}, seen), do: line(seen, text)

  defp line(seen, line), do: %{seen | lines: [[line, 0] | seen.lines]}

  # ---- requirements files -----------------------------------------------------------------------------------------

  defp listed(path, from, %{above: above} = seen) do
    cond do
      path in above ->
        # pip only prints a traceback about it.
        cycle = Enum.reverse([path | Enum.take_while(above, &(&1 != path)) ++ [path]])

        throw(
          {:unreadable,
           "requirements files include each other: #{Enum.map_join(cycle, " > ", &Requirement.shown/1)}"}
        )

      path in seen.visited ->
        seen

      true ->
        text = contents(path, from)
        seen = line(%{seen | visited: MapSet.put(seen.visited, path), above: [path | above]}, text)

        text
        |> lines()
        |> Enum.reduce(seen, fn {line, number}, seen -> entry(line, {path, number}, seen) end)
        |> Map.put(:above, above)
    end
  end

  defp entry(line, from, seen) do
    case Regex.run(~r/\A(-r|--requirement|-c|--constraint|-e|--editable)(?:\s*=\s*|\s+|(?<=-\w))(.+)\z/, line) do
      [_, flag, place] when flag in ["-e", "--editable"] -> line(seen, project(local(place)))
      [_, _flag, place] -> included(place, from, seen)
      nil -> package(line, seen)
    end
  end

  # Seen from the file that includes it.
  defp included(place, {file, _line} = from, seen) do
    if place =~ ~r{\A[a-z]+://},
      do: seen,
      else: place |> Path.expand(Path.dirname(file)) |> listed(from, seen)
  end

  # Seen from the working directory, as pip and uv do.
  defp package(line, seen) do
    place = local(line)

    # The whole of a directory that is no package, such as /, is not looked at: the installer refuses it.
    if place && (File.regular?(place) or Requirement.project?(place)),
      do: seen |> line(tree(place)) |> Map.update!(:local, &[without_options(line) | &1]),
      else: seen
  end

  defp local(text) do
    text =
      text |> without_options() |> String.replace(~r/\s*;.*\z/, "") |> String.replace(~r/\[[^\]]*\]\z/, "")

    case Regex.run(~r{\A(?:[\w.\[\],-]+\s*@\s*)?file://(.+)\z}, text) do
      [_, path] -> URI.decode(path)
      nil -> if text =~ ~r{\A[./~]|\.(whl|tar\.gz|zip)\z}, do: Path.expand(text)
    end
  end

  # Hashes and settings of a build stand behind the requirement.
  defp without_options(line), do: String.replace(line, ~r/\s+--.*\z/, "")

  # Without comments, with continued lines put together, each with its number; variables as pip has them.
  @spec lines(binary()) :: [{String.t(), pos_integer()}]
  defp lines(text) do
    text
    |> String.replace("\uFEFF", "")
    |> String.split(~r/\r\n|\n|\r/)
    |> Enum.with_index(1)
    |> Enum.reduce([], fn
      {line, _}, [{before, number, :goes_on} | done] -> [continued(before <> line, number) | done]
      {line, number}, done -> [continued(line, number) | done]
    end)
    |> Enum.reverse()
    |> Enum.map(fn {line, number, _} ->
      {line |> String.replace(~r/(\A|\s)#.*\z/, "") |> String.trim() |> expanded(), number}
    end)
    |> Enum.reject(&(elem(&1, 0) == ""))
  end

  defp continued(line, number) do
    if String.ends_with?(line, "\\"),
      do: {String.replace_suffix(line, "\\", ""), number, :goes_on},
      else: {line, number, :whole}
  end

  defp expanded(line),
    do: Regex.replace(~r/\$\{([A-Z0-9_]+)\}/, line, fn all, name -> System.get_env(name) || all end)

  # ---- files ------------------------------------------------------------------------------------------------------

  defp contents(path, from) do
    case File.read(path) do
      {:ok, text} ->
        text

      {:error, reason} ->
        where =
          with {file, number} <- from,
               do: " (line #{number} of #{Requirement.shown(file)})",
               else: (nil -> "")

        throw(
          {:unreadable,
           "the file #{Requirement.shown(path)} cannot be read: #{:file.format_error(reason)}#{where}"}
        )
    end
  end

  # The code of an editable package is used where it lies.
  defp project(nil), do: ""

  defp project(path),
    do: for(name <- @editable, file = Path.join(path, name), File.regular?(file), do: file(file))

  defp tree(path) do
    cond do
      File.regular?(path) ->
        file(path)

      File.dir?(path) ->
        for name <- names(path), used?(path, name), do: [name, 0, tree(Path.join(path, name))]

      true ->
        ""
    end
  end

  # One that may not be read is the installer's affair.
  defp names(path), do: with({:ok, names} <- File.ls(path), do: Enum.sort(names), else: (_ -> []))

  defp used?(dir, name) do
    path = Path.join(dir, name)

    not String.starts_with?(name, ".") and not String.ends_with?(name, [".egg-info", ".pyc"]) and
      not (File.dir?(path) and (name in @left_out or File.regular?(Path.join(path, "pyvenv.cfg")))) and
      not (match?({:ok, _}, File.read_link(path)) and File.dir?(path))
  end

  defp file(path) do
    case File.stat(path, time: :posix) do
      {:ok, %{size: size, mtime: time}} when size > @largest -> "#{size} #{time}"
      {:ok, _} -> with {:ok, text} <- File.read(path), do: :crypto.hash(:sha256, text), else: (_ -> "")
      {:error, _} -> ""
    end
  end
end
