defmodule Snakepit.Bench.Peers.Erlport do
  @moduledoc "ErlPort itself, where its application is in the VM's code path; the peer `port` works as it does."
  @behaviour Snakepit.Bench.Peer
  alias Snakepit.Bench.Peer

  @compile {:no_warn_undefined, :python}

  @impl true
  def peers, do: [{"erlport", "ErlPort"}]

  @impl true
  def start(_name, %{python: python}) do
    if Code.ensure_loaded?(:python) and function_exported?(:python, :start, 1) do
      {:ok, instance} = :python.start(python: String.to_charlist(python))
      {:ok, instance}
    else
      {:absent, "its Erlang application, erlport, is not in the code path"}
    end
  end

  @impl true
  def round_trips(instance, data, count),
    do: Peer.measure(fn -> :python.call(instance, :copy, :copy, [data]) end, data, count)

  @impl true
  def stop(instance), do: :python.stop(instance)
end
