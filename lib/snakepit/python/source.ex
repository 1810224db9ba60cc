defmodule Snakepit.Python.Source do
  @moduledoc false
  # Python source that stands in the place of an interpreter: `python:` of a pool.

  @doc "Whether a `:python` is source: it has a line break, which no program's name has."
  @spec source?(term()) :: boolean()
  def source?(python), do: is_binary(python) and String.contains?(python, ["\n", "\r"])
end
