defmodule Snakepit.Performance.TransferMetrics do
  @moduledoc """
  What one transfer took, in the specification's fields.

  `latency_us` is the time of a call beside its tool and its wait for a lane; `method`, `data_type` and `data_size` are those
  of its larger direction. `throughput_mbps` is in megabytes (10^6 bytes) a second: bytes over microseconds.
  `prediction_error` is |actual − predicted| / actual. `timestamp` is right within a second. A figure that nobody measured is `nil`.
  """

  alias Snakepit.Performance

  @type t :: %__MODULE__{
          transfer_id: String.t(),
          timestamp: DateTime.t(),
          pool: atom(),
          method: Snakepit.Transfer.way(),
          data_size: non_neg_integer(),
          data_type: atom(),
          format: atom(),
          compression: boolean(),
          latency_us: non_neg_integer(),
          throughput_mbps: float(),
          memory_used: non_neg_integer(),
          cpu_time_us: non_neg_integer() | nil,
          decision_time_us: non_neg_integer() | nil,
          predicted_latency_us: non_neg_integer() | nil,
          prediction_error: float() | nil,
          system_load: float() | nil,
          available_memory: non_neg_integer() | nil
        }

  defstruct [
    :transfer_id,
    :timestamp,
    :pool,
    :method,
    :data_size,
    :data_type,
    :format,
    :compression,
    :latency_us,
    :throughput_mbps,
    :memory_used,
    :cpu_time_us,
    :decision_time_us,
    :predicted_latency_us,
    :prediction_error,
    :system_load,
    :available_memory
  ]

  # No transfer takes a day, or has an exabyte.
  @most_us 86_400_000_000
  @most_bytes 1_152_921_504_606_846_976

  @doc """
  Metrics of somebody's own measuring. Required are `:pool`, `:method`, `:data_size` and `:latency_us`; the others are
  worked out, or `nil`. An error says which field is missing or cannot be.
  """
  @spec new(String.t(), map(), DateTime.t()) :: {:ok, t()} | {:error, atom(), String.t()}
  def new(id, given, now) when is_binary(id) and is_map(given) do
    type = Map.get(given, :data_type, :binary)

    with :ok <- known(given),
         :ok <- absurd(given, now),
         :ok <- check(given, :pool, &(is_atom(&1) and &1 != nil), "the name of a pool"),
         :ok <- check(given, :method, &(&1 in Snakepit.Transfer.ways()), "a way"),
         :ok <- check(given, :data_size, &whole?(&1, @most_bytes), "a number of bytes"),
         :ok <- check(given, :latency_us, &(whole?(&1, @most_us) and &1 > 0), "microseconds above 0"),
         :ok <-
           check(
             Map.put(given, :data_type, type),
             :data_type,
             &(&1 in Performance.data_types()),
             "a type of data"
           ),
         :ok <-
           check(Map.put_new(given, :timestamp, now), :timestamp, &is_struct(&1, DateTime), "a DateTime"),
         :ok <-
           optional(given, [
             :memory_used,
             :cpu_time_us,
             :decision_time_us,
             :predicted_latency_us,
             :available_memory
           ]) do
      predicted = given[:predicted_latency_us]

      {:ok,
       struct!(
         __MODULE__,
         Map.merge(
           %{
             transfer_id: id,
             timestamp: now,
             data_type: type,
             format: Performance.format(type),
             compression: false,
             throughput_mbps: given.data_size / given.latency_us,
             memory_used: given.data_size,
             prediction_error: predicted && abs(given.latency_us - predicted) / given.latency_us
           },
           given
         )
       )}
    end
  end

  def new(id, given, _now),
    do:
      {:error, :transfer_id,
       "expected an id (a string) and a map of metrics, got: #{inspect({id, given}, limit: 5)}"}

  defp known(given) do
    case Map.keys(given) -- Map.keys(%__MODULE__{}) do
      [] -> :ok
      [key | _] -> {:error, key, "unknown field #{inspect(key)}"}
    end
  end

  # The optional fields, and the id, which is an argument of its own.
  defp absurd(given, now) do
    number? = &(is_number(&1) and &1 >= 0 and &1 < 1.0e15)

    checks = [
      throughput_mbps: {number?, "a number that is not negative"},
      prediction_error: {number?, "a number that is not negative"},
      system_load: {&(is_number(&1) and &1 >= 0 and &1 <= 1), "a share from 0 to 1"},
      format: {&(&1 in [:raw, :numpy, :arrow]), ":raw, :numpy or :arrow"},
      compression: {&is_boolean/1, "a boolean"},
      timestamp:
        {&(is_struct(&1, DateTime) and DateTime.compare(&1, DateTime.add(now, 1)) == :lt),
         "a DateTime that is not to come"},
      transfer_id: {fn _ -> false end, "left out: it is the first argument"}
    ]

    Enum.find_value(checks, :ok, fn {key, {fun, words}} ->
      value = given[key]
      if value != nil and not fun.(value), do: bad(key, words, value)
    end)
  end

  defp check(given, key, fun, words) do
    case given do
      %{^key => value} -> if fun.(value), do: :ok, else: bad(key, words, value)
      _ -> {:error, key, "#{inspect(key)} is missing"}
    end
  end

  defp optional(given, keys) do
    case Enum.find(keys, &(given[&1] != nil and not whole?(given[&1], @most_bytes))) do
      nil -> :ok
      key -> bad(key, "a whole number that is not negative", given[key])
    end
  end

  defp bad(key, words, value),
    do: {:error, key, "expected #{inspect(key)} to be #{words}, got: #{inspect(value, limit: 5)}"}

  defp whole?(n, most), do: is_integer(n) and n >= 0 and n <= most
end
