defmodule Snakepit.Worker.Recycling do
  @moduledoc false
  # When a worker that works is replaced by a new one: by age, calls or memory. Pure.

  alias Snakepit.Terminal.Units

  @type vitals :: %{age_ms: non_neg_integer(), calls: non_neg_integer(), pss: non_neg_integer() | nil}

  @doc "Whether anything of it is configured."
  @spec wanted?(map()) :: boolean()
  def wanted?(o),
    do: o.worker_ttl != :infinity or o.worker_max_requests != nil or o.memory_threshold_mb != nil

  @doc "Whether this many bytes are more than it should hold."
  @spec exceeds?(map(), non_neg_integer()) :: boolean()
  def exceeds?(%{memory_threshold_mb: mb}, pss), do: mb != nil and pss > mb * 1024 * 1024

  @doc "Why it is time, in words; `nil` while it is not."
  @spec due(map(), vitals()) :: String.t() | nil
  def due(options, %{age_ms: age, calls: calls, pss: pss}) do
    cond do
      options.worker_ttl != :infinity and age >= options.worker_ttl ->
        "it ran for #{options.worker_ttl} ms (:worker_ttl)"

      options.worker_max_requests != nil and calls >= options.worker_max_requests ->
        "it served #{Units.counted(calls, "call")} (:worker_max_requests is #{options.worker_max_requests})"

      is_integer(pss) and exceeds?(options, pss) ->
        "it holds #{div(pss, 1024 * 1024)} MiB (:memory_threshold_mb is #{options.memory_threshold_mb})"

      true ->
        nil
    end
  end
end
