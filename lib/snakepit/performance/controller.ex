defmodule Snakepit.Performance.Controller do
  @moduledoc """
  The decision which way data should take, for whoever asks; `Snakepit.execute/3` makes the same one by itself, for its
  arguments. (Workers make it for results.)
  """

  alias Snakepit.{Breaker, Bytes, Error, Native, Performance, Pool, Telemetry, Tensor, Transfer}

  alias Snakepit.Performance.{
    MetricsStore,
    Model,
    Policy,
    ResourceMonitor,
    RolloutManager,
    Settings,
    ThresholdManager
  }

  alias Snakepit.Performance.Model.{Decision, Learning, Saved}
  alias Snakepit.Performance.ThresholdManager.Rows
  alias Snakepit.Pool.Handle
  alias Snakepit.Transfer.{Convert, Payload, Plan}
  require Logger

  @doc """
  The way that `data` should take: `{:zero_copy, meta}`, `{:inline, meta}` or `{:grpc, meta}`. It is total: where no decision
  can be made it is `{:grpc, %{fallback: true, reason: reason}}`.

  Options (a map or a keyword list): `:pool` (the default one), `:direction` (`:request`), `:data_type` (what `data` looks
  like), `:data_size` (bytes of one value; then `data` is not looked at), `:warm` (`true`: shared memory is at hand).

  `meta` has `:transfer_id`, `:method`, `:reason`, `:data_size`, `:threshold` (bytes from which on shared memory is taken now),
  `:predicted_latency_us` (by way, for the middle of this size's bin, as it usually is), `:confidence`, `:model_version` (how
  many observations the table rests on), `:explored?` and `:propensity` (how likely this choice was). Intervals are in
  `Snakepit.Performance.CostBenefitAnalyzer.analyze/2`.

  | `:reason` | why |
  |---|---|
  | `:cheapest`, `:tie` | it costs least; the ways cost about the same, and it is the simplest |
  | `:rule` | nothing was measured: the threshold |
  | `:below_minimum`, `:above_maximum`, `:override` | what somebody set |
  | `:in_envelope` | smaller than the pool's `:inline_limit`, it never leaves the envelope |
  | `:shared` | some of it lies in shared memory already, which any other way would carry |
  | `:not_measured` | the pool does not measure its transfers: everything else goes by shared memory |
  | `:custom_rule` | a custom rule of the policy wants it |
  | `:holdout` | one of the few that go by the rules, to be compared with the others |
  | `:only_way` | the pool allows no other |
  """
  @spec decide_transfer_method(term(), map() | keyword()) :: {Transfer.way(), map()}
  def decide_transfer_method(data, opts \\ %{}) do
    opts = Map.new(opts)

    with {:ok, handle} <- Handle.fetch(opts[:pool] || Handle.default()),
         direction = opts[:direction] || :request,
         true <- direction in [:request, :reply] || {:error, {:unknown_direction, direction}},
         {:ok, payload} <- payload(data, opts, handle) do
      decide(handle, %{payload | direction: direction, warm?: Map.get(opts, :warm, true)})
    else
      {:error, reason} -> fall_back(reason)
    end
  rescue
    error -> fall_back(error)
  end

  defp decide(handle, payload) do
    allowed = handle.options.transfers -- Breaker.isolated(handle.breaker)

    case Transfer.among(allowed, allowed, payload.bytes, payload.envelope) do
      [] ->
        fall_back({:too_large, data_size(payload)})

      able ->
        plan = Decision.plan!(handle, nil, payload, able, able, :call)
        [way | _] = plan.request
        Decision.emit(handle, payload, plan, way)
        {way, meta(plan, way, payload, handle)}
    end
  end

  defp meta(%Plan{} = plan, way, payload, handle) do
    %{
      transfer_id: Integer.to_string(:erlang.unique_integer([:positive]), 36),
      method: way,
      reason: plan.reason,
      data_size: data_size(payload),
      threshold: plan.threshold || handle.options.inline_limit,
      predicted_latency_us: microseconds(plan.predicted),
      confidence: plan.confidence,
      model_version: plan.version,
      explored?: plan.explored?,
      propensity: plan.propensity
    }
  end

  defp data_size(payload), do: max(payload.bytes, payload.envelope)

  defp microseconds(nil), do: %{}

  defp microseconds({inline, zero_copy, grpc}),
    do: %{inline: inline / 1000, zero_copy: zero_copy / 1000, grpc: grpc / 1000}

  # As a call has it.
  defp payload(_data, %{data_size: bytes} = opts, handle) when is_integer(bytes) and bytes >= 0,
    do: one(Map.get(opts, :data_type, :binary), bytes, handle)

  defp payload(data, opts, handle) when is_binary(data),
    do: one(opts[:data_type] || :string, byte_size(data), handle)

  defp payload(%Bytes{data: data}, opts, handle),
    do: one(opts[:data_type] || :binary, byte_size(data), handle)

  defp payload(%Tensor{data: data}, opts, handle),
    do: one(opts[:data_type] || :tensor, byte_size(data), handle)

  defp payload(data, opts, handle) do
    case Native.encode("", data, nil, handle.options.inline_limit) do
      {:ok, envelope, buffers, {bytes, fresh, kind}} ->
        {:ok,
         %Payload{
           bytes: bytes,
           fresh: fresh,
           type: Performance.data_type(kind),
           count: length(buffers),
           envelope: byte_size(envelope)
         }}

      :convert ->
        payload(Convert.term(data), opts, handle)

      {:error, path, reason, what} ->
        {:error, {reason, path, what}}
    end
  end

  defp one(type, bytes, handle) do
    cond do
      type not in Performance.data_types() ->
        {:error, {:unknown_data_type, type}}

      bytes < handle.options.inline_limit ->
        {:ok, %Payload{bytes: 0, fresh: 0, type: type, count: 0, envelope: bytes}}

      true ->
        {:ok, %Payload{bytes: bytes, fresh: bytes, type: type, count: 1, envelope: 0}}
    end
  end

  defp fall_back(reason) do
    shown = if is_exception(reason), do: Exception.message(reason), else: inspect(reason, limit: 5)
    Logger.warning("no decision which way data should take, so gRPC: #{shown}")
    {:grpc, %{fallback: true, reason: reason}}
  end

  @doc """
  Records what a transfer took that was decided by `decide_transfer_method/2`, and made by somebody else: as
  `Snakepit.Performance.Analyzer.record_metrics/2`, and the pool learns from it. The calls of `Snakepit.execute/3` are
  recorded by themselves.
  """
  @spec record_transfer_metrics(String.t(), map()) :: :ok
  defdelegate record_transfer_metrics(transfer_id, metrics),
    to: Snakepit.Performance.Analyzer,
    as: :record_metrics

  @doc """
  What the pool's decisions came to: `:decisions`, `:explored`, calls by way, latencies and errors of predictions, the
  thresholds (`current_thresholds: %{zero_copy_min: bytes}`, of bytes, and `:thresholds`, of all types, in parts: see
  `Snakepit.Performance.ThresholdManager.get_parts/2`) and what `performance_optimization:` says of all pools
  (`global_config`). `:drift_factor` is how many times as long as usual calls take at the moment; `:drift` has the alarms about
  costs that moved, `:rollout` how far the pool acts on what it has learned and why (`Snakepit.Performance.Rollout`), `:holdout`
  how many times as long calls by the rules take as those by measurements, with its interval.

  Latencies are microseconds beside the tool and the wait for a lane, in percentiles; `:prediction_error` is
  |actual − predicted| / actual.
  """
  @spec get_statistics(atom()) :: {:ok, map()} | {:error, Error.t()}
  def get_statistics(pool) do
    with {:ok, handle} <- Handle.fetch(pool) do
      counts = Pool.Counters.all(handle.counters)
      model = handle.performance

      {:ok,
       %{
         pool: pool,
         policy: model.policy,
         current_thresholds: zero_copy_min(handle),
         global_config: global(model.settings),
         inline_count: counts.request_inline,
         zero_copy_count: counts.request_zero_copy,
         grpc_count: counts.request_grpc
       }
       |> Map.merge(learned(model))
       |> Map.merge(if(model.ref, do: rollout(handle), else: %{}))
       |> Map.merge(if(model.ref, do: %{thresholds: thresholds(pool)}, else: %{}))}
    end
  end

  defp rollout(%{performance: model} = handle) do
    {alarms, open?, _events} = Model.drift(model)

    %{
      rollout: handle |> RolloutManager.stage() |> Map.from_struct(),
      holdout: model |> Model.holdout() |> Map.from_struct(),
      drift: %{alarms: alarms, open?: open?}
    }
  end

  defp zero_copy_min(handle) do
    with {:ok, bytes} <- ThresholdManager.get_threshold(handle.name, :binary),
         do: %{zero_copy_min: bytes},
         else: (_ -> %{})
  end

  defp thresholds(pool) do
    for type <- Performance.data_types(),
        {:ok, parts} <- [ThresholdManager.get_parts(pool, type)],
        into: %{},
        do: {type, parts}
  end

  defp global(%Settings{} = settings) do
    %{
      learning_enabled: settings.learning_enabled,
      exploration_rate: settings.exploration_rate,
      model_update_interval: settings.model_update_interval_seconds * 1000
    }
  end

  @percentiles [p50: 0.5, p95: 0.95, p99: 0.99, p999: 0.999]

  defp learned(%Model{ref: nil}), do: %{decisions: 0}

  defp learned(model) do
    counts = Model.counts(model)
    {latencies, errors} = Model.percentiles(model, Keyword.values(@percentiles))

    named = fn values, unit ->
      @percentiles |> Keyword.keys() |> Enum.zip(values) |> Map.new(fn {k, v} -> {k, v && v / unit} end)
    end

    %{
      decisions: counts.decisions,
      explored: counts.explored,
      recorded: counts.recorded,
      dropped: counts.dropped,
      model_version: counts.version,
      table_bytes: counts.table_bytes,
      drift_factor: Model.drift_factor(model),
      latency_us: named.(latencies, 1000),
      prediction_error: named.(errors, 1000)
    }
  end

  @doc """
  Changes a running pool's policy, at once and for all calls from now on. `policy` has the keys of
  `Snakepit.Performance.Policy`; those it does not name take their defaults. After a refusal the old one stays in force.

  The pool's next starts have it, too (`keep_models` of `Snakepit.Performance.Settings`), until another one is configured. One with
  a rule that is a function has an end with this run: functions cannot be kept.
  """
  @spec update_policy(atom(), map() | keyword()) :: :ok | {:error, Error.t()}
  def update_policy(pool, policy) do
    with {:ok, handle} <- Handle.fetch(pool),
         :ok <- Performance.enabled(handle),
         :ok <- running(policy),
         {:ok, policy} <- Policy.new(policy, handle.performance.settings) do
      # By the pool's own process: it may have been started anew meanwhile.
      with :ok <- Pool.set_performance(handle, &change(&1, policy)), do: changed(pool, handle, policy)
    else
      {:error, _key, message} ->
        {:error,
         Error.new(:validation, :invalid_option, "pool #{inspect(pool)}: policy: #{message}", pool: pool)}

      {:error, error} ->
        {:error, error}
    end
  end

  # Whether a pool measures at all is said when it starts.
  defp running(policy) when is_map(policy) or is_list(policy) do
    if (is_map(policy) and is_map_key(policy, :enabled)) or
         (Keyword.keyword?(policy) and policy[:enabled] != nil),
       do: {:error, :enabled, ":enabled is for a pool's start; restart it with another performance_policy:"},
       else: :ok
  end

  defp running(_neither), do: :ok

  # Runs in the pool's process.
  defp change(model, policy) do
    model = Model.with_policy(model, policy)
    :ok = Model.set_rules(model)
    model
  end

  defp changed(pool, handle, policy) do
    old = handle.performance.policy
    ThresholdManager.refresh(pool)
    Learning.publish(pool)
    keep(handle, policy)
    Logger.info("pool #{inspect(pool)}: policy #{inspect(policy)}, before #{inspect(old)}")

    Telemetry.execute([:snakepit, :performance, :policy], %{}, %{
      pool: pool,
      old: old,
      new: policy
    })

    :ok
  end

  @doc false
  # Running pools, and the processes that measure for all of them, go on with other settings.
  @spec apply_settings(Settings.t(), Settings.t()) :: :ok
  def apply_settings(old, new) do
    MetricsStore.apply_settings(new)
    ResourceMonitor.apply_settings(new)

    for name <- Handle.names(), {:ok, %{performance: %Model{} = model} = handle} <- [Handle.fetch(name)] do
      change = fn model -> %{model | settings: new, policy: policy_under(model, handle.options, old, new)} end
      # One that is being stopped or started anew has the new ones by itself.
      if Model.enabled?(model), do: Pool.set_performance(handle, change), else: :ok
      ThresholdManager.refresh(name)
    end

    :ok
  end

  # One that was set while the pool ran stays.
  defp policy_under(%{policy: policy}, options, old, new) do
    with {:ok, ^policy} <- Policy.new(options.performance_policy, old),
         {:ok, followed} <- Policy.new(options.performance_policy, new) do
      followed
    else
      _ -> policy
    end
  end

  # ---- what the next run goes on with ----------------------------------------------------------------------------------

  defp keep(%{options: options, performance: %{settings: settings}}, policy) do
    place = Saved.set(options, settings)

    if Enum.any?(policy.custom_rules, &is_function/1),
      do: Saved.remove(place, :policy),
      else: Saved.put(place, :policy, :erlang.term_to_binary({configured(options), Map.from_struct(policy)}))
  end

  # Another policy that is configured replaces the one that was set.
  defp configured(options),
    do: :crypto.hash(:sha256, :erlang.term_to_binary(options.performance_policy, minor_version: 2))

  @doc false
  # The model of a pool that starts, with the policy and the thresholds that were set in its last run.
  @spec restored(Model.t(), Pool.Options.t()) :: Model.t()
  def restored(%Model{ref: nil} = model, _options), do: model

  def restored(%Model{settings: settings} = model, options) do
    model =
      with {:ok, bytes} <- Saved.get(Saved.set(options, settings), :policy),
           {:ok, policy} <- policy(bytes, configured(options), settings) do
        Logger.info("pool #{inspect(options.name)}: policy #{inspect(policy)}, as set in an earlier run")
        model = Model.with_policy(model, policy)
        :ok = Model.set_rules(model)
        model
      else
        _none -> model
      end

    :ok = Rows.restore(model, options)
    model
  end

  # Whatever a file holds.
  defp policy(bytes, configured, settings) do
    with {^configured, policy} <- :erlang.binary_to_term(bytes, [:safe]), do: Policy.new(policy, settings)
  rescue
    ArgumentError -> :error
  end
end
