defmodule Snakepit.Bench.Faults.Scenario do
  @moduledoc false
  # A swept VM does this again and again: the whole life of a pool, and everything it had is gone at the end. One call of
  # libc fails meanwhile. Each call must end in its right answer or in an error that says something, and afterwards all must
  # work again.

  alias Snakepit.Bench.Faults.Control
  alias Snakepit.Bench.Footprint
  alias Snakepit.{Bench, Error, Pool}
  alias Snakepit.Performance.Model.Calibration.Kept

  @deadline 6_000
  # A machine that is busy with something else may take its time.
  @margin 6_000
  @recovery 20_000
  @pool :faults

  @type problem :: {:wrong | :hang | :late | :leak, String.t()}
  @type seen :: %{happened: boolean(), problems: [problem()], errors: [String.t()]}

  @doc "Runs the scenario for each fault that a line of stdin holds (`Host` writes them), and prints what was seen."
  @spec main(Path.t(), Path.t()) :: no_return()
  def main(control, scratch) do
    Logger.configure(level: :error)
    # Resources that stay once everything was used are no leak.
    for _ <- 1..2, do: once(control, scratch, nil)
    serve(control, scratch, footprint())
  end

  defp serve(control, scratch, before) do
    case IO.gets("") do
      line when is_binary(line) ->
        fault = line |> String.trim() |> Base.decode64!() |> :erlang.binary_to_term()
        seen = control |> once(scratch, fault) |> Map.update!(:problems, &(&1 ++ leaks(before, scratch)))
        IO.puts("seen " <> Base.encode64(:erlang.term_to_binary(seen)))
        serve(control, scratch, before)

      _eof ->
        System.halt(0)
    end
  end

  defp once(control, scratch, fault) do
    Process.delete(:problems)
    Process.delete(:errors)
    settings = [calibrate: false, learning_enabled: false, exploration_rate: 0, calibration_dir: scratch]
    Application.put_env(:snakepit, :performance_optimization, settings)
    Control.arm(control, fault)
    start_application()
    life()
    # Without it there would be nothing to stop.
    timed("the application's stop", fn -> Application.stop(:snakepit) end)
    happened = fault != nil and Control.happened?(control)
    Control.disarm(control)
    for file <- File.ls!(scratch), do: File.rm!(Path.join(scratch, file))
    %{happened: happened, problems: Process.get(:problems, []), errors: Process.get(:errors, [])}
  end

  # ---- one life ---------------------------------------------------------------------------------------------------

  defp start_application do
    with {:error, reason} <-
           timed("the application's start", fn -> Application.ensure_all_started(:snakepit) end) do
      error("start of the application: #{inspect(reason, limit: 20, printable_limit: 300)}")

      with {:error, again} <- Application.ensure_all_started(:snakepit),
           do: problem(:wrong, "the application does not start after a fault: #{inspect(again)}")
    end
  end

  defp life do
    if start_pool() do
      pids = for worker <- workers(), do: worker.os_pid
      data = :binary.copy(<<1, 2, 3, 4, 5, 6, 7, 250>>, 512 * 1024)
      small = binary_part(data, 0, 64 * 1024)
      call("add", %{a: 1, b: 2}, [], 3)
      call("copied", %{x: Snakepit.bytes(small)}, [transfer: :inline], small)
      for _ <- 1..2, do: call("copied", %{x: Snakepit.bytes(data)}, [transfer: :zero_copy], data)
      call("copied", %{x: Snakepit.bytes(data)}, [], data)
      tensors()
      stream(binary_part(data, 0, 8))
      call("copied", %{x: Snakepit.bytes(small)}, [transfer: :grpc], small)
      share(data)
      keep()
      recycle(pids)
      die()
      recover("the pool does not serve after a fault")
      timed("the pool's stop", fn -> Snakepit.stop_pool(@pool) end)
    end
  catch
    kind, reason ->
      problem(:wrong, Exception.format(kind, reason, __STACKTRACE__) |> String.slice(0, 1_500))
  end

  defp start_pool do
    options = %{
      name: @pool,
      size: 2,
      python_module: "snakepit_bench.faults",
      python_path: Bench.python_path(),
      chunk_size: "4MB",
      memory_quota: "512MB",
      worker_max_requests: 12,
      startup_timeout: 15_000
    }

    case timed("the pool's start", fn -> Snakepit.start_pool(options) end, 20_000) do
      {:ok, _} ->
        true

      {:error, %Error{} = failure} ->
        judge("start of the pool", failure)

        case Snakepit.start_pool(options) do
          {:ok, _} ->
            true

          {:error, again} ->
            problem(:wrong, "the pool does not start after a fault: #{Exception.message(again)}")
            false
        end

      {:hang, _} ->
        false
    end
  end

  defp tensors do
    values = for i <- 1..65_536, into: <<>>, do: <<i / 4::float-32-native>>
    twice = for i <- 1..65_536, into: <<>>, do: <<i / 2::float-32-native>>
    tensor = Snakepit.Tensor.new(values, :f32, {65_536})
    for _ <- 1..2, do: call("doubled", %{x: tensor}, [], &match?(%Snakepit.Tensor{data: ^twice}, &1))
  end

  defp stream(pattern) do
    me = self()
    ref = make_ref()
    args = %{pattern: Snakepit.bytes(pattern), times: 16_384, n: 4}
    send_item = &send(me, {ref, &1})
    ended = timed("a stream", fn -> Snakepit.execute_stream("blocks", args, send_item, options([])) end)
    items = received(ref)
    expected = for i <- 0..3, do: <<i, :binary.copy(pattern, 16_384)::binary>>

    case ended do
      {:error, %Error{} = failure} ->
        judge("stream", failure)
        unless List.starts_with?(expected, items), do: problem(:wrong, "items of a stream that failed")

      {:hang, _} ->
        :ok

      _ ->
        unless items == expected, do: problem(:wrong, "items of a stream")
    end
  end

  defp received(ref) do
    receive do
      {^ref, item} -> [item | received(ref)]
    after
      0 -> []
    end
  end

  # Fresh memory that stays while it is looked at.
  defp share(data) do
    with {:ok, handle} <- Pool.Handle.fetch(@pool) do
      case timed("sharing", fn -> Pool.Arena.share(handle, :binary.copy(data, 2)) end) do
        {:ok, shared} -> if shared != :binary.copy(data, 2), do: problem(:wrong, "what was shared")
        {:error, failure} -> judge("sharing", failure)
        {:hang, _} -> :ok
      end
    end
  end

  defp keep do
    with {:ok, handle} <- Pool.Handle.fetch(@pool) do
      settings = handle.performance.settings

      case Kept.store(handle, settings) do
        {:ok, _path} ->
          Kept.load(handle, settings)

        {:error, reason} when is_atom(reason) ->
          error("keeping a calibration: #{reason}")
      end
    end
  end

  # Each worker serves so many calls that it is due.
  defp recycle(pids) do
    for _ <- 1..16, do: call("add", %{a: 20, b: 22}, [], 42)
    until(5_000, fn -> Enum.any?(workers(), &(&1.os_pid not in pids and &1.status == :ready)) end)
  end

  defp die do
    case timed("a call of a dying worker", fn -> Snakepit.execute("die", %{}, options([])) end) do
      {:error, %Error{category: :worker}} -> :ok
      {:error, %Error{} = failure} -> judge("die", failure)
      {:hang, _} -> :ok
      other -> problem(:wrong, "a dying worker's call: #{inspect(other, limit: 5)}")
    end
  end

  defp recover(words) do
    works? = fn -> match?({:ok, 3}, Snakepit.execute("add", %{a: 1, b: 2}, options(timeout: 2_000))) end

    unless until(@recovery, works?),
      do:
        problem(
          :hang,
          words <> ": " <> inspect(Snakepit.execute("add", %{a: 1, b: 2}, options(timeout: 2_000)))
        )
  end

  # ---- judging ----------------------------------------------------------------------------------------------------

  defp call(tool, args, opts, right) do
    what = "#{tool} #{inspect(opts)}"

    case timed(what, fn -> Snakepit.execute(tool, args, options(opts)) end) do
      {:ok, value} ->
        right? = if is_function(right), do: right.(value), else: value == right
        unless right?, do: problem(:wrong, "#{what}: #{inspect(value, limit: 5, printable_limit: 50)}")

      {:error, failure} ->
        judge(what, failure)

      {:hang, _} ->
        :ok
    end
  end

  # It ended in time; that nobody noticed before is worth to be known.
  defp judge(what, %Error{category: :timeout} = failure), do: problem(:late, "#{what}: #{failure.message}")

  defp judge(what, %Error{category: category, message: message} = failure)
       when category in [:transfer, :worker, :pool, :python_error, :grpc_error] and is_binary(message) and
              message != "" do
    error("#{what}: #{category} #{inspect(failure.reason)}: #{message}")
  end

  defp judge(what, failure), do: problem(:wrong, "#{what}: #{inspect(failure, printable_limit: 300)}")

  # Gives up on a function that does not come back within the deadline and a margin.
  defp timed(what, fun, deadline \\ @deadline) do
    task =
      Task.async(fn ->
        try do
          fun.()
        catch
          kind, reason -> {:raised, Exception.format(kind, reason, __STACKTRACE__)}
        end
      end)

    case Task.yield(task, deadline + @margin) || Task.shutdown(task, :brutal_kill) do
      {:ok, {:raised, words}} ->
        problem(:wrong, "#{what} raised: #{String.slice(words, 0, 1_500)}")
        {:hang, what}

      {:ok, answer} ->
        answer

      nil ->
        problem(:hang, "#{what} did not end within #{deadline + @margin} ms")
        {:hang, what}
    end
  end

  defp problem(kind, words), do: Process.put(:problems, Process.get(:problems, []) ++ [{kind, words}])
  defp error(words), do: Process.put(:errors, Process.get(:errors, []) ++ [words])

  defp options(opts), do: Keyword.merge([pool: @pool, timeout: @deadline], opts)
  defp workers, do: Snakepit.list_workers(@pool)

  defp until(ms, fun) when ms <= 0, do: fun.()

  defp until(ms, fun) do
    started = System.monotonic_time(:millisecond)

    fun.() ||
      (
        Process.sleep(20)
        until(ms - (System.monotonic_time(:millisecond) - started), fun)
      )
  end

  # ---- leaks ------------------------------------------------------------------------------------------------------

  # The companion and all workers have this VM's environment.
  defp footprint, do: Footprint.take(System.fetch_env!("SNAKEPIT_FAULTS"))

  defp leaks(before, scratch) do
    growth = fn -> Footprint.growth(before, footprint()) end

    left = fn ->
      Path.wildcard(Path.join(System.tmp_dir!(), "snakepit-*-#{System.pid()}-*")) ++ File.ls!(scratch)
    end

    if until(5_000, fn -> Footprint.nothing?(growth.()) and left.() == [] end),
      do: [],
      else: [{:leak, "#{inspect(growth.())} #{inspect(left.())} #{inspect(open())}"}]
  end

  defp open do
    for fd <- File.ls!("/proc/self/fd"),
        {:ok, what} <- [File.read_link("/proc/self/fd/#{fd}")],
        do: "#{fd} #{what}"
  end
end
