defmodule Snakepit.Bench.Calls do
  @moduledoc "Small calls against a bare socket, their throughput, calls by a process with a long mailbox, and the start of a worker."
  @behaviour Snakepit.Bench.Suite

  alias Snakepit.{Bench, Stats}
  alias Snakepit.Bench.{Floor, Result}

  @impl true
  def name, do: "calls"

  @impl true
  def about, do: "small calls and their throughput over a bare socket, the start of a worker"

  @impl true
  def seconds(%{quick?: quick?}), do: if(quick?, do: 12, else: 45)

  @impl true
  def run(%{quick?: quick?, progress: progress}) do
    rounds = if quick?, do: 10, else: 40
    progress.("small calls")
    small = small(rounds, 500)
    progress.("throughput")
    throughput = throughput(if(quick?, do: 3, else: 10), 1_000)
    progress.("calls from a long mailbox")
    mailbox = mailbox(if(quick?, do: 4, else: 12), 200)
    progress.("worker start")
    small ++ throughput ++ mailbox ++ start(if(quick?, do: 3, else: 10))
  end

  defp small(rounds, each) do
    Bench.with_pool([size: 1], fn pool ->
      socket = Floor.echo()
      # As long as the frame of the call it is compared with.
      payload = :binary.copy("x", 50)
      call = fn -> {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) end
      floor = fn -> Floor.echo(socket, payload) end
      Bench.times(2_000, call)
      Bench.times(2_000, floor)

      {floors, calls} =
        Enum.unzip(for _ <- 1..rounds, do: {Bench.times(each, floor), Bench.times(each, call)})

      :gen_tcp.close(socket)
      p50s = Enum.map(calls, &Stats.median/1)
      floor_p50s = Enum.map(floors, &Stats.median/1)
      ratios = Enum.zip_with(p50s, floor_p50s, &(&1 / &2))
      p99s = Enum.map(calls, &(Stats.percentile(&1, 99) / 1000))

      [
        Result.new("call.small.over_socket_floor", "ratio", ratios, {:at_most, 2.0}),
        Result.new("call.small.p50", "µs", Enum.map(p50s, &(&1 / 1000))),
        Result.new("call.small.p99", "µs", p99s),
        Result.new("floor.socket.p50", "µs", Enum.map(floor_p50s, &(&1 / 1000)))
      ]
    end)
  end

  # 8 callers on 2 workers, against 2 callers that each own a bare echo.
  defp throughput(rounds, ms) do
    Bench.with_pool([size: 2], fn pool ->
      payload = :binary.copy("x", 50)
      call = fn -> {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) end
      Bench.times(1_000, call)

      pairs =
        for _ <- 1..rounds do
          floor =
            Bench.rate(2, ms, fn ->
              socket = Floor.echo()
              fn -> Floor.echo(socket, payload) end
            end)

          {floor, Bench.rate(8, ms, fn -> call end)}
        end

      {floors, calls} = Enum.unzip(pairs)

      [
        Result.new(
          "call.throughput.over_socket_floor",
          "ratio",
          Enum.zip_with(calls, floors, &(&1 / &2)),
          {:at_least, 0.5}
        ),
        Result.new("call.throughput", "calls/s", calls),
        Result.new("floor.socket.throughput", "calls/s", floors)
      ]
    end)
  end

  @messages 1_000_000

  # The same calls by two processes in turn: one whose mailbox is empty, and one with a million messages.
  defp mailbox(rounds, each) do
    Bench.with_pool([size: 1], fn pool ->
      data = Snakepit.bytes(:binary.copy("x", 65_536))
      call = fn way -> fn -> Snakepit.execute!("echo", %{x: data}, pool: pool, transfer: way) end end
      stream = fn -> "count" |> Snakepit.stream(%{n: 20}, pool: pool) |> Enum.count() end

      figures =
        [small: fn -> {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool) end] ++
          [inline: call.(:inline), zero_copy: call.(:zero_copy), grpc: call.(:grpc), stream: stream]

      [empty, full] = callers = for n <- [0, @messages], do: Task.async(fn -> caller(n) end)

      results =
        for {name, run} <- figures do
          figure = "call.long_mailbox.#{name}.over_empty"

          case works(run) do
            :ok ->
              for caller <- callers, do: median(caller, 50, run)
              ratios = for _ <- 1..rounds, do: median(full, each, run) / median(empty, each, run)
              Result.new(figure, "ratio", ratios, {:at_most, 1.5})

            {:absent, why} ->
              Result.absent(figure, why)
          end
        end

      for caller <- callers, do: send(caller.pid, {caller.ref, :stop})
      Task.await_many(callers, 60_000)
      results
    end)
  end

  defp caller(messages) do
    for i <- 1..messages//1, do: send(self(), {:message, i})
    serve()
  end

  defp serve do
    receive do
      {:run, from, ref, fun} ->
        send(from, {ref, fun.()})
        serve()

      {_ref, :stop} ->
        :ok
    end
  end

  # There may be no gRPC.
  defp works(run) do
    run.()
    :ok
  rescue
    error in Snakepit.Error -> {:absent, error.message}
  end

  defp median(%Task{pid: pid}, each, run) do
    ref = make_ref()
    send(pid, {:run, self(), ref, fn -> each |> Bench.times(run) |> Stats.median() end})
    receive do: ({^ref, answer} -> answer)
  end

  defp start(rounds) do
    samples =
      for _ <- 1..rounds do
        started = System.monotonic_time()

        Bench.with_pool([size: 1, calibrated: false], fn pool ->
          {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)
          System.convert_time_unit(System.monotonic_time() - started, :native, :microsecond) / 1000
        end)
      end

    [Result.new("worker.start.ms", "ms", samples, {:at_most, 200})]
  end
end
