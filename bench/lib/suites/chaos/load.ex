defmodule Snakepit.Bench.Chaos.Load do
  @moduledoc false
  # Callers that call all the time: small and large, streams, by reference, by every way. Each answer is checked to its
  # last byte, and large ones again some calls later, when the worker they came from may be dead.
  #
  # A call may fail: its worker was killed. It must then end in an error that says so. One that ended by its deadline was
  # forgotten by somebody, and counts as lost, as does one that ended in anything else, or not at all.

  import Bitwise, only: [<<<: 2]
  alias Snakepit.{Bench, Error}

  @deadline 20_000
  # Milliseconds at most between two calls of a caller; sometimes none.
  @rests 5
  # The categories of errors of a call whose worker was killed.
  @proper [:worker, :grpc_error]

  defstruct [:stop, :callers]

  @type t :: %__MODULE__{
          stop: :atomics.atomics_ref(),
          callers: [Task.t()]
        }
  @type tally :: %{
          calls: non_neg_integer(),
          right: non_neg_integer(),
          failed: non_neg_integer(),
          wrong: [term()],
          lost: [term()]
        }

  @doc "The pool that is called. `mark` finds its processes (`Snakepit.Bench.Footprint`)."
  @spec pool(atom(), String.t(), pos_integer()) :: map()
  def pool(name, mark, size) do
    %{
      name: name,
      size: size,
      python_module: "snakepit_bench.chaos",
      python_path: Bench.python_path(),
      env: %{"SNAKEPIT_CHAOS" => mark},
      memory_quota: "1GB"
    }
  end

  @doc "A tally of nothing."
  @spec none() :: tally()
  def none, do: %{calls: 0, right: 0, failed: 0, wrong: [], lost: []}

  @doc "So many callers begin to call; the same seed draws the same calls."
  @spec start(atom(), pos_integer(), integer()) :: t()
  def start(pool, callers, seed) do
    stop = :atomics.new(1, [])
    state = %{pool: pool, stop: stop, kept: nil, ways: Bench.ways(pool)}

    callers =
      for n <- 1..callers do
        Task.Supervisor.async_nolink(supervisor(), fn ->
          call_on(Map.put(state, :caller, n), :rand.seed_s(:exsss, {seed, n, 0}), none())
        end)
      end

    %__MODULE__{stop: stop, callers: callers}
  end

  # Callers must be able to die without their starter.
  defp supervisor do
    {:ok, pid} = Task.Supervisor.start_link()
    pid
  end

  @doc "Lets each caller end its call; what all of them saw."
  @spec stop(t()) :: tally()
  def stop(%__MODULE__{stop: stop, callers: callers}) do
    :atomics.put(stop, 1, 1)

    for {task, ended} <- Task.yield_many(callers, @deadline + 5_000), reduce: none() do
      sum ->
        case ended do
          {:ok, tally} -> add(sum, tally)
          {:exit, reason} -> %{sum | calls: sum.calls + 1, lost: [{:caller_died, reason} | sum.lost]}
          nil -> Task.shutdown(task, :brutal_kill) && %{sum | calls: sum.calls + 1, lost: [:hung | sum.lost]}
        end
    end
  end

  @spec add(tally(), tally()) :: tally()
  def add(a, b), do: Map.merge(a, b, fn _, x, y -> if is_list(x), do: x ++ y, else: x + y end)

  defp call_on(state, random, tally) do
    if :atomics.get(state.stop, 1) == 1 do
      tally |> count(kept(state))
    else
      {call, random} = draw(state, random)
      {outcome, state} = outcome(call, state)
      # Callers that never rest would measure how long a restart takes on a machine without a free core.
      {rest, random} = :rand.uniform_s(@rests, random)
      if rest > 1, do: Process.sleep(rest)
      call_on(state, random, count(%{tally | calls: tally.calls + 1}, outcome))
    end
  end

  defp count(tally, :right), do: %{tally | right: tally.right + 1}
  defp count(tally, :failed), do: %{tally | failed: tally.failed + 1}
  defp count(tally, :nothing), do: tally
  defp count(tally, {:wrong, what}), do: %{tally | wrong: [what | tally.wrong]}
  defp count(tally, {:lost, what}), do: %{tally | lost: [what | tally.lost]}

  # ---- one call ---------------------------------------------------------------------------------------------------

  defp outcome({kind, _, _} = call, state) do
    case run(call, state) do
      {:ok, value, value} -> keep(state, value)
      {:ok, value, expected} -> {{:wrong, {kind, short(value), short(expected)}}, state}
      {:error, %Error{category: category}} when category in @proper -> {:failed, state}
      # Its calls happened to run on too many workers that were killed.
      {:error, %Error{reason: :command_breaker_open}} -> {:failed, state}
      {:error, %Error{category: :timeout} = error} -> {{:lost, {kind, error}}, state}
      # Nothing else is wrong with these calls: somebody's bytes were damaged.
      {:error, error} -> {{:wrong, {kind, error}}, state}
    end
  catch
    what, reason -> {{:lost, {kind, what, reason}}, state}
  end

  # A large result is looked at again when the next one takes its place.
  defp keep(state, value) when is_binary(value) do
    case kept(state) do
      :nothing -> {:right, %{state | kept: {value, :erlang.crc32(value)}}}
      wrong -> {wrong, %{state | kept: nil}}
    end
  end

  defp keep(state, _value), do: {:right, state}

  defp kept(%{kept: {value, crc}}) do
    if :erlang.crc32(value) == crc, do: :nothing, else: {:wrong, {:changed_later, byte_size(value)}}
  end

  defp kept(_state), do: :nothing

  defp short(value) when is_binary(value),
    do: {byte_size(value), binary_part(value, 0, min(byte_size(value), 64))}

  defp short(value), do: value

  # {:ok, the answer, what it must be} or the error.
  defp run({:add, [a, b], opts}, state) do
    with {:ok, sum} <- execute("add", %{a: a, b: b}, state, opts), do: {:ok, sum, a + b}
  end

  defp run({:to_python, [pattern, times], opts}, state) do
    data = :binary.copy(pattern, times)

    with {:ok, crc} <- execute("checksum", %{x: Snakepit.bytes(data)}, state, opts),
         do: {:ok, crc, :erlang.crc32(data)}
  end

  defp run({:from_python, [pattern, times], opts}, state) do
    with {:ok, data} <- repeated(pattern, times, state, opts), do: {:ok, data, :binary.copy(pattern, times)}
  end

  defp run({tool, [pattern, times], opts}, state) when tool in [:copied, :same] do
    data = :binary.copy(pattern, times)

    with {:ok, back} <- execute(to_string(tool), %{x: Snakepit.bytes(data)}, state, opts),
         do: {:ok, back, data}
  end

  # The result of one worker is the argument of another.
  defp run({:by_reference, [pattern, times], opts}, state) do
    with {:ok, data} <- repeated(pattern, times, state, opts),
         {:ok, crc} <- execute("checksum", %{x: Snakepit.bytes(data)}, state, opts),
         do: {:ok, {data, crc}, expected(pattern, times)}
  end

  defp run({:stream, [pattern, times], opts}, state) do
    me = self()
    ref = make_ref()
    args = %{pattern: Snakepit.bytes(pattern), times: times, n: 5}

    ended =
      Snakepit.execute_stream(
        "blocks",
        args,
        &send(me, {ref, &1}),
        options(state, Keyword.delete(opts, :idempotent))
      )

    items = received(ref)
    expected = for i <- 0..4, do: <<i, :binary.copy(pattern, times)::binary>>

    case ended do
      {:error, error} ->
        # The items before the error must be right as well.
        if List.starts_with?(expected, items), do: {:error, error}, else: {:ok, items, expected}

      {:ok, nil} ->
        {:ok, items, expected}
    end
  end

  defp expected(pattern, times) do
    data = :binary.copy(pattern, times)
    {data, :erlang.crc32(data)}
  end

  defp received(ref) do
    receive do
      {^ref, item} -> [item | received(ref)]
    after
      0 -> []
    end
  end

  defp repeated(pattern, times, state, opts),
    do: execute("repeated", %{pattern: Snakepit.bytes(pattern), times: times}, state, opts)

  defp execute(tool, args, state, opts), do: Snakepit.execute(tool, args, options(state, opts))
  defp options(state, opts), do: [pool: state.pool, timeout: @deadline] ++ opts

  # ---- which call -------------------------------------------------------------------------------------------------

  defp draw(state, random) do
    {kind, random} = :rand.uniform_s(100, random)
    {number, random} = :rand.uniform_s(1 <<< 60, random)
    # 1 KiB to 2 MiB, each doubling as likely as the others.
    {doublings, random} = :rand.uniform_s(random)
    {flavour, random} = :rand.uniform_s(8, random)
    times = trunc(64 * 2 ** (doublings * 11))
    opts = if flavour == 1, do: [idempotent: true], else: []
    data = [<<number::64, state.caller::64>>, times]

    call =
      cond do
        kind <= 35 -> {:add, [number, state.caller], opts}
        kind <= 48 -> {:to_python, data, opts}
        kind <= 61 -> {:from_python, data, opts}
        kind <= 71 -> {:copied, data, opts}
        kind <= 76 -> {:copied, data, [transfer: :zero_copy] ++ opts}
        kind <= 81 -> {:copied, data, [transfer: :inline] ++ opts}
        kind <= 83 -> {:copied, data, if(:grpc in state.ways, do: [transfer: :grpc], else: []) ++ opts}
        kind <= 87 -> {:same, data, opts}
        kind <= 92 -> {:by_reference, data, opts}
        true -> {:stream, data, opts}
      end

    {call, random}
  end
end
