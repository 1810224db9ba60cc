defmodule Snakepit.Test.WordsTest do
  use Snakepit.Case, async: true
  alias Snakepit.Test.Words

  # Words of few letters are often near each other, and often equally near.
  defp word(random, most) do
    {n, random} = :rand.uniform_s(most, random)

    Enum.reduce(1..n, {"", random}, fn _, {word, random} ->
      {i, random} = :rand.uniform_s(4, random)
      {word <> Enum.at(["a", "b", "c", "_"], i - 1), random}
    end)
  end

  test "the nearest words are those that Python's difflib finds" do
    {cases, _} =
      Enum.map_reduce(1..300, :rand.seed_s(:exsss, 1), fn _, random ->
        {word, random} = word(random, 8)
        {known, random} = Enum.map_reduce(1..6, random, fn _, random -> word(random, 8) end)
        {{word, Enum.uniq(known)}, random}
      end)

    given = for {word, known} <- cases, do: [word, known]
    shown = inspect(given, limit: :infinity, printable_limit: :infinity)
    code = "import difflib\nx = [difflib.get_close_matches(w, k, n=3, cutoff=0.5) for w, k in #{shown}]"
    {:ok, expected} = Snakepit.execute("python_value", %{code: code}, pool: pool!())
    assert Enum.count(expected, &(length(&1) > 1)) > 50

    for {{word, known}, near} <- Enum.zip(cases, expected),
        do: assert({word, Words.nearest(word, known)} == {word, near})
  end

  test "values are written as Python writes them" do
    values = [nil, true, false, 1, -2, 1.5, "", "a", "it's", ~s(say "it's"), "back\\slash", "é"]
    {:ok, expected} = Snakepit.execute("python_value", %{code: "x = None"}, pool: pool = pool!())
    assert expected == nil

    for value <- values do
      code = "x = repr(#{Words.repr(value)})"
      assert {:ok, Words.repr(value)} == Snakepit.execute("python_value", %{code: code}, pool: pool)
    end

    assert Words.repr([1]) == "..."
  end
end
