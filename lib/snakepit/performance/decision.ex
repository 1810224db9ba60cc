defmodule Snakepit.Performance.Decision do
  @moduledoc false
  # The decision as a call makes it: the ways its arguments may take, best first. No process is asked, no model
  # evaluated.

  import Bitwise
  alias Snakepit.{Native, Performance, Telemetry, Transfer}
  alias Snakepit.Performance.Rules
  alias Snakepit.Pool.Handle

  # As the library numbers them (brain/table.rs).
  @orders {[:inline, :zero_copy, :grpc], [:zero_copy, :inline, :grpc], [:inline, :grpc, :zero_copy],
           [:zero_copy, :grpc, :inline], [:grpc, :inline, :zero_copy], [:grpc, :zero_copy, :inline]}

  @types List.to_tuple(Performance.data_types())
  @event [:snakepit, :performance, :decision]

  @reasons {:rule, :below_minimum, :above_maximum, :override, :cheapest, :tie}

  @doc """
  The ways of a request with `count` buffers of `bytes` in all, of which `fresh` do not lie in shared memory yet. Decided is
  by the size of one buffer: what a way costs beside its bytes, it costs for each of them.
  """
  @spec ways(Handle.t(), map(), [Transfer.way()]) :: {[Transfer.way()], decision :: non_neg_integer() | nil}
  def ways(%Handle{brain: nil}, size, allowed), do: {Transfer.plan(size.bytes, size.envelope, allowed), nil}
  # Nothing to carry, or some of it lies in shared memory already: any other way would carry that too.
  def ways(_handle, %{fresh: fresh, bytes: bytes} = size, allowed) when bytes == 0 or fresh < bytes,
    do: {Transfer.plan(bytes, size.envelope, allowed), nil}

  def ways(_handle, size, [_forced] = allowed), do: {Transfer.plan(size.bytes, size.envelope, allowed), nil}

  def ways(%Handle{brain: brain} = handle, size, allowed) do
    decision = Native.brain_decide(brain, 0, size.kind, true, each(size))
    type = elem(@types, size.kind)
    order = decision |> in_order() |> Rules.reorder(handle, :request, type, size.bytes)
    decision = settled(decision, order, allowed)
    if Telemetry.listened_to?(@event), do: tell(handle, type, size, order, decision)
    {Transfer.among(order, allowed, size.bytes, size.envelope), decision}
  end

  @doc "Whether shared memory that has to be made first is cheaper, too, than the other ways this call may take."
  @spec fresh?(Handle.t(), map(), [Transfer.way()]) :: boolean()
  def fresh?(%Handle{brain: nil}, _size, _allowed), do: false
  # Any other way would carry what lies in shared memory already.
  def fresh?(_handle, %{fresh: fresh, bytes: bytes}, _allowed) when fresh < bytes, do: true

  def fresh?(%Handle{brain: brain}, size, allowed) do
    {order, reason, _, _, _} = Native.brain_cell(brain, 0, size.kind, false, each(size), nil)

    named_reason(reason) in [:cheapest, :tie] and
      order |> in_order() |> Enum.find(&(&1 in allowed)) == :zero_copy
  end

  defp each(%{count: count, fresh: fresh}) when count > 1, do: div(fresh, count)
  defp each(%{fresh: fresh}), do: fresh

  @doc """
  The decision as it counts: where a rule of the user's decided, or the ways that are allowed leave no choice between the
  two, nothing was explored, and nothing left to chance.
  """
  @spec settled(non_neg_integer(), [Transfer.way()], [Transfer.way()]) :: non_neg_integer()
  def settled(decision, _order, _allowed) when decision >>> 7 == 0xFFFF, do: decision

  def settled(decision, order, allowed) do
    first = Enum.find(order, &(&1 in allowed))
    otherwise = decision |> bxor(8) |> in_order() |> Enum.find(&(&1 in allowed))

    if order == in_order(decision) and first != otherwise,
      do: decision,
      else: (decision &&& 0x77) ||| 0xFFFF <<< 7
  end

  defp tell(handle, type, size, order, decision) do
    Telemetry.execute(@event, %{data_size: size.bytes}, %{
      pool: handle.name,
      method: hd(order),
      reason: reason(decision),
      explored?: explored?(decision),
      propensity: propensity(decision),
      data_type: type
    })
  end

  @doc "The ways in a decision, best first."
  @spec in_order(non_neg_integer()) :: [Transfer.way()]
  def in_order(decision) when (decision &&& 8) == 0, do: elem(@orders, decision &&& 7)

  def in_order(decision) do
    [first, second | rest] = elem(@orders, decision &&& 7)
    [second, first | rest]
  end

  @doc "Whether the second best way is tried, to learn."
  @spec explored?(non_neg_integer()) :: boolean()
  def explored?(decision), do: (decision &&& 8) != 0

  @doc "Why the best way is the best."
  @spec reason(non_neg_integer()) :: atom()
  def reason(decision), do: named_reason(decision >>> 4 &&& 7)

  @doc "The reason of this number, as a cell of the table has it."
  @spec named_reason(non_neg_integer()) :: atom()
  def named_reason(number), do: elem(@reasons, number)

  @doc "A reason for people."
  @spec words(atom()) :: String.t()
  def words(:rule), do: "not measured: the threshold"
  def words(:below_minimum), do: "below :minimum_threshold_mb"
  def words(:above_maximum), do: "from :maximum_threshold_mb on"
  def words(:override), do: "a threshold of the policy"
  def words(:cheapest), do: "costs least"
  def words(:tie), do: "about the same, and simplest"

  @doc "How likely this order was when it was decided, explored or not: what weighs it in statistics (in 0..1)."
  @spec propensity(non_neg_integer()) :: float()
  def propensity(decision), do: (decision >>> 7 &&& 0xFFFF) / 0xFFFF

  # What a call's record says of its decision (brain.rs, `brain_record`); nothing was explored where nothing was decided.
  @doc false
  @spec recorded(non_neg_integer() | nil) :: non_neg_integer()
  def recorded(nil), do: 0xFFFF <<< 16
  def recorded(decision), do: (decision &&& 8) <<< 10 ||| (decision >>> 7 &&& 0xFFFF) <<< 16

  @doc "Whether a record's call explored, and how likely its order was."
  @spec of_record(non_neg_integer()) :: {boolean(), float()}
  def of_record(legs), do: {(legs >>> 13 &&& 1) == 1, (legs >>> 16 &&& 0xFFFF) / 0xFFFF}
end
