defmodule Snakepit.Performance.Model.Saved do
  @moduledoc false
  # Keeps in files, for the next run of pools, what they learned and what was set while they ran.
  #
  # A section is a file of its own, so that each has one owner: `lines` (`Model.Learning`), `thresholds` (`ThresholdManager`),
  # `policy` (`Controller`). A file is replaced whole, and the one before it is kept: a file that is damaged, of another
  # version or of another pool is passed over for that one, then for none, and logged once.

  alias Snakepit.{Machine, Performance, Pool}
  alias Snakepit.Pool.Handle
  require Logger

  # Raised whenever a section means something else by its bytes.
  @version 1
  @magic "snakepit model "
  @largest 64 * 1024 * 1024
  # A pool that was not started for so long is forgotten.
  @forgotten_days 90

  @typedoc "Where a pool's sections are, and what must be the same for them to be used again; nil where nothing is kept."
  @type place :: {dir :: Path.t(), fingerprint :: binary()} | nil
  @type section :: :lines | :thresholds | :policy

  @doc "The place of what somebody sets of a pool: the same tools under the same name, started in the same directory."
  @spec set(Pool.Options.t(), Performance.Settings.t()) :: place()
  def set(options, settings), do: place(settings, options.name, [:set, tools(options)])

  @doc "The place of what was measured of a pool: on the same machine, by the same Python, with the same memory, too."
  @spec measured(Handle.t(), Performance.Settings.t()) :: place()
  def measured(%Handle{name: name, options: o}, settings) do
    machine = Machine.describe() |> Map.drop([:date]) |> Enum.sort()
    python = name |> Pool.Supervisor.described() |> Enum.find_value(& &1.python)
    kind = [o.transfers, o.inline_limit, o.chunk_size, o.busy_poll, o.worker_profile, Enum.sort(o.limits)]
    place(settings, name, [:measured, tools(o), machine, python, kind])
  end

  defp tools(options), do: [options.python_module, options.python_path, File.cwd()]

  defp place(%{keep_models: false}, _name, _same), do: nil

  defp place(settings, name, same) do
    if dir = dir(settings), do: place_in(dir, name, same)
  end

  defp place_in(dir, name, same) do
    fingerprint = :crypto.hash(:sha256, :erlang.term_to_binary([name | same], minor_version: 2))
    readable = name |> inspect() |> String.replace(~r/[^A-Za-z0-9_]/, "") |> String.slice(0, 40)
    short = Base.encode16(binary_part(fingerprint, 0, 6), case: :lower)
    {Path.join(pools(dir), "#{readable}-#{short}"), fingerprint}
  end

  @doc "The directory of all that is kept: the one that is configured, or in the user's cache. Nil where the user has no home."
  @spec dir(Performance.Settings.t()) :: Path.t() | nil
  def dir(%{calibration_dir: dir}) when dir != nil, do: dir

  def dir(_settings) do
    to_string(:filename.basedir(:user_cache, "snakepit"))
  rescue
    # It needs HOME, or XDG_CACHE_HOME.
    _no_home -> nil
  end

  @doc "Keeps a section; what was kept before becomes the previous one."
  @spec put(place(), section(), binary()) :: :ok | {:error, File.posix()}
  def put(nil, _section, _bytes), do: :ok

  def put({dir, fingerprint}, section, bytes) do
    path = Path.join(dir, to_string(section))
    part = "#{path}.#{System.pid()}.#{System.unique_integer([:positive])}"
    sum = :crypto.hash(:sha256, [fingerprint, bytes])

    unless File.dir?(dir), do: forget_old(Path.dirname(dir))

    with :ok <- File.mkdir_p(dir),
         :ok <- write(part, [@magic, <<@version::32>>, fingerprint, sum, bytes]),
         :ok <- previous(path),
         do: File.rename(part, path)
  end

  # Pools may be named anew at each start; their files must not pile up.
  defp forget_old(pools) do
    oldest = System.os_time(:second) - @forgotten_days * 86_400

    for dir <- Path.wildcard(Path.join(pools, "*")),
        {:ok, %{type: :directory, mtime: mtime}} when mtime < oldest <- [File.stat(dir, time: :posix)],
        do: File.rm_rf(dir)
  end

  # On the disk before it has its name, so that a machine that stops leaves this one or the one before.
  defp write(path, bytes) do
    with {:ok, file} <- :file.open(path, [:write, :raw, :binary]) do
      written = with :ok <- :file.write(file, bytes), :ok <- :file.sync(file), do: :ok
      :ok = :file.close(file)
      if written != :ok, do: File.rm(path)
      written
    end
  end

  # Between the two renames there is the previous one alone, which is read then.
  defp previous(path) do
    with {:error, :enoent} <- File.rename(path, path <> ".previous"), do: :ok
  end

  @doc "The section that was kept, or the one before it."
  @spec get(place(), section()) :: {:ok, binary()} | :none
  def get(nil, _section), do: :none

  def get({dir, fingerprint}, section) do
    path = Path.join(dir, to_string(section))
    [now, before] = for path <- [path, path <> ".previous"], do: {path, read(path, fingerprint)}

    case {now, before} do
      {{_, {:ok, bytes}}, _} ->
        {:ok, bytes}

      {{_, {:error, :enoent}}, {_, {:error, :enoent}}} ->
        :none

      {{path, {:error, reason}}, {_, {:ok, bytes}}} ->
        if reason != :enoent, do: passed_over(path, reason, "the one before it is used")
        {:ok, bytes}

      {{path, {:error, reason}}, {other, {:error, also}}} ->
        {path, reason} = if reason == :enoent, do: {other, also}, else: {path, reason}
        passed_over(path, reason, "the pool learns anew")
        :none
    end
  end

  defp read(path, fingerprint) do
    with {:ok, %{size: size, type: :regular}} when size <= @largest <- File.stat(path),
         {:ok, bytes} <- File.read(path) do
      parse(bytes, fingerprint)
    else
      {:ok, %{type: :regular}} -> {:error, :too_large}
      {:ok, _stat} -> {:error, :no_file}
      {:error, reason} -> {:error, reason}
    end
  end

  defp parse(
         <<@magic, @version::32, fingerprint::binary-size(32), sum::binary-size(32), bytes::binary>>,
         ours
       ) do
    cond do
      fingerprint != ours -> {:error, :foreign}
      :crypto.hash(:sha256, [fingerprint, bytes]) != sum -> {:error, :damaged}
      true -> {:ok, bytes}
    end
  end

  defp parse(<<@magic, version::32, _rest::binary>>, _ours) when version != @version,
    do: {:error, {:version, version}}

  defp parse(_other, _ours), do: {:error, :damaged}

  defp passed_over(path, reason, instead),
    do: Logger.warning("snakepit: #{path} is passed over, since #{words(reason)}: #{instead}")

  defp words(:too_large), do: "it is larger than #{@largest} bytes"
  defp words(:no_file), do: "it is no file"
  defp words(:foreign), do: "it is of another pool, machine or Python"
  defp words(:damaged), do: "it is damaged"
  defp words({:version, version}), do: "it is of version #{version}, and this Snakepit reads #{@version}"
  defp words(posix), do: "it cannot be read (#{:file.format_error(posix)})"

  @doc "The pools of which something is kept: the directory, and of each section its bytes and when it was written (Unix seconds)."
  @spec list(Performance.Settings.t()) :: [
          {Path.t(), [{String.t(), bytes :: non_neg_integer(), at :: integer()}]}
        ]
  def list(settings) do
    for kept when kept != nil <- [dir(settings)],
        dir <- kept |> pools() |> Path.join("*") |> Path.wildcard(),
        File.dir?(dir) do
      sections =
        for name <- Enum.sort(File.ls!(dir)),
            {:ok, stat} <- [File.stat(Path.join(dir, name), time: :posix)],
            do: {name, stat.size, stat.mtime}

      {dir, sections}
    end
  end

  defp pools(dir), do: Path.join(dir, "pools")

  @doc "Removes a section, and the one before it."
  @spec remove(place(), section()) :: :ok
  def remove(nil, _section), do: :ok

  def remove({dir, _fingerprint}, section) do
    path = Path.join(dir, to_string(section))
    for path <- [path, path <> ".previous"], do: File.rm(path)
    File.rmdir(dir)
    :ok
  end
end
