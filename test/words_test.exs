defmodule Snakepit.WordsTest do
  # One word for one thing: the glossary of ARCHITECTURE.md. These were in use once, and must not come back.
  use ExUnit.Case, async: true

  # What is not to be written, and what to write instead. A word stands alone, or as a part of an identifier.
  @retired [
    {~r/(?<![a-z])desks?(?![a-z])/i, "checkout queue"},
    {~r/(?<![a-z])tickets?(?![a-z])/i, "checkout"},
    {~r/(?<![a-z])settle[sd]?(?=[_(\/])|_settled?\b|:settled?\b/, "recover (a lane), or what is done"},
    {~r/undertaker/i, "chunk reaper"},
    {~r/(?<![a-z])keepers?(?![a-z])/i, "arena maintenance"},
    {~r/patience/i, "a name for what is waited for"},
    {~r/(?<![a-z])awake(?![a-z])/i, "spin"},
    {~r/(?<![a-z])moods?(?![a-z])/i, "drift factor"},
    {~r/(?<![a-z])brains?(?![a-z])/i, "cost model"},
    {~r/(?<![a-z])moments_|_moments(?![a-z])/i, "datetimes"},
    {~r/survey/i, "validation"},
    {~r/(?<![a-z])hint(s|ed)?(?![a-z])/i, "suggestion"},
    {~r/(?<![a-z])liars?(?![a-z])/i, "malicious worker"},
    {~r/(?<![a-z])zoo(?![a-z])/i, "misbehaving workers"},
    {~r/(?<![a-z])told(?![a-z])(?! apart)|\btell(?=[(_])|(?<=[a-z])_tell\b|\b_tell\b|(?<=[.:])tell\b(?=[ ,)=(])/i,
     "emit, cast, send, log, report or forward"},
    {~r/(?<![a-z])epoch(?![a-z])/i, "run"},
    {~r/\bguard(?=[:?])|(?<=[a-z]\.)guard\b/, "watchdog, permit or probe"},
    {~r/(?<![a-z_])moment(?=\()|MOMENT/, "the name of what is waited for"},
    {~r/(?<![a-z])segments?(?![a-z])/i, "chunk"}
  ]

  # Other meanings: a guard of a clause, type hints of Python's, `std::hint`, `size_hint`, a word of pip's output.
  @others %{
    "bench/native/src/lib.rs" => ~w(hint),
    "native/snakepit_core/benches/work/mod.rs" => ~w(hint),
    "native/snakepit_grpc/src/wire.rs" => ~w(hint),
    "lib/snakepit/python/environment/failure.ex" => ~w(hint),
    "lib/snakepit/options.ex" => ~w(guard),
    "lib/snakepit/tool/described.ex" => ~w(guard),
    "priv/python/snakepit/tools/fields.py" => ~w(hint hints),
    "priv/python/snakepit/tools/returns.py" => ~w(hints)
  }

  @nouns ~r/(?:(?<!#)#|\/\/[!\/]?|@doc "|""")\s*(?:Of|Who|Whose|What) [a-z]/

  @left_out ["CHANGELOG.md", "Cargo.lock", "test/words_test.exs"]

  test "retired words have not come back" do
    assert Enum.flat_map(files(), &found/1) == []
  end

  test "each of them would be found" do
    for text <- [
          "the desk",
          "a Ticket",
          "def settle(lane)",
          "Undertaker",
          "class Keeper:",
          "_PATIENCE = 5",
          "AWAKE",
          "mood",
          "brain.rs",
          "_MOMENTS",
          "survey(x)",
          "hint_for",
          "a liar",
          "zoo_test",
          "defp tell(x)",
          "self._told",
          "whoever waits is told",
          "lane.epoch",
          "%{guard: nil}",
          "LAST_MOMENT",
          "a shared segment"
        ] do
      assert [_ | _] = found_in("x.ex", text), text
    end

    for text <- ["asked again and told apart", "in a moment", "at once, it settles"],
        do: assert(found_in("x.ex", text) == [])
  end

  test "no sentence of a comment begins with a noun made of Of, Who, Whose or What" do
    sources = Enum.filter(files(), &(&1 =~ ~r{\A(lib|native|priv/python)/.*\.(ex|rs|py)\z}))
    assert length(sources) > 300

    found =
      for file <- sources,
          {line, number} <- file |> File.read!() |> String.split("\n") |> Enum.with_index(1),
          line =~ @nouns,
          do: "#{file}:#{number}: #{String.trim(line)}"

    assert found == []
    assert "  # Of two lanes, the first." =~ @nouns
    refute "  ## What was called" =~ @nouns
  end

  defp files do
    {names, 0} = System.cmd("git", ["ls-files", "-z"])

    names
    |> String.split(<<0>>, trim: true)
    |> Enum.reject(&(&1 in @left_out or String.starts_with?(&1, "bench/results/")))
    |> Enum.filter(&File.regular?/1)
  end

  defp found(file) do
    text = File.read!(file)
    if String.valid?(text), do: found_in(file, text), else: []
  end

  defp found_in(file, text) do
    for {line, number} <- text |> String.split("\n") |> Enum.with_index(1),
        {word, instead} <- @retired,
        [found | _] <- Regex.scan(word, line),
        found not in Map.get(@others, file, []),
        do:
          "#{file}:#{number}: #{String.trim(found)}: write #{instead}: #{line |> String.trim() |> String.slice(0, 100)}"
  end
end
