defmodule Snakepit.Bench.Suite do
  @moduledoc """
  One suite of `mix snakepit.bench`.

  A suite measures floors in the same run as what it compares with them, interleaved, checks the result of everything it
  times, and reports medians with a bootstrap interval.
  """

  alias Snakepit.Bench.Result

  @type options :: %{quick?: boolean(), minutes: float()}
  @type context :: %{
          quick?: boolean(),
          minutes: float(),
          has: [String.t()],
          progress: (String.t() -> any()),
          keep: ([Result.t()] -> any())
        }

  @doc "The word on the command line."
  @callback name() :: String.t()

  @doc "One line on what it measures."
  @callback about() :: String.t()

  @doc "About how many seconds it takes."
  @callback seconds(options()) :: pos_integer()

  @doc "The Python packages without which it can measure nothing, of those that `mix snakepit.setup --with` installs."
  @callback needs() :: [String.t()]

  @doc "Those without which some of its figures are absent."
  @callback wants() :: [String.t()]

  @optional_callbacks needs: 0, wants: 0

  @doc """
  Measures. `has` names the packages of `c:needs/0` and `c:wants/0` that are there. `progress` is called with what is being done; results may come in any order. A suite that takes minutes gives what it
  has to `keep` as it goes, should the run be broken off, and returns all of it all the same. Raises when a result is wrong.
  """
  @callback run(context()) :: [Result.t()]
end
