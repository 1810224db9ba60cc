defmodule Snakepit.Performance.Model.Calibration.Kept do
  @moduledoc false
  # Calibrations in files, for the next start: each of one machine, one Python and one kind of pool. A file of another,
  # or one that is broken, is passed over.

  alias Snakepit.{Machine, Performance}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.{Calibration, Saved}
  alias Snakepit.Pool.Handle

  # Raised whenever the model means something else by its numbers.
  @version 2
  @magic "snakepit calibration #{@version}\n"
  @largest 1024 * 1024

  @doc "Where this pool's calibration is kept, and what must be the same for it to be used again."
  @spec file(Handle.t(), Performance.Settings.t()) :: {Path.t(), fingerprint :: binary()} | nil
  def file(handle, settings) do
    if dir = Saved.dir(settings), do: file_in(dir, handle)
  end

  defp file_in(dir, handle) do
    machine = Machine.describe() |> Map.drop([:date]) |> Enum.sort()
    python = handle.name |> Snakepit.Pool.Supervisor.described() |> Enum.find_value(& &1.python)
    o = handle.options

    pool = [
      python,
      o.transfers,
      o.inline_limit,
      o.chunk_size,
      o.busy_poll,
      o.worker_profile,
      Enum.sort(o.limits)
    ]

    fingerprint = :crypto.hash(:sha256, :erlang.term_to_binary({@version, machine, pool}, minor_version: 2))

    {Path.join(dir, "calibration-#{Base.encode16(binary_part(fingerprint, 0, 8), case: :lower)}"),
     fingerprint}
  end

  @doc "Keeps what the pool's model knows."
  @spec store(Handle.t(), Performance.Settings.t()) :: {:ok, Path.t()} | {:error, File.posix()}
  def store(handle, settings) do
    with {path, fingerprint} <- file(handle, settings),
         do: store(handle, path, fingerprint),
         else: (nil -> {:error, :enoent})
  end

  defp store(handle, path, fingerprint) do
    part = "#{path}.#{System.pid()}.#{System.unique_integer([:positive])}"

    # Whole or not at all, whoever else writes it now.
    with :ok <- File.mkdir_p(Path.dirname(path)),
         model = Model.export(handle.performance),
         sum = :crypto.hash(:sha256, [fingerprint, model]),
         :ok <- File.write(part, [@magic, fingerprint, sum, model]),
         :ok <- File.rename(part, path) do
      {:ok, path}
    end
  end

  @doc "Removes what was kept."
  @spec remove(Handle.t(), Performance.Settings.t()) :: :ok
  def remove(handle, settings) do
    with {path, _fingerprint} <- file(handle, settings), do: File.rm(path)
    :ok
  end

  @doc """
  Takes over what was kept, if some probes say that it holds. What a busy machine kept would mislead all calls until they
  have outweighed it, and every start after this one.
  """
  @spec take_over(Handle.t(), Performance.Settings.t()) :: :ok | :none
  def take_over(handle, settings) do
    with :ok <- load(handle, settings), do: Calibration.checked(handle, :loaded)
  end

  @doc "Reads what was kept; another machine's, another version's or a broken file is passed over."
  @spec load(Handle.t(), Performance.Settings.t()) :: :ok | :none
  def load(handle, settings) do
    with {path, fingerprint} <- file(handle, settings),
         {:ok, %{size: size}} when size < @largest <- File.stat(path),
         {:ok, <<@magic, ^fingerprint::binary-size(32), sum::binary-size(32), model::binary>>} <-
           File.read(path),
         ^sum <- :crypto.hash(:sha256, [fingerprint, model]),
         true <- Model.import(handle.performance, model) do
      :ok
    else
      _ -> :none
    end
  end
end
