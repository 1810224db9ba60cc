defmodule Snakepit.Worker.HeartTest do
  use ExUnit.Case, async: true
  alias Snakepit.Worker.Heart

  test "asks, and asks again once it was answered" do
    heart = Heart.new(100, 1000)
    assert {:ping, 1, heart} = Heart.beat(heart, 0, nil)
    assert {:wait, heart} = Heart.beat(heart, 100, "R")
    assert {:wait, heart} = heart |> Heart.pong(7) |> Heart.beat(200, "S")
    assert {:ping, 2, heart} = heart |> Heart.pong(1) |> Heart.beat(300, "S")
    assert {:wait, _} = heart |> Heart.pong(1) |> Heart.beat(400, "S")
  end

  test "a process that runs is waited for, one that is stopped is not" do
    {:ping, 1, asked} = Heart.beat(Heart.new(100, 1000), 0, nil)

    heart =
      Enum.reduce(1..9, asked, fn n, heart ->
        assert {:wait, heart} = Heart.beat(heart, n * 100, "R")
        heart
      end)

    # The time that was given, not when somebody looked.
    assert {:dead, "it did not answer a heartbeat within 1000 ms (:heartbeat_grace)"} =
             Heart.beat(heart, 1003, "R")

    assert {:dead, why} = Heart.beat(asked, 100, "T")
    assert why =~ "stopped"
  end

  test "who was stopped itself begins anew" do
    {:ping, 1, heart} = Heart.beat(Heart.new(100, 1000), 0, nil)
    assert {:wait, heart} = Heart.beat(heart, 60_000, "T")
    assert {:wait, heart} = Heart.beat(heart, 60_100, "S")
    assert {:ping, 2, _} = heart |> Heart.pong(1) |> Heart.beat(60_200, "S")
  end
end
