defmodule Snakepit.Pool.Sources do
  @moduledoc false
  # The contents of files, with as little reading as possible: a file is read again only when its size, times or inode
  # say that it changed, or when it was so fresh at the last look that it may have changed within the same second.
  #
  # A directory holds the names of its modules. Pure but for the looks themselves.

  @type content :: {size :: non_neg_integer(), crc32 :: non_neg_integer()} | tuple() | [String.t()] | :missing
  @type look :: %{Path.t() => {content(), stat :: tuple(), looked_at :: integer()}}

  # File times have whole seconds here.
  @fresh_s 2
  # A larger file (a compiled module, say) is known by its times and its size alone.
  @largest 4 * 1024 * 1024

  @doc "Looks at files and directories, given what the last look said of them. `now`: seconds since 1970."
  @spec look([Path.t()], look(), now :: integer()) :: look()
  def look(paths, before, now), do: Map.new(paths, &{&1, look_at(&1, before[&1], now)})

  @doc "A look at a file that somebody else took."
  @spec reported(Path.t(), content()) :: look()
  def reported(path, content), do: %{path => {content, {}, 0}}

  @doc "The directories of files."
  @spec directories([Path.t()]) :: [Path.t()]
  def directories(files), do: files |> Enum.map(&Path.dirname/1) |> Enum.uniq()

  @doc "The files that differ; of a directory, its modules that are new or gone."
  @spec changed(look(), look()) :: [Path.t()]
  def changed(one, other) do
    for(
      {path, {content, _, _}} <- other,
      {was, _, _} <- [one[path]],
      was != content,
      do: {path, was, content}
    )
    |> Enum.flat_map(fn
      {dir, was, is} when is_list(was) and (is_list(is) or is == :missing) -> modules(dir, differing(was, is))
      {dir, :missing, is} when is_list(is) -> modules(dir, is)
      # One that was a directory in between is a file that differs.
      {file, _was, _is} -> [file]
    end)
    |> Enum.uniq()
    |> Enum.sort()
  end

  defp modules(dir, names), do: Enum.map(names, &Path.join(dir, &1))

  defp differing(was, is) do
    {was, is} = {if(is_list(was), do: was, else: []), if(is_list(is), do: is, else: [])}
    (was -- is) ++ (is -- was)
  end

  defp look_at(path, before, now) do
    case :file.read_file_info(path, [:raw, time: :posix]) do
      {:ok, info} ->
        # mtime and ctime: a copy may keep the time of its original, but not when it was made.
        stat = {elem(info, 1), elem(info, 5), elem(info, 6), elem(info, 10), elem(info, 11)}
        {content(path, elem(info, 2), stat, before), stat, now}

      {:error, _} ->
        {:missing, {}, now}
    end
  end

  # :file_info has size 1, type 2, mtime 5, ctime 6, major_device 9, minor_device 10, inode 11.
  defp content(_path, _type, {_, mtime, ctime, _, _} = stat, {content, stat, looked_at})
       when mtime + @fresh_s < looked_at and ctime + @fresh_s < looked_at,
       do: content

  defp content(path, :directory, _stat, _before) do
    case :file.list_dir(path) do
      {:ok, names} -> for name <- names, name = to_string(name), module?(name), do: name
      {:error, _} -> :missing
    end
    |> then(&if is_list(&1), do: Enum.sort(&1), else: &1)
  end

  # To open a pipe is to wait for its other end.
  defp content(_path, type, _stat, _before) when type != :regular, do: :missing

  defp content(_path, :regular, {size, _, _, _, _} = stat, _before) when size > @largest,
    do: stat

  defp content(path, :regular, _stat, _before) do
    case File.read(path) do
      {:ok, bytes} -> {byte_size(bytes), :erlang.crc32(bytes)}
      {:error, _} -> :missing
    end
  end

  # Not what editors keep beside it.
  defp module?(name), do: name =~ ~r/\A[A-Za-z_]\w*\.py\z/
end
