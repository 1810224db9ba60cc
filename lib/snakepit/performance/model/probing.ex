defmodule Snakepit.Performance.Model.Probing do
  @moduledoc false
  # Which probes keep a pool's model true about the ways its calls do not take. Pure.
  #
  # Now and then a call's shape (its size, type and direction) is sent once more by a way that the call did not take, as a
  # probe: no user's tool runs for it. Probes may cost a share of the workers' time, saved up while none is made.

  alias Snakepit.{Performance, Transfer}
  alias Snakepit.Performance.Model.Row

  @share 0.005
  # Nothing more is saved: a pool that slept for an hour is not probed for half a minute then.
  @most_saved_ns 250_000_000
  @at_once 8
  # After an alarm about costs that moved: what is known of ways that are not taken may be wrong as well.
  @after_alarm 100
  # The data that probes can carry (`Snakepit.Performance.Model.Probe.payload/3`), and the largest one.
  @types [:binary, :string, :tensor]
  @largest 64 * 1024 * 1024

  @type probe :: %{
          direction: Performance.direction(),
          type: Performance.data_type(),
          way: Transfer.way(),
          size: pos_integer()
        }

  @doc "How many probes are made at once, and what they may cost at most, in ns: usually, and after an alarm."
  @spec limits(:usual | :alarm) :: {count :: pos_integer(), ns :: pos_integer()}
  def limits(:usual), do: {@at_once, @most_saved_ns}
  def limits(:alarm), do: {@after_alarm, @most_saved_ns}

  @doc "Nanoseconds that probes may cost, after so many of so many workers."
  @spec earned(saved :: number(), elapsed_ns :: non_neg_integer(), workers :: pos_integer()) :: number()
  def earned(saved, elapsed, workers), do: min(saved + @share * elapsed * workers, @most_saved_ns)

  @doc """
  Probes for some of these calls, within `budget` nanoseconds by what `price` expects of each. `ways` are those that may be
  probed; calls that carry less than `least` bytes have no choice of ways. No more than `count`.
  """
  @spec plan(
          [Row.t()],
          [Transfer.way()],
          least :: pos_integer(),
          budget :: number(),
          (probe() -> number()),
          count :: pos_integer()
        ) ::
          [probe()]
  def plan(rows, ways, least, budget, price, count \\ @at_once) do
    {probes, _left} =
      rows
      |> Enum.flat_map(&alternatives(&1, ways, least))
      |> Enum.uniq()
      |> Enum.take_random(count)
      |> Enum.flat_map_reduce(budget, fn probe, left ->
        cost = price.(probe)
        if cost <= left, do: {[probe], left - cost}, else: {[], left}
      end)

    probes
  end

  # Neither calls that failed nor streams, whose items came one by one.
  defp alternatives(%Row{ok: true, direction: direction, size: size} = row, ways, least)
       when size >= least and size <= @largest do
    type = if row.data_type in @types and direction == :request, do: row.data_type, else: :binary
    for way <- ways, way != row.way, do: %{direction: direction, type: type, way: way, size: size}
  end

  defp alternatives(_row, _ways, _least), do: []
end
