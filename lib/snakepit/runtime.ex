defmodule Snakepit.Runtime do
  @moduledoc false
  # The private directory (0700) in which this VM listens for its workers. A VM that was killed cannot remove its own;
  # the next one does. One that somebody else removed, as cleaners of /tmp do, is made again when it is next needed.

  import Bitwise, only: [&&&: 2]
  alias Snakepit.Error

  @prefix "snakepit-"
  @mode 0o700
  # struct sockaddr_un has room for 107 bytes and a zero. A name in the directory has at most @longest_name.
  @longest_path 107
  @longest_name 26

  @doc "Makes the directory; called once, when the application starts."
  @spec open() :: {:ok, Path.t()} | {:error, Error.t()}
  def open, do: open(bases())

  @doc false
  # In the first of these directories that will do.
  @spec open([Path.t()]) :: {:ok, Path.t()} | {:error, Error.t()}
  def open(bases) do
    with {:ok, dir, uid} <- make(bases, []) do
      :persistent_term.put(__MODULE__, {dir, uid})
      {:ok, dir}
    end
  end

  @spec dir() :: Path.t()
  def dir, do: __MODULE__ |> :persistent_term.get() |> elem(0)

  @doc "The directory, made again if it is gone or no longer ours."
  @spec ensure() :: {:ok, Path.t()} | {:error, Error.t()}
  def ensure do
    {dir, uid} = :persistent_term.get(__MODULE__)
    if ours?(dir, uid), do: {:ok, dir}, else: :global.trans({__MODULE__, self()}, &again/0, [node()])
  end

  # Workers that start at once make one.
  defp again do
    {dir, uid} = :persistent_term.get(__MODULE__)
    if ours?(dir, uid), do: {:ok, dir}, else: open()
  end

  @doc "A name for a socket in it that nobody else has."
  @spec path(Path.t(), String.t()) :: Path.t()
  def path(dir, extension), do: Path.join(dir, "#{System.unique_integer([:positive])}.#{extension}")

  @spec close() :: :ok
  def close do
    # Once more, should the system have refused for want of memory.
    with {dir, _uid} <- :persistent_term.get(__MODULE__, nil),
         {:error, _, _} <- File.rm_rf(dir),
         do: File.rm_rf(dir)

    :persistent_term.erase(__MODULE__)
    :ok
  end

  @doc false
  # TMPDIR and its like first, then what a system has; the address of a socket must be short.
  @spec bases() :: [Path.t()]
  def bases do
    [System.tmp_dir(), System.get_env("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp", "/dev/shm"]
    |> Enum.filter(&(&1 not in [nil, ""]))
    |> Enum.map(&Path.expand/1)
    |> Enum.uniq()
  end

  defp make([], tried) do
    tried = tried |> Enum.reverse() |> Enum.map_join("; ", fn {base, why} -> "#{base}: #{why}" end)

    words =
      "no directory for the sockets of Snakepit's workers can be made (#{tried}). " <>
        "Set TMPDIR to a directory with a short path that this user may write to"

    {:error, Error.new(:pool, :no_runtime_dir, words)}
  end

  defp make([base | others], tried) do
    random = Base.url_encode64(:crypto.strong_rand_bytes(6), padding: false)
    dir = Path.join(base, "#{@prefix}#{namespace()}-#{System.pid()}-#{random}")

    with :ok <- fits(dir),
         # Fails if anything is there, so a directory that was made is ours.
         :ok <- File.mkdir(dir),
         :ok <- File.chmod(dir, @mode),
         {:ok, %{uid: uid}} <- File.lstat(dir) do
      sweep(base)
      {:ok, dir, uid}
    else
      {:error, words} when is_binary(words) -> make(others, [{base, words} | tried])
      {:error, reason} -> make(others, [{base, Error.reason_words(reason)} | tried])
    end
  end

  defp fits(dir) do
    if byte_size(dir) + 1 + @longest_name <= @longest_path,
      do: :ok,
      else: {:error, "its path is too long for a Unix socket"}
  end

  # A directory, not a link; ours; and closed to other users.
  defp ours?(dir, uid) do
    case File.lstat(dir) do
      {:ok, %{type: :directory, uid: ^uid, mode: mode}} -> (mode &&& 0o777) == @mode
      _ -> false
    end
  end

  # A pid means nothing in another container that shares this directory.
  defp namespace do
    with {:ok, link} <- File.read_link("/proc/self/ns/pid"), [number] <- Regex.run(~r/\d+/, link) do
      number
    else
      _ -> "0"
    end
  end

  # Other users' directories are left alone: removing them fails.
  defp sweep(base) do
    for path <- Path.wildcard(Path.join(base, @prefix <> "*")),
        [_, namespace, pid] <- [Regex.run(~r/\A#{@prefix}(\d+)-(\d+)-[\w-]+\z/, Path.basename(path))],
        namespace == namespace(),
        not File.exists?("/proc/#{pid}") do
      File.rm_rf(path)
    end
  end
end
