defmodule Snakepit.Worker.Capabilities do
  @moduledoc false
  # What a worker's interpreter can do, against what its pool's options ask for.

  alias Snakepit.{Error, Pool, Python}

  @doc "The error of a pool none of whose ways this worker can go; `nil` if there is one."
  @spec missing(Pool.Options.t(), map()) :: Error.t() | nil
  def missing(%Pool.Options{transfers: transfers, name: name}, hello) do
    capabilities = List.wrap(hello["capabilities"])

    unless Enum.any?(transfers, &(to_string(&1) in capabilities)) do
      hint = if :grpc in transfers, do: Python.advice("grpc"), else: ""
      ways = Enum.map_join(transfers, ", ", &inspect/1)
      words = "pool #{inspect(name)}: its Python can go none of the ways in :transfers (#{ways})#{hint}"
      Error.new(:pool, :not_capable, words, pool: name)
    end
  end
end
