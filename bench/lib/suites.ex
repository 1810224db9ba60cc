defmodule Snakepit.Bench.Suites do
  @moduledoc false
  # Which suites there are.

  alias Snakepit.Bench

  @doc "Every suite, in the order in which they run."
  @spec all() :: [module()]
  def all,
    do: [
      Bench.Calls,
      Bench.Transfer,
      Bench.Terms,
      Bench.Decision,
      Bench.Regret,
      Bench.Learning,
      Bench.Peers,
      Bench.Scale,
      Bench.Chaos,
      Bench.Faults,
      Bench.Soak
    ]

  @doc "The suites that run when none is named; the others take long."
  @spec usual() :: [module()]
  def usual, do: [Bench.Calls, Bench.Transfer]
end
