defmodule Snakepit.Pool.Elsewhere do
  @moduledoc false
  # The error of a call of a tool that its pool does not have names the pools that do.

  alias Snakepit.Error
  alias Snakepit.Pool.{Handle, Tools}

  @doc "The error with the pools that have it, if there are any."
  @spec add(Error.t(), Handle.t(), String.t()) :: Error.t()
  def add(%Error{} = error, %Handle{name: pool}, command) do
    others =
      for name <- Enum.sort(Handle.names()),
          name != pool,
          {:ok, handle} <- [Handle.fetch(name)],
          Tools.has?(handle, command),
          do: name

    case others do
      [] ->
        error

      [first | _] ->
        have =
          if length(others) == 1,
            do: "pool #{inspect(first)} has it",
            else: "pools #{Enum.map_join(others, ", ", &inspect/1)} have it"

        words =
          "pool #{inspect(pool)} has no tool '#{command}'; #{have}: pass pool: #{inspect(first)}#{near(error.details)}"

        %{error | message: words, details: Map.put(error.details, :pools, others)}
    end
  end

  defp near(%{nearest: [_ | _] = names}) do
    if Enum.all?(names, &is_binary/1), do: "; or did you mean #{Enum.join(names, " or ")}?", else: ""
  end

  defp near(_details), do: ""
end
