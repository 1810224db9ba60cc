defmodule Snakepit.Python.Environment.PlanTest do
  use ExUnit.Case, async: true
  alias Snakepit.Python.Environment.{Options, Plan, Stamp}

  defp options(given \\ []) do
    {:ok, options} = Options.new(given)
    options
  end

  defp stamp(fields \\ []) do
    struct!(
      %Stamp{
        package: "p",
        version: "3.11.7",
        base: "/usr",
        extras: ["numpy"],
        digest: "d",
        asked: ["pandas==1", "six"]
      },
      fields
    )
  end

  defp texts(requirements), do: requirements |> Enum.map(& &1.text) |> Enum.sort()

  defp wanted(given, configured \\ [], stamp \\ stamp()) do
    {:ok, configured} = Plan.parsed(configured, "")
    {:ok, wanted} = Plan.wanted(options(given), configured, stamp)
    {wanted.extras, texts(wanted.asked), texts(wanted.requirements)}
  end

  test "requirements of earlier runs stay; a later one for the same package wins, and the configuration over earlier runs" do
    assert wanted([]) == {["numpy"], ["pandas==1", "six"], ["pandas==1", "six"]}
    assert wanted(with: "grpc,pandas>=2") == {["numpy", "grpc"], ["pandas>=2", "six"], ["pandas>=2", "six"]}
    assert wanted([], ["pandas==3"]) == {["numpy"], ["pandas==1", "six"], ["pandas==3", "six"]}

    assert wanted([with: "pandas==4"], ["pandas==3"]) ==
             {["numpy"], ["pandas==4", "six"], ["pandas==4", "six"]}

    assert wanted(force: true) == {["numpy"], ["pandas==1", "six"], ["pandas==1", "six"]}
    assert wanted([force: true, forget: true, with: "x"], ["y"]) == {[], ["x"], ["x", "y"]}
    assert wanted([with: "numpy"], [], nil) == {["numpy"], [], []}
    # Those of Snakepit's own, spelled as people do; with a version they are packages as any.
    assert wanted([with: "NumPy"], [], nil) == {["numpy"], [], []}
    assert wanted([with: "numpy==2.0"], [], nil) == {[], ["numpy==2.0"], ["numpy==2.0"]}
  end

  test "a missing file that an earlier run asked for is an error that says so" do
    assert {:error, message} = Plan.wanted(options(), [], stamp(asked: ["-r /no/such/r.txt"]))

    assert message =~
             "/no/such/r.txt, which an earlier run asked for: name it anew, or leave it out with --force --forget"
  end

  test "a complete environment is left alone, an incomplete one extended, a broken one made anew" do
    python = %{version: "3.11.7", release: {3, 11}}
    facts = %{stamp: stamp(), package: "p", digest: "d", python: python, base: nil}
    {:ok, wanted} = Plan.wanted(options(), [], stamp())
    decide = fn given, change -> Plan.decide(options(given), wanted, Map.merge(facts, change)) end

    assert decide.([], %{}) == :nothing
    assert decide.([], %{digest: "other"}) == :install
    assert decide.([], %{package: "other"}) == :install
    assert decide.([], %{stamp: nil}) == :install
    assert decide.([], %{stamp: stamp(package: "unfinished")}) == :install
    assert decide.([], %{python: %{python | version: "3.11.9"}}) == :install
    assert decide.([force: true], %{}) == :make
    assert decide.([], %{python: nil}) == :make
    assert decide.([], %{python: %{python | release: {3, 10}}}) == :make
    assert decide.([], %{base: %{prefix: "/usr"}}) == :nothing
    assert decide.([], %{base: %{prefix: "/opt"}}) == :make
    {:ok, more} = Plan.wanted(options(with: "grpc"), [], stamp())
    assert Plan.decide(options(), more, facts) == :install
  end
end
