defmodule Snakepit.Performance.Model.Rules do
  @moduledoc false
  # Asks a policy's custom rules. One that raises, or returns what is no way, is reported once and passed over.

  alias Snakepit.{Performance, Transfer}
  alias Snakepit.Pool.Handle
  require Logger

  @doc "The ways in `order`, that one first which a rule of the pool's wants for such arguments."
  @spec reorder(
          [Transfer.way()],
          Handle.t(),
          Performance.data_type(),
          non_neg_integer()
        ) :: [Transfer.way()]
  def reorder(order, %Handle{policy: %{custom_rules: []}}, _type, _size), do: order

  def reorder(order, %Handle{policy: %{custom_rules: rules}} = handle, type, size) do
    format = Performance.format(type)
    facts = %{pool: handle.name, direction: :request, data_size: size, data_type: type, format: format}

    case Enum.find_value(rules, &said(&1, facts)) do
      nil -> order
      way -> [way | List.delete(order, way)]
    end
  end

  defp said(rule, facts) do
    case call(rule, facts) do
      :default -> nil
      way when way in [:zero_copy, :inline, :grpc] -> way
      other -> complain(rule, facts, "Got: #{inspect(other, limit: 5)}")
    end
  rescue
    error -> complain(rule, facts, "It raised: #{Exception.message(error)}")
  catch
    kind, what -> complain(rule, facts, "Got: #{kind} #{inspect(what, limit: 5)}")
  end

  defp call({module, function}, facts), do: apply(module, function, [facts])
  defp call(rule, facts), do: rule.(facts)

  defp complain(rule, facts, got) do
    key = {__MODULE__, facts.pool, rule}

    # A race reports it twice, which does no harm.
    unless :persistent_term.get(key, false) do
      :persistent_term.put(key, true)

      Logger.error(
        "pool #{inspect(facts.pool)}: the custom rule #{inspect(rule)} is ignored. Expected: :zero_copy, :inline, :grpc or :default. #{got}"
      )
    end

    nil
  end
end
