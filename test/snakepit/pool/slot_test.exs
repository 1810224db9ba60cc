defmodule Snakepit.Pool.SlotTest do
  use Snakepit.Case, async: true
  import Snakepit.Properties
  alias Snakepit.Pool.Slot

  @facts %{now: 1_000, turn?: true, random: 0.5}

  defp error(words \\ "it died"), do: Error.new(:worker, :exited, words)

  defp ended(fields \\ []),
    do: Map.merge(%{error: error(), ready?: true, ran_ms: 100, at_once?: false}, Map.new(fields))

  # The slot after these events, and what was to be done last.
  defp after_events(slot_and_actions, events, facts \\ @facts) do
    Enum.reduce(events, slot_and_actions, fn event, {slot, _} -> Slot.handle(slot, event, facts) end)
  end

  defp ready(joining \\ nil), do: after_events(Slot.new(joining), [{:ready, 1, 500}]) |> elem(0)

  test "a new slot starts a run, which serves once it is ready" do
    {slot, actions} = Slot.new()
    assert actions == [{:start, 1, 0}]
    assert Slot.wants?(slot, 1) and not Slot.serving?(slot, 1)
    {slot, []} = Slot.handle(slot, {:ready, 1, 500}, @facts)
    assert Slot.serving?(slot, 1)
  end

  describe "a run that ends" do
    test "is followed by another: at once the first time, then after a backoff" do
      {slot, actions} = Slot.handle(ready(), {:ended, 1, ended()}, @facts)
      assert actions == [{:trouble, "it died"}, {:start, 2, 0}]
      assert slot.restarts == 1 and slot.last_error == "it died"
      {slot, _} = Slot.handle(slot, {:ready, 2, 600}, @facts)
      {slot, actions} = Slot.handle(slot, {:ended, 2, ended()}, @facts)
      assert [{:trouble, _}, {:start, 3, wait}] = actions
      assert wait > 0 and slot.restarts == 2
    end

    test "is followed by another at once if a command is to blame, however often" do
      {slot, actions} =
        Enum.reduce(1..20, {ready(), []}, fn id, {slot, _} ->
          after_events({slot, []}, [{:ready, id, 500}, {:ended, id, ended(at_once?: true)}])
        end)

      assert [{:trouble, _}, {:start, 21, 0}] = actions
      assert slot.restarts == 20
    end

    test "before any was ready fails the slot, which is not started again" do
      {slot, actions} = Slot.handle(elem(Slot.new(), 0), {:ended, 1, ended(ready?: false)}, @facts)
      assert actions == [{:failed, error()}]
      assert slot.run == nil and slot.restarts == 0
      assert {_, [{:answer, :me, {:error, _}}]} = Slot.handle(slot, {:renew, :me, 0, "why"}, @facts)
    end

    test "before it was ready is logged once for each cause, and tried again" do
      broken = &{:not_ready, &1, error(&2)}
      {slot, _} = Slot.handle(ready(), {:ended, 1, ended()}, @facts)
      {slot, actions} = Slot.handle(slot, broken.(2, "no such file"), @facts)
      assert [{:trouble, _}, {:log, {:not_started, "no such file"}}, {:start, 3, _}] = actions
      {slot, actions} = Slot.handle(slot, broken.(3, "no such file"), @facts)
      assert [{:trouble, _}, {:start, 4, _}] = actions
      {slot, actions} = Slot.handle(slot, broken.(4, "no rights"), @facts)
      assert {:log, {:not_started, "no rights"}} in actions
      {slot, _} = Slot.handle(slot, {:ready, 5, 900}, @facts)
      {_, actions} = after_events({slot, []}, [{:ended, 5, ended()}, broken.(6, "no rights")])
      assert {:log, {:not_started, "no rights"}} in actions
    end

    test "with the companion is tried again soon, which is no restart" do
      {slot, actions} = Slot.handle(elem(Slot.new(), 0), {:not_ready, 1, :companion_gone}, @facts)
      assert [{:start, 1, wait}] = actions
      assert wait > 0 and slot.restarts == 0 and Slot.wants?(slot, 1)
    end
  end

  describe "a pool that grows" do
    test "hears that the first run is ready, once" do
      {slot, actions} = after_events(Slot.new(:resizer), [{:ready, 1, 500}])
      assert actions == [{:joined, :resizer}]
      assert {_, []} = after_events({slot, []}, [{:ended, 1, ended()}, {:ready, 2, 700}])
    end

    test "hears why it cannot be" do
      assert {_, [{:not_joined, :resizer, %Error{}}]} =
               after_events(Slot.new(:resizer), [{:ended, 1, ended(ready?: false)}])
    end
  end

  describe "recycling" do
    test "the successor takes over when it is ready, and the old run departs" do
      {slot, actions} = Slot.handle(ready(), {:due, 1, "it is old"}, @facts)
      assert actions == [{:log, {:replaced, "it is old"}}, {:start, 2, 0}]
      assert Slot.serving?(slot, 1) and Slot.wants?(slot, 2)
      {slot, actions} = Slot.handle(slot, {:ready, 2, 900}, @facts)
      assert actions == [{:depart, 1}]
      assert Slot.serving?(slot, 2) and not Slot.wants?(slot, 1)
      # Its end is no concern of the slot's any more.
      assert {^slot, []} = Slot.handle(slot, {:ended, 1, ended()}, @facts)
    end

    test "waits for the successor of another slot, and for the slot's own" do
      assert {_, []} = Slot.handle(ready(), {:due, 1, "it is old"}, %{@facts | turn?: false})
      {slot, _} = Slot.handle(ready(), {:due, 1, "it is old"}, @facts)
      assert {^slot, []} = Slot.handle(slot, {:due, 1, "it is old"}, @facts)
    end

    test "a successor that does not start is logged; the run goes on, and the next try is later" do
      {slot, _} = Slot.handle(ready(), {:due, 1, "it is old"}, @facts)
      {slot, actions} = Slot.handle(slot, {:ended, 2, ended(ready?: false)}, @facts)
      assert [{:log, {:no_successor, %Error{}, "it is old"}}] = actions
      assert Slot.serving?(slot, 1)
      assert {_, []} = Slot.handle(slot, {:due, 1, "it is old"}, @facts)
      assert {_, [_log, {:start, 3, 0}]} = Slot.handle(slot, {:due, 1, "old"}, %{@facts | now: 60_000})
    end

    test "a run that dies meanwhile is not started again: its successor is on its way" do
      {slot, _} = Slot.handle(ready(), {:due, 1, "it is old"}, @facts)
      {slot, actions} = Slot.handle(slot, {:ended, 1, ended(at_once?: true)}, @facts)
      assert actions == [{:trouble, "it died"}]
      assert {_, []} = Slot.handle(slot, {:ready, 2, 900}, @facts)
      assert {_, actions} = Slot.handle(slot, {:ended, 2, ended(ready?: false)}, @facts)
      assert {:start, 3, 0} = List.last(actions)
    end
  end

  describe "renewal" do
    test "is answered at once if the run is young enough, else when its successor is ready" do
      assert {_, [{:answer, :me, :ok}]} = Slot.handle(ready(), {:renew, :me, 500, "a file changed"}, @facts)
      {slot, actions} = Slot.handle(ready(), {:renew, :me, 501, "a file changed"}, @facts)
      assert actions == [{:start, 2, 0}]
      {_, actions} = Slot.handle(slot, {:ready, 2, 900}, @facts)
      assert actions == [{:depart, 1}, {:answer, :me, :ok}]
    end

    test "waits for its turn" do
      {slot, actions} = Slot.handle(ready(), {:renew, :me, 501, "why"}, %{@facts | turn?: false})
      assert actions == []
      assert {_, [{:start, 2, 0}]} = Slot.handle(slot, :turn, @facts)
    end

    test "waits for a run that is starting" do
      {slot, []} = Slot.handle(elem(Slot.new(), 0), {:renew, :me, 400, "why"}, @facts)
      assert {_, [{:answer, :me, :ok}]} = Slot.handle(slot, {:ready, 1, 500}, @facts)
    end

    test "is answered with the error of its successor, and the run goes on without a log" do
      {slot, _} = Slot.handle(ready(), {:renew, :me, 501, "why"}, @facts)
      {slot, actions} = Slot.handle(slot, {:ended, 2, ended(ready?: false)}, @facts)
      assert actions == [{:answer, :me, {:error, error()}}]
      assert Slot.serving?(slot, 1)
    end
  end

  test "a slot that leaves answers who waits, lets a serving run finish, and stops what was never ready" do
    {slot, _} = Slot.handle(ready(), {:renew, :me, 501, "why"}, @facts)
    assert {_, [{:answer, :me, :ok}, {:depart, 1}, {:stop, 2}]} = Slot.handle(slot, :leave, @facts)
    assert {_, [{:stop, 1}]} = Slot.handle(elem(Slot.new(), 0), :leave, @facts)
  end

  describe "whatever happens" do
    # What happens, of a run that is picked by number among those that were started.
    defp happening do
      :proper_types.oneof([
        {:ready, 0},
        {:died, :proper_types.integer(0, 5), :proper_types.boolean()},
        {:not_ready, :proper_types.integer(0, 5)},
        {:gone, :proper_types.integer(0, 5)},
        {:due, 0},
        {:renew, :proper_types.integer(0, 2_000)},
        :turn
      ])
    end

    # Runs that the slot started and that did not end are `alive`. A run of the real world is ready once, and ends once.
    defp live(happenings) do
      first =
        apply_actions(elem(Slot.new(), 1), %{alive: [], ready: [], asked: [], answered: [], departed: []})

      Enum.reduce(Enum.with_index(happenings, 1), {elem(Slot.new(), 0), first}, fn {what, n}, {slot, world} ->
        {event, world} = event(what, n, world)

        if event do
          {slot, actions} = Slot.handle(slot, event, %{@facts | now: 1_000 * n})
          {slot, apply_actions(actions, world)}
        else
          {slot, world}
        end
      end)
    end

    defp event({:ready, _}, n, world) do
      case world.alive -- (world.ready ++ world.departed) do
        [id | _] -> {{:ready, id, 100 * n}, %{world | ready: [id | world.ready]}}
        [] -> {nil, world}
      end
    end

    defp event({:died, at, at_once?}, _n, world), do: over(at, world, at_once?)
    defp event({:not_ready, at}, _n, world), do: over(at, world, false)
    defp event({:gone, _at}, _n, %{alive: []} = world), do: {nil, world}

    defp event({:gone, at}, _n, world) do
      id = Enum.at(world.alive, rem(at, length(world.alive)))

      # Only a run that has no process yet finds the companion gone. It stays alive by being started once more.
      if id in world.ready,
        do: {nil, world},
        else: {{:not_ready, id, :companion_gone}, %{world | alive: List.delete(world.alive, id)}}
    end

    defp event({:due, _}, _n, world), do: {world.ready != [] && {:due, hd(world.ready), "it is due"}, world}

    defp event({:renew, as_of}, n, world),
      do: {{:renew, n, as_of, "w#{n}"}, %{world | asked: [n | world.asked]}}

    defp event(:turn, _n, world), do: {:turn, world}

    defp over(_at, %{alive: []} = world, _at_once?), do: {nil, world}

    defp over(at, world, at_once?) do
      id = Enum.at(world.alive, rem(at, length(world.alive)))
      ended = ended(ready?: id in world.ready, at_once?: at_once?)
      {{:ended, id, ended}, %{world | alive: List.delete(world.alive, id)}}
    end

    defp apply_actions(actions, world) do
      Enum.reduce(actions, world, fn
        {:start, id, _wait}, world -> %{world | alive: world.alive ++ [id]}
        {:depart, id}, world -> %{world | departed: [id | world.departed]}
        {:answer, from, _}, world -> %{world | answered: [from | world.answered]}
        _other, world -> world
      end)
    end

    test "a slot has a run that serves or is on its way, unless it failed; and no other" do
      holds(:proper_types.list(happening()), 2_000, fn happenings ->
        {slot, world} = live(happenings)
        wanted = for %{id: id} <- [slot.run, slot.successor], do: id
        wanted != [] != (slot.failed != nil) and Enum.sort(wanted) == Enum.sort(world.alive -- world.departed)
      end)
    end

    test "no run is started twice, and who wants a renewal is answered once or waits still" do
      holds(:proper_types.list(happening()), 2_000, fn happenings ->
        {slot, world} = live(happenings)
        waiting = for {from, _, _} <- slot.renewals, do: from

        Enum.uniq(world.alive) == world.alive and
          Enum.sort(world.answered ++ waiting) == Enum.sort(world.asked)
      end)
    end
  end
end
