defmodule Snakepit.Python.Environment.Extras do
  @moduledoc false
  # Words of `with:` that name optional parts of Snakepit's own package, not packages of PyPI. Pure.

  @all ~w(numpy grpc ml_dtypes test)

  @doc "The extras among these words, and the others."
  @spec among([String.t()]) :: {extras :: [String.t()], others :: [String.t()]}
  def among(words) do
    {extras, others} = Enum.split_with(words, &(String.downcase(&1) in @all))
    {extras |> Enum.map(&String.downcase/1) |> complete(), others}
  end

  @doc "In their order, each once. The tests need all of them."
  @spec complete([String.t()]) :: [String.t()]
  def complete(extras), do: if("test" in extras, do: @all, else: Enum.filter(@all, &(&1 in extras)))

  @doc "The modules that workers import of them."
  @spec modules([String.t()]) :: [String.t()]
  def modules(extras), do: extras -- ["test"]
end
