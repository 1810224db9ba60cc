defmodule Snakepit.Performance.Model.Decision do
  @moduledoc false
  # The decision as a call makes it: the ways its arguments may take, best first. No process is asked, no model
  # evaluated.

  import Bitwise
  alias Snakepit.{Native, Performance, Telemetry, Transfer}
  alias Snakepit.Performance.Model.Rules
  alias Snakepit.Pool.Handle

  # As the library numbers them (cost_model/table.rs).
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
  def ways(%Handle{cost_model: nil}, size, allowed),
    do: {Transfer.plan(size.bytes, size.envelope, allowed), nil}

  # Nothing to carry, or some of it lies in shared memory already: any other way would carry that too.
  def ways(_handle, %{fresh: fresh, bytes: bytes} = size, allowed) when bytes == 0 or fresh < bytes,
    do: {Transfer.plan(bytes, size.envelope, allowed), nil}

  def ways(_handle, size, [_forced] = allowed), do: {Transfer.plan(size.bytes, size.envelope, allowed), nil}

  def ways(handle, size, allowed) do
    decision = Native.cost_model_decide(handle.cost_model, 0, size.kind, true, each(size))
    {order, decision} = by_rules(handle, size, allowed, decision)
    tell(handle, size, order, decision)
    {Transfer.among(order, allowed, size.bytes, size.envelope), decision}
  end

  @doc "As `ways/3`, but nothing is decided: it is neither counted nor told, and nothing explored."
  @spec would(Handle.t(), map(), [Transfer.way()]) :: {[Transfer.way()], non_neg_integer() | nil}
  def would(
        %Handle{cost_model: cost_model} = handle,
        %{bytes: bytes, fresh: bytes} = size,
        [_, _ | _] = allowed
      )
      when cost_model != nil and bytes > 0 do
    {order, reason, _, _, _} = Native.cost_model_cell(cost_model, 0, size.kind, true, each(size), nil)
    {order, decision} = by_rules(handle, size, allowed, order ||| reason <<< 4 ||| 0xFFFF <<< 7)
    {Transfer.among(order, allowed, size.bytes, size.envelope), decision}
  end

  def would(handle, size, allowed), do: ways(handle, size, allowed)

  @doc "The order as the user's rules have it, and the decision as it counts then."
  @spec by_rules(Handle.t(), map(), [Transfer.way()], non_neg_integer()) ::
          {[Transfer.way()], non_neg_integer()}
  def by_rules(handle, size, allowed, decision) do
    type = elem(@types, size.kind)
    order = decision |> in_order() |> Rules.reorder(handle, type, size.bytes)
    {order, settled(decision, order, allowed)}
  end

  @doc "Whether shared memory that has to be made first is cheaper, too, than the other ways this call may take."
  @spec fresh?(Handle.t(), map(), [Transfer.way()]) :: boolean()
  def fresh?(%Handle{cost_model: nil}, _size, _allowed), do: false
  # Any other way would carry what lies in shared memory already.
  def fresh?(_handle, %{fresh: fresh, bytes: bytes}, _allowed) when fresh < bytes, do: true

  def fresh?(handle, size, allowed) do
    cell = cell(handle, :request, elem(@types, size.kind), each(size), warm: false)
    cell.reason in [:cheapest, :tie] and Enum.find(cell.order, &(&1 in allowed)) == :zero_copy
  end

  @typedoc "What the table says of a size: `ns` is what each way usually takes there."
  @type cell :: %{
          order: [Transfer.way()],
          reason: atom(),
          confidence: float(),
          ns: %{Transfer.way() => pos_integer()}
        }

  @doc "All that a pool's table has for such a transfer: of warm memory and under the present load, unless options say otherwise."
  @spec cell(Handle.t(), Performance.direction(), Performance.data_type(), non_neg_integer(), keyword()) ::
          cell()
  def cell(%Handle{cost_model: cost_model}, direction, type, size, opts \\ []) do
    {order, reason, _explorable?, confidence, {inline, zero_copy, grpc}} =
      Native.cost_model_cell(
        cost_model,
        Performance.number(direction),
        Performance.number(type),
        Keyword.get(opts, :warm, true),
        size,
        opts[:load]
      )

    %{
      order: in_order(order),
      reason: elem(@reasons, reason),
      confidence: confidence,
      ns: %{inline: inline, zero_copy: zero_copy, grpc: grpc}
    }
  end

  @doc "Bytes of one of a call's buffers: what a way costs beside its bytes, it costs for each of them."
  @spec each(map()) :: non_neg_integer()
  def each(%{count: count, fresh: fresh}) when count > 1, do: div(fresh, count)
  def each(%{fresh: fresh}), do: fresh

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

  @doc "Tells whoever listens."
  @spec tell(Handle.t(), map(), [Transfer.way()], non_neg_integer()) :: :ok
  def tell(handle, size, order, decision) do
    if Telemetry.listened_to?(@event) do
      Telemetry.execute(@event, %{data_size: size.bytes}, %{
        pool: handle.name,
        method: hd(order),
        reason: reason(decision),
        explored?: explored?(decision),
        propensity: propensity(decision),
        data_type: elem(@types, size.kind)
      })
    end

    :ok
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
  def reason(decision), do: elem(@reasons, decision >>> 4 &&& 7)

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
end
