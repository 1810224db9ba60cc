defmodule Snakepit.Bench.JsonTest do
  use ExUnit.Case, async: true
  alias Snakepit.Bench.Json

  defp round_trip(term), do: term |> Json.encode() |> IO.iodata_to_binary() |> Json.decode()

  test "what is written is read" do
    for term <- [
          nil,
          true,
          0,
          -12,
          1.5,
          1.0e-7,
          1.0e300,
          "",
          "µs \"quoted\" \\ \n\u0001",
          [],
          [1, [2, []]],
          %{},
          %{"a" => %{"b" => [nil, false]}}
        ],
        do: assert(round_trip(term) == {:ok, term})

    assert round_trip(%{name: :x}) == {:ok, %{"name" => "x"}}
  end

  test "as others write it" do
    assert Json.decode(~s( { "a" : [ 1 , 2.50e+1 ] ,\n"b":"\\u00b5\\/\\t" } )) ==
             {:ok, %{"a" => [1, 25.0], "b" => "µ/\t"}}
  end

  test "what is no JSON is an error that says where" do
    for text <- [
          "",
          "{",
          "[1,]",
          "{\"a\"}",
          "{\"a\":1,}",
          "\"x",
          "01",
          "1.",
          "nul",
          "[1] 2",
          "\"\\x\"",
          "\"\\ud800\"",
          <<?", 255, ?">>
        ] do
      assert {:error, why} = Json.decode(text)
      assert why =~ "at byte"
    end

    assert {:error, why} = Json.decode(String.duplicate("[", 100_000))
    assert why =~ "in one another"
    assert {:error, _} = Json.decode("1e9999")
  end
end
