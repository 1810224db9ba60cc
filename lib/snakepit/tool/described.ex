defmodule Snakepit.Tool.Described do
  @moduledoc false
  # A worker's description of its tools (native/PROTOCOL.md, `ready`) as `Snakepit.Tool`s. Its words are bytes from outside:
  # every one is checked, and no atom is made of them. How much it may say is bounded by its frame. Pure.

  alias Snakepit.Tool
  alias Snakepit.Tool.Parameter

  @kinds %{"function" => :function, "async" => :async, "stream" => :stream}
  @parameters ~w(plain positional_only keyword_only rest)

  @spec tools(term(), atom()) :: {:ok, [Tool.t()]} | :error
  def tools(said, pool) when is_list(said), do: all(said, &tool(&1, pool))
  def tools(_said, _pool), do: :error

  defp tool(%{"name" => name, "module" => module, "kind" => kind} = said, pool) do
    with true <- text?(name) and text?(module),
         {:ok, kind} <- Map.fetch(@kinds, kind),
         {:ok, [file, returns, doc]} <- all(Enum.map(~w(file returns doc), &said[&1]), &text_or_nil/1),
         {:ok, line} <- line(said["line"]),
         {:ok, parameters} <- parameters(said["parameters"]),
         {:ok, writable} <- texts(said["writable"]) do
      {:ok,
       %Tool{
         name: kept(name),
         pool: pool,
         module: kept(module),
         file: file,
         line: line,
         kind: kind,
         parameters: parameters,
         returns: returns,
         doc: doc,
         writable: writable
       }}
    else
      _ -> :error
    end
  end

  defp tool(_said, _pool), do: :error

  defp parameters(said) when is_list(said), do: all(said, &parameter/1)
  defp parameters(_said), do: :error

  defp parameter(%{"name" => name, "kind" => kind} = said) when kind in @parameters do
    with true <- text?(name),
         {:ok, [annotation, default]} <- all([said["annotation"], said["default"]], &text_or_nil/1) do
      {:ok,
       %Parameter{
         name: kept(name),
         annotation: annotation,
         default: default,
         required?: default == nil and kind != "rest",
         keyword_only?: kind == "keyword_only",
         rest?: kind == "rest"
       }}
    else
      _ -> :error
    end
  end

  defp parameter(_said), do: :error

  defp line(nil), do: {:ok, nil}
  defp line(line) when is_integer(line) and line >= 0 and line < 0x1_0000_0000, do: {:ok, line}
  defp line(_said), do: :error

  defp texts(said) when is_list(said), do: all(said, &if(text?(&1), do: {:ok, kept(&1)}, else: :error))
  defp texts(_said), do: :error

  defp text_or_nil(nil), do: {:ok, nil}
  defp text_or_nil(said), do: if(text?(said), do: {:ok, kept(said)}, else: :error)

  defp text?(said), do: is_binary(said) and String.valid?(said)

  # It would hold all that came in the same frame.
  defp kept(text), do: :binary.copy(text)

  # `length` in a guard: an improper list is none.
  defp all(said, one) when length(said) >= 0 do
    Enum.reduce_while(said, {:ok, []}, fn item, {:ok, done} ->
      case one.(item) do
        {:ok, read} -> {:cont, {:ok, [read | done]}}
        :error -> {:halt, :error}
      end
    end)
    |> case do
      {:ok, done} -> {:ok, Enum.reverse(done)}
      :error -> :error
    end
  end

  defp all(_said, _one), do: :error
end
