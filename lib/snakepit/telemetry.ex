defmodule Snakepit.Telemetry do
  @events [
    {[:snakepit, :call, :stop], "a call ended, or a stream",
     "`duration_ns`, `tool_ns`, `gil_ns` (waiting for Python's lock), `queue_ns`, `request_bytes`, `reply_bytes`, `copied_bytes`",
     "`pool`, `worker`, `command`, `correlation_id`, `status` (`:ok`, `:error`, or `:raised`: what took a stream's items did), `request_way`, `reply_way`, `retries`"},
    {[:snakepit, :call, :fallback], "a call went another way than the first it wanted",
     "`request_bytes`, `reply_bytes`", "`pool`, `command`, `request_way`, `reply_way`"},
    {[:snakepit, :worker, :up], "a worker is ready, its calls may begin", "`start_ms`",
     "`pool`, `worker`, `os_pid`, `restarts`"},
    {[:snakepit, :worker, :down], "a worker's OS process ended, or its pool stops it",
     "`lived_ms` (since it was ready; 0 if it never was)",
     "`pool`, `worker`, `os_pid`, `cause` (in words), `status` (`{:signal, n}`, `{:status, n}`, `:companion_died`, nil), `meant?` (nobody need look into it), `running` (what it ran: `command`, `correlation_id`, `ms`)"},
    {[:snakepit, :pool, :queue], "a call left the line of those that wait for a worker", "`wait_ns`",
     "`pool`, `result` (`:served`; `:timeout`: it waited in vain; `:closed`: it was sent away; `:cancelled`)"},
    {[:snakepit, :pool, :saturated], "a call was refused because the line is full",
     "`busy`, `queued` (calls)", "`pool`"},
    {[:snakepit, :pool, :resized], "a pool has another number of workers (`Snakepit.resize_pool/2`)",
     "`size`, `from` (workers), `duration_ms`", "`pool`"},
    {[:snakepit, :pool, :command_refused],
     "a command's calls ended so many workers that it is refused for a while", "`deaths`, `retry_in_ms`",
     "`pool`, `command`, `last` (how the last worker ended, in words)"},
    {[:snakepit, :pool, :reload],
     "a pool's Python files changed, and its workers were replaced: calls from now on run the new code; or they could not be",
     "`duration_ms`", "`pool`, `files` (those that changed), `result` (`:ok` or `{:error, error}`)"},
    {[:snakepit, :performance, :decision],
     "a way was chosen for a call's arguments; emitted when the call is over", "`data_size`",
     "`pool`, `method` (the way that was taken), `planned` (the way that was chosen: another where that failed, or its memory was not at hand), `reason`, `explored?`, `propensity`, `data_type`"},
    {[:snakepit, :performance, :decision_failed],
     "a way could not be chosen as it should be: the call went on without the custom rule, or by the ways of a pool that does not measure",
     "none", "`pool`, `what` (`:custom_rule` or `:model`), `why` (in words)"},
    {[:snakepit, :performance, :threshold], "a threshold was set, measured anew or undone",
     "`old`, `new` (bytes)", "`pool`, `data_type`, `reason`, `expected`"},
    {[:snakepit, :performance, :policy], "a pool's policy was changed", "none", "`pool`, `old`, `new`"},
    {[:snakepit, :performance, :calibration], "a pool was calibrated, or could not be",
     "`probes`, `duration_ms`",
     "`pool`, `result` (`:measured`, `:loaded`, `:restored`: what this pool learned in its last run, `:outdated`: what was kept does not hold, or why not), `crossover`"},
    {[:snakepit, :performance, :rollout], "a pool acts on what it has learned more than before, or less",
     "`bar`: the probability from which on measurements decide, above 1 nowhere",
     "`pool`, `stage`, `before`, `reason`"},
    {[:snakepit, :performance, :drift],
     "transfers take longer or shorter than they used to, and what came of that", "`alarms` so far",
     "`pool`, `step` (`:widened`, `:restored`, `:accepted`), `direction`, `method`, `longer?`"},
    {[:snakepit, :performance, :regression],
     "transfers of a size became slower than they used to be, or are so no longer",
     "`baseline_us`, `recent_us`, `change_percent`",
     "`pool`, `state` (`:begins` or `:ends`), `direction`, `method`, `data_type`, `data_size` (from, to)"}
  ]

  @moduledoc """
  The events that Snakepit emits.

  | event | when | measurements | metadata |
  |---|---|---|---|
  #{Enum.map_join(@events, "\n", fn {name, when_, measurements, metadata} -> "| `#{inspect(name)}` | #{when_} | #{measurements} | #{metadata} |" end)}

  Times are nanoseconds unless a name says otherwise, sizes bytes. Where the application `:telemetry` is part of
  the system, every event goes through it as well, once it is started. An event nobody listens to costs some ten nanoseconds.
  """

  require Logger

  @type event :: [atom(), ...]
  @type handler :: (event(), measurements :: map(), metadata :: map(), config :: term() -> any())

  @handlers {__MODULE__, :handlers}
  @library {__MODULE__, :library}
  @compile {:no_warn_undefined, :telemetry}
  @first_look_ms 10
  @longest_look_ms 1_000
  # An application that has the library and does not start it within a minute will not start it.
  @looks 70

  @doc "The names of all events."
  @spec events() :: [event()]
  def events, do: Enum.map(@events, &elem(&1, 0))

  @doc "Calls `fun` with each of these events. One that raises is detached and reported."
  @spec attach(id :: term(), event() | [event()], handler(), config :: term()) ::
          :ok | {:error, :already_exists | :unknown_event}
  def attach(id, events, fun, config \\ nil) when is_function(fun, 4) do
    events = if match?([[_ | _] | _], events), do: events, else: [events]

    change(fn handlers ->
      cond do
        Enum.any?(handlers, fn {_, list} -> List.keymember?(list, id, 0) end) ->
          {{:error, :already_exists}, handlers}

        events -- events() != [] ->
          {{:error, :unknown_event}, handlers}

        true ->
          entry = {id, fun, config}

          {:ok,
           Enum.reduce(events, handlers, fn event, all ->
             Map.update(all, event, [entry], &(&1 ++ [entry]))
           end)}
      end
    end)
  end

  @doc "Undoes `attach/4`."
  @spec detach(id :: term()) :: :ok | {:error, :not_found}
  def detach(id) do
    change(fn handlers ->
      left =
        for {event, list} <- handlers,
            rest = List.keydelete(list, id, 0),
            rest != [],
            into: %{},
            do: {event, rest}

      {if(left == handlers, do: {:error, :not_found}, else: :ok), left}
    end)
  end

  @doc "Whether the event has a handler. If not, its measurements and metadata need not be built."
  @spec listened_to?(event()) :: boolean()
  def listened_to?(event),
    do: is_map_key(:persistent_term.get(@handlers, %{}), event) or :persistent_term.get(@library, false)

  @doc "Emits an event: calls its handlers."
  @spec execute(event(), map(), map()) :: :ok
  def execute(event, measurements, metadata) do
    case :persistent_term.get(@handlers, %{}) do
      %{^event => list} -> Enum.each(list, &run(&1, event, measurements, metadata))
      _ -> :ok
    end

    if :persistent_term.get(@library, false), do: :telemetry.execute(event, measurements, metadata)
    :ok
  end

  @doc false
  # Looked for once: a module that is absent is dear to look for.
  @spec start() :: :ok
  def start, do: :persistent_term.put(@library, library?() and started?())

  @doc false
  # An optional application is started before Snakepit by Elixir 1.15 and later. Earlier ones start it when its turn
  # comes, and an event would fail until then.
  @spec await_library() :: :ok
  def await_library do
    if library?() and not :persistent_term.get(@library), do: await_library(@first_look_ms, @looks), else: :ok
  end

  defp await_library(_ms, 0), do: :ok

  defp await_library(ms, looks) do
    Process.sleep(ms)

    if started?(),
      do: :persistent_term.put(@library, true),
      else: await_library(min(2 * ms, @longest_look_ms), looks - 1)
  end

  defp library?, do: Code.ensure_loaded?(:telemetry) and function_exported?(:telemetry, :execute, 3)
  defp started?, do: List.keymember?(Application.started_applications(), :telemetry, 0)

  defp run({id, fun, config}, event, measurements, metadata) do
    fun.(event, measurements, metadata, config)
  catch
    kind, reason ->
      detach(id)
      said = Exception.format(kind, reason, __STACKTRACE__)
      Logger.error("the handler #{inspect(id)} of #{inspect(event)} failed and was detached: #{said}")
  end

  # Changes are rare, readers many.
  defp change(fun) do
    :global.trans(
      {@handlers, self()},
      fn ->
        {answer, handlers} = fun.(:persistent_term.get(@handlers, %{}))
        :persistent_term.put(@handlers, handlers)
        answer
      end,
      [node()]
    )
  end
end
