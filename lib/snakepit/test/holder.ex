defmodule Snakepit.Test.Holder do
  @moduledoc false
  # Has a fake pool for as long as it runs: the child that `start_supervised/1` starts and ends.

  use GenServer

  @spec start_link({module(), keyword() | map()}) :: GenServer.on_start()
  def start_link(pool), do: GenServer.start_link(__MODULE__, pool)

  @impl true
  def init({_module, options} = pool) do
    Process.flag(:trap_exit, true)

    case Snakepit.start_pool(pool) do
      {:ok, _pid} -> {:ok, Access.fetch!(options, :name)}
      {:error, error} -> {:stop, error}
    end
  end

  @impl true
  def handle_info(_other, name), do: {:noreply, name}

  # It may have been stopped already, or started again.
  @impl true
  def terminate(_reason, name), do: Snakepit.stop_pool(name)
end
