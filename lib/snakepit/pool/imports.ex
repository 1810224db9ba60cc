defmodule Snakepit.Pool.Imports do
  @moduledoc false
  # The files that a pool's workers import: whether they are watched, and to whom workers report them (`Snakepit.Pool.Reload`).

  alias Snakepit.Pool.Handle
  alias Snakepit.Python

  @doc "Whether a pool of these options reloads: as they say, else the configuration, else in Mix's `:dev`."
  @spec watched?(Snakepit.Pool.Options.t()) :: boolean()
  def watched?(%{reload: reload}) do
    with nil <- reload, nil <- Application.get_env(:snakepit, :reload), do: Python.mix_dev?()
  end

  @doc "A worker is about to import this file, which has so many bytes and this checksum; nil if it is too large to say."
  @spec report(atom(), Path.t(), {non_neg_integer(), non_neg_integer()} | nil) :: :ok
  def report(pool, path, content), do: GenServer.cast(Handle.name(:reload, pool), {:source, path, content})
end
