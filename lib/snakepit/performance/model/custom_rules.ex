defmodule Snakepit.Performance.Model.CustomRules do
  @moduledoc false
  # Asks a policy's custom rules. A rule that raises, or returns something that is no way, is passed over: each time is
  # counted and emitted, the first is logged.

  alias Snakepit.{Performance, Transfer}
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Policy
  alias Snakepit.Pool.Handle
  alias Snakepit.Transfer.Payload
  require Logger

  @doc "The way that a rule of the pool's wants for such arguments; nil if none wants any."
  @spec preferred(Handle.t(), Policy.t(), Payload.t()) :: Transfer.way() | nil
  def preferred(_handle, %{custom_rules: []}, _payload), do: nil
  # Rules are asked of arguments: a worker, which decides for results, knows none.
  def preferred(_handle, _policy, %{direction: :reply}), do: nil

  def preferred(handle, %{custom_rules: rules}, %{type: type, bytes: bytes}) do
    format = Performance.format(type)
    facts = %{pool: handle.name, direction: :request, data_size: bytes, data_type: type, format: format}
    Enum.find_value(rules, &ask(&1, facts, handle))
  end

  defp ask(rule, facts, handle) do
    case call(rule, facts) do
      :default -> nil
      way when way in [:zero_copy, :inline, :grpc] -> way
      other -> failed(rule, handle, "Got: #{inspect(other, limit: 5)}")
    end
  rescue
    error -> failed(rule, handle, "It raised: #{Exception.message(error)}")
  catch
    kind, what -> failed(rule, handle, "Got: #{kind} #{inspect(what, limit: 5)}")
  end

  defp call({module, function}, facts), do: apply(module, function, [facts])
  defp call(rule, facts), do: rule.(facts)

  defp failed(rule, handle, got) do
    Model.failed(handle, :custom_rule, got)
    key = {__MODULE__, handle.name, rule}

    # A race logs it twice, which does no harm.
    unless :persistent_term.get(key, false) do
      :persistent_term.put(key, true)

      Logger.error(
        "pool #{inspect(handle.name)}: the custom rule #{inspect(rule)} is ignored. Expected: :zero_copy, :inline, :grpc or :default. #{got}"
      )
    end

    nil
  end
end
