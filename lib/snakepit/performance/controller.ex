defmodule Snakepit.Performance.Controller do
  @moduledoc """
  The decision which way data should take, for whoever asks; `Snakepit.execute/3` makes the same one by itself.
  """

  alias Snakepit.{Bytes, Error, Native, Performance, Pool, Telemetry, Tensor, Transfer}
  alias Snakepit.Performance.{Decision, Learning, Policy, Rules, ThresholdManager}
  alias Snakepit.Pool.Handle
  require Logger

  @doc """
  The way that `data` should take: `{:zero_copy, meta}`, `{:inline, meta}` or `{:grpc, meta}`. It is total: where no decision
  can be made it is `{:grpc, %{fallback: true, reason: reason}}`.

  Options (a map or a keyword list): `:pool` (the default one), `:direction` (`:request`), `:data_type` (what `data` looks
  like), `:data_size` (bytes; then `data` is not looked at), `:warm` (`true`: shared memory is at hand).

  `meta` has `:transfer_id`, `:method`, `:reason`, `:data_size`, `:threshold` (bytes, for as long as nothing was measured),
  `:predicted_latency_us` (by way, for the middle of this size's bin, as it usually is), `:confidence`, `:model_version` (how many observations
  the table rests on), `:explored?` and `:propensity` (how likely this choice was). Intervals are in
  `Snakepit.Performance.CostBenefitAnalyzer.analyze/2`.
  """
  @spec decide_transfer_method(term(), map() | keyword()) :: {Transfer.way(), map()}
  def decide_transfer_method(data, opts \\ %{})

  def decide_transfer_method(data, opts) when is_list(opts), do: decide_transfer_method(data, Map.new(opts))

  def decide_transfer_method(data, opts) do
    with {:ok, handle} <- Handle.fetch(opts[:pool] || Snakepit.default_pool()),
         {:ok, type, size} <- characteristics(data, opts, handle) do
      decide(handle, Performance.number(opts[:direction] || :request), type, size, Map.get(opts, :warm, true))
    else
      {:error, reason} -> fall_back(reason)
    end
  rescue
    error -> fall_back(error)
  end

  defp decide(%{brain: nil} = handle, _direction, _type, size, _warm) do
    way = size |> Transfer.plan(0, handle.options.transfers) |> hd()
    {way, meta(way, :rule, size, handle.options.inline_limit)}
  end

  defp decide(handle, direction, type, size, warm) do
    {decision, confidence, {inline, zero_copy, grpc}, threshold, version} =
      Native.brain_consider(handle.brain, direction, Performance.number(type), warm, size)

    named = if direction == 0, do: :request, else: :reply
    order = decision |> Decision.in_order() |> Rules.reorder(handle, named, type, size)
    allowed = handle.options.transfers
    way = Enum.find(order, &(&1 in allowed))
    decision = Decision.settled(decision, order, allowed)

    {way,
     %{
       meta(way, Decision.reason(decision), size, threshold)
       | predicted_latency_us: %{inline: inline / 1000, zero_copy: zero_copy / 1000, grpc: grpc / 1000},
         confidence: confidence,
         model_version: version,
         explored?: Decision.explored?(decision),
         propensity: Decision.propensity(decision)
     }}
  end

  defp meta(way, reason, size, threshold) do
    %{
      transfer_id: Integer.to_string(:erlang.unique_integer([:positive]), 36),
      method: way,
      reason: reason,
      data_size: size,
      threshold: threshold,
      predicted_latency_us: %{},
      confidence: 0.0,
      model_version: 0,
      explored?: false,
      propensity: 1.0
    }
  end

  defp characteristics(_data, %{data_size: size} = opts, _handle) when is_integer(size) and size >= 0,
    do: known(Map.get(opts, :data_type, :binary), size)

  defp characteristics(data, opts, handle) do
    with {:ok, type, size} <- look(data, handle), do: known(opts[:data_type] || type, size)
  end

  defp known(type, size) do
    if type in Performance.data_types(), do: {:ok, type, size}, else: {:error, {:unknown_data_type, type}}
  end

  defp look(data, _handle) when is_binary(data), do: {:ok, :string, byte_size(data)}
  defp look(%Bytes{data: data}, _handle), do: {:ok, :binary, byte_size(data)}
  defp look(%Tensor{data: data}, _handle), do: {:ok, :tensor, byte_size(data)}

  defp look(data, handle) do
    case Native.encode("", data, nil, handle.options.inline_limit) do
      {:ok, envelope, [], _} ->
        {:ok, :mixed, byte_size(envelope)}

      {:ok, _envelope, _buffers, {bytes, _fresh, kind}} ->
        {:ok, Enum.at(Performance.data_types(), kind), bytes}

      :convert ->
        {:error, :needs_conversion}

      {:error, path, reason, what} ->
        {:error, {reason, path, what}}
    end
  end

  defp fall_back(reason) do
    shown = if is_exception(reason), do: Exception.message(reason), else: inspect(reason, limit: 5)
    Logger.warning("no decision which way data should take, so gRPC: #{shown}")
    {:grpc, %{fallback: true, reason: reason}}
  end

  @doc """
  Records what a transfer took that was decided by `decide_transfer_method/2`, and made by somebody else: as
  `Snakepit.Performance.Analyzer.record_metrics/2`. The calls of `Snakepit.execute/3` are recorded by themselves.
  """
  @spec record_transfer_metrics(String.t(), map()) :: :ok
  defdelegate record_transfer_metrics(transfer_id, metrics),
    to: Snakepit.Performance.Analyzer,
    as: :record_metrics

  @doc """
  What the pool's decisions came to: `:decisions`, `:explored`, calls by way, latencies and errors of predictions.

  Latencies are microseconds beside the tool and the wait for a lane, in percentiles; `:prediction_error` is
  |actual − predicted| / actual.
  """
  @spec get_statistics(atom()) :: {:ok, map()} | {:error, Error.t()}
  def get_statistics(pool) do
    with {:ok, handle} <- Handle.fetch(pool) do
      counts = Pool.Counters.all(handle.counters)

      {:ok,
       %{
         pool: pool,
         policy: handle.policy,
         inline_count: counts.request_inline,
         zero_copy_count: counts.request_zero_copy,
         grpc_count: counts.request_grpc
       }
       |> Map.merge(learned(handle.brain))}
    end
  end

  @percentiles [p50: 0.5, p95: 0.95, p99: 0.99, p999: 0.999]

  defp learned(nil), do: %{decisions: 0}

  defp learned(brain) do
    {decisions, explored, recorded, dropped, version, bytes} = Native.brain_counts(brain)
    {latencies, errors} = Native.brain_percentiles(brain, Keyword.values(@percentiles))

    named = fn values, unit ->
      @percentiles |> Keyword.keys() |> Enum.zip(values) |> Map.new(fn {k, v} -> {k, v && v / unit} end)
    end

    %{
      decisions: decisions,
      explored: explored,
      recorded: recorded,
      dropped: dropped,
      model_version: version,
      table_bytes: bytes,
      latency_us: named.(latencies, 1000),
      prediction_error: named.(errors, 1000)
    }
  end

  @doc """
  Changes a running pool's policy, at once and for all calls from now on. `policy` has the keys of
  `Snakepit.Performance.Policy`; those it does not name take their defaults. What is refused leaves the old one in force.
  """
  @spec update_policy(atom(), map() | keyword()) :: :ok | {:error, Error.t()}
  def update_policy(pool, policy) do
    with {:ok, handle} <- Handle.fetch(pool),
         :ok <- Performance.enabled(handle),
         {:ok, policy} <- Policy.new(policy, handle.settings) do
      # By the pool's own process: it may have been started anew meanwhile.
      with :ok <- Pool.set_policy(handle, policy), do: changed(pool, handle, policy)
    else
      {:error, _key, message} ->
        {:error,
         Error.new(:validation, :invalid_option, "pool #{inspect(pool)}: policy: #{message}", pool: pool)}

      {:error, error} ->
        {:error, error}
    end
  end

  defp changed(pool, handle, policy) do
    ThresholdManager.refresh(pool)
    Learning.publish(pool)
    Logger.info("pool #{inspect(pool)}: policy #{inspect(policy)}, before #{inspect(handle.policy)}")

    Telemetry.execute([:snakepit, :performance, :policy], %{}, %{
      pool: pool,
      old: handle.policy,
      new: policy
    })

    :ok
  end
end
