defmodule Snakepit.Pool.SessionTest do
  use ExUnit.Case, async: true
  alias Snakepit.Pool.Session

  @sessions for n <- 1..20_000, do: "session #{n}"

  test "a session has one of the pool's workers, and all of them have about as many" do
    for size <- [1, 2, 3, 5, 8, 13] do
      counts = Enum.frequencies_by(@sessions, &Session.worker(&1, size))
      assert Map.keys(counts) |> Enum.sort() == Enum.to_list(0..(size - 1))
      each = length(@sessions) / size
      for {_worker, count} <- counts, do: assert_in_delta(count, each, 6 * :math.sqrt(each))
    end
  end

  test "of a pool that grows, sessions move to its new workers alone, and no more than they must take" do
    for size <- 1..12, more <- [size + 1, 2 * size, 17] do
      moved =
        for session <- @sessions,
            before = Session.worker(session, size),
            after_ = Session.worker(session, more),
            before != after_,
            do: after_

      assert Enum.all?(moved, &(&1 >= size))
      share = length(@sessions) * (more - size) / more
      assert_in_delta length(moved), share, 6 * :math.sqrt(share)
    end
  end
end
