defmodule Snakepit.Performance.Model.Prober do
  @moduledoc false
  # Makes probes, one after the other, on lanes that nobody waits for, and has the pool's model learn from them.

  alias Snakepit.{Native, Observation}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.{Probe, Probing}
  alias Snakepit.Pool.Handle

  @typedoc "Sent after each probe: the pool, the run of its model, how many probes were learned from (0 or 1), and ns that it cost."
  @type report :: {:probed, atom(), Native.cost_model(), 0..1, non_neg_integer()}

  @doc "Makes these probes, until somebody waits for a lane or one fails."
  @spec run(Handle.t(), [Probing.probe()], (report() -> term())) :: :ok
  def run(handle, probes, report) do
    Enum.reduce_while(probes, :ok, fn probe, :ok ->
      started = now()
      # Somebody waits, or something is wrong, which others have to find out: no more for now.
      learned = if idle?(handle), do: probed(handle, probe)
      # Whatever came of it, it is paid for, before the next one.
      report.({:probed, handle.name, handle.performance.ref, learned || 0, now() - started})
      if learned, do: {:cont, :ok}, else: {:halt, :ok}
    end)
  end

  defp idle?(handle), do: match?({idle, _busy, 0} when idle > 0, Native.queue_counts(handle.queue))

  defp probed(handle, probe) do
    data = Probe.payload(probe.direction, probe.type, probe.size)
    run = fn -> Probe.run(handle, probe.direction, data, probe.size, probe.way, timeout: 5_000) end

    # The first by shared memory may have to make some, on either side, which says nothing of usual times.
    with {:ok, _} <- if(probe.way == :zero_copy, do: run.(), else: {:ok, nil}),
         {:ok, %{cold: false} = seen} <- run.() do
      Model.probed(handle.performance, probe, Observation.transfer_ns(seen))
      1
    else
      {:ok, _cold} -> 0
      {:error, _error} -> nil
    end
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
