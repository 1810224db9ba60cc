defmodule Snakepit.Performance.ExplanationTest do
  # The words; what a pool's table says is tested with a pool (controller_test.exs).
  use ExUnit.Case, async: true
  alias Snakepit.Performance.Explanation

  @kib 1024

  # {first size, way, reason} of each range.
  defp text(request, crossover) do
    ranges =
      for {from, way, reason} <- request,
          do: %{from: from, to: 1024 ** 3, way: way, reason: reason, latency_us: {1.0, 2.0}, runner_up: nil}

    reply = [%{hd(ranges) | from: @kib, way: :inline, reason: :cheapest}]
    fields = [pool: :x, goal: :balanced, data_type: :binary, request: ranges, reply: reply]
    to_string(struct!(Explanation, fields ++ [crossover: %{request: crossover, reply: nil}]))
  end

  test "what is said under a table is what the table shows, with or without an interval" do
    measured = [{@kib, :inline, :cheapest}, {16 * @kib, :inline, :tie}, {40 * @kib, :zero_copy, :cheapest}]
    line = "Shared memory is taken from 40.0 KiB on; "
    assert text(measured, nil) =~ line <> "this was measured, and has no interval until all sizes are.\n"
    interval = {28 * @kib, 20 * @kib, 41 * @kib}

    assert text(measured, interval) =~
             line <> "it is cheapest from 28.0 KiB on (95 %: 20.0 KiB to 41.0 KiB).\n"

    # The last range is not measured; where shared memory begins is.
    assert text(measured ++ [{@kib ** 2, :zero_copy, :rule}], nil) =~ line <> "this was measured"

    rule = [{@kib, :inline, :rule}, {40 * @kib, :zero_copy, :rule}]
    assert text(rule, nil) =~ line <> "from where on it is cheapest is not known.\n"
    set = [{@kib, :inline, :override}, {40 * @kib, :zero_copy, :override}]
    assert text(set, nil) =~ line <> "this was set; from where on it is cheapest is not known.\n"
  end

  test "shared memory at every size, at none, or not for the largest" do
    assert text([{@kib, :zero_copy, :cheapest}], nil) =~
             "Shared memory is taken at every size; this was measured"

    assert text([{@kib, :inline, :cheapest}], nil) =~ "Shared memory is taken at no size; from where on"

    middle = [{@kib, :inline, :cheapest}, {2 * @kib, :zero_copy, :cheapest}, {4 * @kib, :inline, :cheapest}]
    assert text(middle, nil) =~ "Shared memory is not taken for the largest; "
    again = middle ++ [{8 * @kib, :zero_copy, :cheapest}]
    assert text(again, nil) =~ "Shared memory is taken from 8.0 KiB on; "
  end
end
