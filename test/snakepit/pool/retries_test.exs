defmodule Snakepit.Pool.RetriesTest do
  use ExUnit.Case, async: true
  alias Snakepit.Pool.Retries

  defp spend_all(ref, n \\ 0) do
    case Retries.spend(ref, 0, 0.0) do
      {:ok, 0} -> spend_all(ref, n + 1)
      :exhausted -> n
    end
  end

  test "a reserve, then one for ten calls, up to a cap" do
    ref = Retries.new()
    assert spend_all(ref) == 10
    for _ <- 1..39, do: Retries.earn(ref)
    assert spend_all(ref) == 3
    for _ <- 1..100_000, do: Retries.earn(ref)
    assert Retries.left(ref) == 100
    assert spend_all(ref) == 100
  end

  test "one call has three, with growing jitter" do
    ref = Retries.new()
    assert {:ok, 4} = Retries.spend(ref, 0, 0.99)
    assert {:ok, 9} = Retries.spend(ref, 1, 0.99)
    assert {:ok, 0} = Retries.spend(ref, 2, 0.0)
    assert :exhausted = Retries.spend(ref, 3, 0.0)
    assert Retries.left(ref) == 7
  end

  test "callers at once never spend more than there is" do
    ref = Retries.new()
    for _ <- 1..200, do: Retries.earn(ref)
    spent = 1..8 |> Task.async_stream(fn _ -> spend_all(ref) end) |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    assert spent <= 30
    assert Retries.left(ref) == 30 - spent
  end
end
