defmodule Snakepit.Worker.HeartTest do
  use ExUnit.Case, async: true
  alias Snakepit.Worker.Heart

  test "asks, and asks again once it was answered" do
    heart = Heart.new(100, 1000)
    assert {:ping, 1, heart} = Heart.beat(heart, 0, nil)
    assert :wait = Heart.beat(heart, 100, "R")
    assert :wait = Heart.beat(Heart.pong(heart, 7), 100, "S")
    assert {:ping, 2, heart} = heart |> Heart.pong(1) |> Heart.beat(200, "S")
    assert :wait = heart |> Heart.pong(1) |> Heart.beat(300, "S")
  end

  test "patience with one that runs, none with one that is stopped" do
    {:ping, 1, heart} = Heart.beat(Heart.new(100, 1000), 0, nil)
    assert :wait = Heart.beat(heart, 999, "R")
    assert {:dead, why} = Heart.beat(heart, 1000, "R")
    assert why =~ "1000 ms"
    assert {:dead, why} = Heart.beat(heart, 100, "T")
    assert why =~ "stopped"
  end
end
