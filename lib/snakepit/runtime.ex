defmodule Snakepit.Runtime do
  @moduledoc false
  # The private directory (0700) in which this VM listens for its workers. A VM that was killed cannot remove its own;
  # the next one does.

  @prefix "snakepit-"

  @doc "Makes the directory; called once, when the application starts."
  @spec open() :: Path.t()
  def open do
    base = System.tmp_dir!()
    sweep(base)
    random = Base.url_encode64(:crypto.strong_rand_bytes(6), padding: false)
    dir = Path.join(base, "#{@prefix}#{namespace()}-#{System.pid()}-#{random}")
    File.mkdir!(dir)
    File.chmod!(dir, 0o700)
    :persistent_term.put(__MODULE__, dir)
    dir
  end

  @spec dir() :: Path.t()
  def dir, do: :persistent_term.get(__MODULE__)

  @spec close() :: :ok
  def close do
    with dir when is_binary(dir) <- :persistent_term.get(__MODULE__, nil), do: File.rm_rf(dir)
    :persistent_term.erase(__MODULE__)
    :ok
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
