defmodule Snakepit.Worker.Hello do
  @moduledoc false
  # A worker's first words: whether it is the one that was started, and what it can do. Pure.

  alias Snakepit.{Error, Python}

  @protocol 1
  @version Mix.Project.config()[:version]

  @type info :: %{python: String.t(), capabilities: [String.t()]}

  @doc "`options`: the pool's."
  @spec check(map(), token :: binary(), options :: map()) :: {:ok, info()} | {:error, String.t() | Error.t()}
  def check(hello, token, options) do
    cond do
      not is_binary(hello["token"]) or not same?(hello["token"], token) ->
        {:error, "the worker's token is not the one it was given"}

      hello["protocol"] != @protocol ->
        {:error, "the worker speaks protocol #{inspect(hello["protocol"])}, this is #{@protocol}"}

      hello["version"] != @version ->
        {:error, "the worker is of version #{inspect(hello["version"])}, this is #{@version}"}

      not (is_binary(hello["python"]) and strings?(hello["capabilities"])) ->
        {:error, "the worker does not say what it is able to do"}

      error = incapable(options, hello["capabilities"]) ->
        {:error, error}

      true ->
        {:ok, %{python: hello["python"], capabilities: hello["capabilities"]}}
    end
  end

  # None of the pool's ways is one that this worker can go.
  defp incapable(%{transfers: transfers, name: name}, capabilities) do
    unless Enum.any?(transfers, &(to_string(&1) in capabilities)) do
      suggestion = if :grpc in transfers, do: Python.advice("grpc"), else: ""
      ways = Enum.map_join(transfers, ", ", &inspect/1)
      words = "pool #{inspect(name)}: its Python can go none of the ways in :transfers (#{ways})#{suggestion}"
      Error.new(:pool, :not_capable, words, pool: name)
    end
  end

  defp strings?(list), do: is_list(list) and Enum.all?(list, &is_binary/1)

  # Takes as long for any two tokens of one length.
  defp same?(a, b) when byte_size(a) == byte_size(b), do: :crypto.hash_equals(a, b)
  defp same?(_a, _b), do: false
end
