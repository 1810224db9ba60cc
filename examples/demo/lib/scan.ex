defmodule Snakepit.Demo.Scan do
  @moduledoc false
  # Which files there are under some paths. Names are raw bytes from end to end.
  #
  # A link to a file counts as that file. A link to a directory is followed only where it was named by the user: else a
  # loop, or the whole machine, may lie behind it.

  alias Snakepit.Terminal.Name

  defstruct files: [], problems: [], skipped: []

  @type file :: %{path: binary(), shown: String.t(), size: non_neg_integer()}
  @type t :: %__MODULE__{files: [file()], problems: [String.t()], skipped: [String.t()]}

  @doc "The files under `paths`, in order; relative ones start at `cwd`. Problems are one line each."
  @spec run([binary()], binary()) :: t()
  def run(paths, cwd) do
    found = Enum.reduce(paths, %__MODULE__{}, &path(&1, cwd, &2))

    %__MODULE__{
      files: found.files |> Enum.reverse() |> Enum.uniq_by(& &1.path),
      problems: Enum.reverse(found.problems),
      skipped: Enum.reverse(found.skipped)
    }
  end

  @doc "At most `limit` of the files, evenly spread over all of them."
  @spec limit([file()], pos_integer() | nil) :: [file()]
  def limit(files, nil), do: files

  def limit(files, limit) do
    count = length(files)

    if count <= limit do
      files
    else
      all = List.to_tuple(files)
      for number <- 0..(limit - 1), do: elem(all, div(number * count, limit))
    end
  end

  defp path("", _cwd, found), do: problem(found, ~s(""), "the path is empty")

  defp path(given, cwd, found) do
    full = Path.expand(given, cwd)

    case :file.read_file_info(full, [:raw]) do
      {:ok, info} when elem(info, 2) == :directory -> top(given, full, found)
      {:ok, info} when elem(info, 2) == :regular -> file(full, given, elem(info, 1), found)
      {:ok, _special} -> problem(found, given, "is no file and no directory")
      {:error, reason} -> problem(found, given, words(reason))
    end
  end

  defp top(given, full, found) do
    case directory(full, given, %__MODULE__{}) do
      %{files: [], problems: []} = inside ->
        inside |> problem(given, "there is no file in this directory") |> join(found)

      inside ->
        join(inside, found)
    end
  end

  defp join(new, old) do
    %__MODULE__{
      files: new.files ++ old.files,
      problems: new.problems ++ old.problems,
      skipped: new.skipped ++ old.skipped
    }
  end

  defp directory(full, shown, found) do
    case :file.list_dir_all(full) do
      {:ok, names} ->
        names
        |> Enum.map(&raw/1)
        |> Enum.sort()
        |> Enum.reduce(found, &entry(full <> "/" <> &1, join_shown(shown, &1), &2))

      {:error, reason} ->
        problem(found, shown, words(reason))
    end
  end

  defp join_shown(dir, name), do: String.trim_trailing(dir, "/") <> "/" <> name

  defp entry(full, shown, found) do
    case :file.read_link_info(full, [:raw]) do
      {:ok, info} when elem(info, 2) == :directory -> directory(full, shown, found)
      {:ok, info} when elem(info, 2) == :regular -> file(full, shown, elem(info, 1), found)
      {:ok, info} when elem(info, 2) == :symlink -> link(full, shown, found)
      {:ok, _special} -> skip(found, shown, "is no ordinary file")
      {:error, reason} -> problem(found, shown, words(reason))
    end
  end

  defp link(full, shown, found) do
    case :file.read_file_info(full, [:raw]) do
      {:ok, info} when elem(info, 2) == :regular -> file(full, shown, elem(info, 1), found)
      {:ok, info} when elem(info, 2) == :directory -> found
      {:ok, _special} -> skip(found, shown, "is a link to no ordinary file")
      {:error, :eloop} -> skip(found, shown, "is a link that leads in a circle")
      {:error, reason} -> skip(found, shown, "is a link that leads nowhere (#{words(reason)})")
    end
  end

  defp file(full, shown, size, found) do
    %{found | files: [%{path: full, shown: Name.show(shown), size: size} | found.files]}
  end

  defp problem(found, name, words), do: %{found | problems: ["#{Name.show(name)}: #{words}" | found.problems]}

  defp skip(found, name, words),
    do: %{found | skipped: ["#{Name.show(name)} #{words}: skipped" | found.skipped]}

  @doc "An error of the file system in words."
  @spec words(atom()) :: String.t()
  def words(:eloop), do: "too many links, or a circle of them"
  def words(reason), do: reason |> :file.format_error() |> to_string()

  # What Erlang could not decode is a binary already; the rest it decoded as the VM's file name encoding says.
  defp raw(name) when is_binary(name), do: name

  defp raw(name) do
    case :file.native_name_encoding() do
      :utf8 -> :unicode.characters_to_binary(name)
      :latin1 -> :erlang.list_to_binary(name)
    end
  end
end
