defmodule Snakepit.Performance.Model.Decision do
  @moduledoc false
  # Makes the plan of a call. No process is asked, and no model evaluated: a decision reads the pool's table.
  #
  #   1. nothing to decide: no large part, a part that lies in shared memory already, a single way, a pool without a model
  #   2. masks: what the caller, the pool, the lane's worker and the breakers allow
  #   3. the policy's custom rules
  #   4. the table, which may explore between its two best ways, if both are allowed

  alias Snakepit.{Breaker, Telemetry, Transfer}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.CustomRules
  alias Snakepit.Pool.Handle
  alias Snakepit.Transfer.{Payload, Plan}
  alias Snakepit.Worker.Lane

  @decided [:snakepit, :performance, :decision]

  @doc """
  The plan of a call on `lane`, or on any (nil), whose request may take the ways of `request` and whose reply those of
  `reply`. If the decision fails, the ways are those of a pool that does not measure.
  """
  @spec plan(
          Handle.t(),
          Lane.t() | nil,
          Payload.t(),
          [Transfer.way(), ...],
          [Transfer.way(), ...],
          Model.mode()
        ) ::
          Plan.t()
  def plan(handle, lane, payload, request, reply, mode) do
    plan!(handle, lane, payload, request, reply, mode)
  catch
    kind, reason ->
      Model.failed(handle, :model, Exception.format_banner(kind, reason, __STACKTRACE__))
      fixed(:undecided, handle, lane, payload, request, reply)
  end

  @doc "As `plan/6`, but raises if the decision fails."
  @spec plan!(
          Handle.t(),
          Lane.t() | nil,
          Payload.t(),
          [Transfer.way(), ...],
          [Transfer.way(), ...],
          Model.mode()
        ) ::
          Plan.t()
  def plan!(handle, lane, %{bytes: 0} = payload, request, reply, _mode),
    do: fixed(:in_envelope, handle, lane, payload, request, reply)

  # Any other way would carry what lies in shared memory already.
  def plan!(handle, lane, %{bytes: bytes, fresh: fresh} = payload, request, reply, _mode) when fresh < bytes,
    do: %{fixed(:shared, handle, lane, payload, request, reply) | make_memory?: true}

  def plan!(handle, lane, payload, [_only] = request, reply, _mode),
    do: fixed(:only_way, handle, lane, payload, request, reply)

  def plan!(%{performance: %Model{ref: ref} = model} = handle, lane, payload, request, reply, mode)
      when ref != nil,
      do: decided(model, handle, lane, payload, request, reply, mode)

  def plan!(handle, lane, payload, request, reply, _mode),
    do: fixed(:not_measured, handle, lane, payload, request, reply)

  defp fixed(reason, handle, lane, payload, request, reply) do
    [wanted | _] = ways = Transfer.usual_order(payload.bytes, payload.envelope, request)
    # Inline always works: what comes after it does not matter.
    ways = if wanted == :inline, do: ways, else: ways |> able(lane) |> closed(handle)
    %Plan{request: ways, reply: able(reply, lane), reason: reason, wanted: wanted}
  end

  defp decided(model, handle, lane, payload, request, reply, mode) do
    preferred = CustomRules.preferred(handle, model.policy, payload)
    able = able(request, lane)
    # One breaker matters to a call: that of its first way. An explanation shows what all of them say.
    ways = if mode == :call, do: able, else: closed(able, handle)
    decision = decide(model, payload, ways, preferred, mode)
    [first | _] = elem(decision, 0)

    cond do
      mode == :call and refused?(first, handle) ->
        # Counted already, and nothing is explored where one of the two ways is left alone.
        decision = decide(model, payload, closed(able, handle), preferred, :look)
        planned(decision, wanted(model, payload, request, preferred), able(reply, lane))

      ways == request ->
        planned(decision, first, able(reply, lane))

      true ->
        planned(decision, wanted(model, payload, request, preferred), able(reply, lane))
    end
  end

  defp planned(decision, wanted, reply) do
    {ways, reason, explored?, propensity, predicted, confidence, threshold, version, make_memory?} = decision

    %Plan{
      request: ways,
      reply: reply,
      reason: reason,
      wanted: wanted,
      predicted: predicted,
      threshold: threshold,
      confidence: confidence,
      version: version,
      explored?: explored?,
      propensity: propensity,
      make_memory?: make_memory?
    }
  end

  defp decide(model, %{direction: direction, type: type, warm?: warm?} = payload, ways, preferred, mode),
    do:
      Model.decide(model, direction, type, warm?, Payload.each(payload), Transfer.mask(ways), preferred, mode)

  defp wanted(model, payload, request, preferred),
    do: model |> decide(payload, request, preferred, :look) |> elem(0) |> hd()

  # ---- masks ------------------------------------------------------------------------------------------------------

  # The ways that the lane's worker has. If it has none of them, all: trying says what is missing.
  defp able(ways, nil), do: ways
  defp able(ways, %Lane{zero_copy: true, grpc: true}), do: ways
  defp able(ways, lane), do: if_any(for(way <- ways, able?(way, lane), do: way), ways)

  defp able?(:inline, _lane), do: true
  defp able?(:zero_copy, lane), do: lane.zero_copy
  defp able?(:grpc, lane), do: lane.grpc

  # The ways that no breaker refuses. If it refuses all of them, all: the last is tried all the same, unless the caller
  # forced a way, whose refusal is the call's error.
  defp closed(ways, handle), do: if_any(for(way <- ways, not refused?(way, handle), do: way), ways)

  defp refused?(:inline, _handle), do: false
  defp refused?(way, %{breaker: breaker}), do: Breaker.refuses?(breaker, way)

  defp if_any([], ways), do: ways
  defp if_any(some, _ways), do: some

  # ---- events -----------------------------------------------------------------------------------------------------

  @doc "Emits a decision, and the way that was taken in the end; nothing where nothing was decided."
  @spec emit(Handle.t(), Payload.t(), Plan.t(), taken :: Transfer.way()) :: :ok
  def emit(_handle, _payload, %Plan{predicted: nil}, _taken), do: :ok

  def emit(handle, payload, plan, taken) do
    if Telemetry.listened_to?(@decided) do
      {explored?, propensity} = Plan.choice(plan, taken)

      Telemetry.execute(@decided, %{data_size: payload.bytes}, %{
        pool: handle.name,
        method: taken,
        planned: hd(plan.request),
        reason: plan.reason,
        explored?: explored?,
        propensity: propensity,
        data_type: payload.type
      })
    end

    :ok
  end
end
