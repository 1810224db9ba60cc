defmodule Snakepit.Pool.Size do
  @moduledoc false
  # The number of workers that a pool was resized to, for its processes when they start again after a crash. A pool that is
  # stopped and started has another supervisor, and so the size of its options.

  alias Snakepit.Pool.Options

  @spec remember(atom(), pos_integer()) :: :ok
  def remember(name, size),
    do: Registry.put_meta(Snakepit.Registry, {:size, name}, {supervisor(name), size})

  @doc "The options with the size that the pool has by now."
  @spec recalled(Options.t()) :: Options.t()
  def recalled(%Options{name: name} = options) do
    with {:ok, {supervisor, size}} <- Registry.meta(Snakepit.Registry, {:size, name}),
         ^supervisor <- supervisor(name),
         do: %{options | size: size},
         else: (_ -> options)
  end

  defp supervisor(name) do
    case Registry.lookup(Snakepit.Registry, {:pool_supervisor, name}) do
      [{pid, _}] -> pid
      [] -> nil
    end
  end
end
