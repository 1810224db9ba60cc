defmodule Snakepit.Bench do
  @moduledoc false
  # The parts that suites share: pools, timing, callers.

  alias Snakepit.Performance.Model.Learning

  @python Path.expand("../python", __DIR__)
  @tools [python_module: "snakepit_bench.tools", python_path: [@python], check_returns: false]

  @doc "Where the bench's Python modules are."
  @spec python_path() :: [Path.t()]
  def python_path, do: [@python]

  @doc "Runs `fun` with a pool of the bench's tools, once it is calibrated (unless `calibrated: false`)."
  @spec with_pool(keyword(), (atom() -> result)) :: result when result: term()
  def with_pool(options, fun) do
    {calibrated?, options} = Keyword.pop(options, :calibrated, true)
    name = :"bench_#{System.unique_integer([:positive])}"
    options = [name: name] ++ @tools ++ options
    with {:error, error} <- Snakepit.start_pool(options), do: raise(error)

    try do
      if calibrated?, do: Learning.await_calibrated(name)
      fun.(name)
    after
      Snakepit.stop_pool(name)
    end
  end

  @doc "The ways that a pool's workers can go: without grpc in their Python, that way is none."
  @spec ways(atom()) :: [Snakepit.Transfer.way()]
  def ways(pool) do
    {:ok, %{options: options, lanes: lanes}} = Snakepit.Pool.Handle.fetch(pool)
    grpc? = Enum.any?(:ets.tab2list(lanes), fn {_, lane} -> lane.grpc end)
    if grpc?, do: options.transfers, else: options.transfers -- [:grpc]
  end

  @doc "Why a figure is absent, and how to have it."
  @spec needs(String.t()) :: String.t()
  def needs(package), do: "needs #{package}" <> Snakepit.Python.advice(package)

  @doc "Nanoseconds of each of `n` runs."
  @spec times(pos_integer(), (() -> any())) :: [non_neg_integer()]
  def times(n, fun) do
    for _ <- 1..n do
      started = :erlang.monotonic_time(:nanosecond)
      fun.()
      :erlang.monotonic_time(:nanosecond) - started
    end
  end

  @doc "Runs per second of so many processes in `ms`. `prepare` is run in each of them, and returns what is to be run."
  @spec rate(pos_integer(), pos_integer(), (() -> (() -> any()))) :: float()
  def rate(callers, ms, prepare) do
    parent = self()

    tasks =
      for _ <- 1..callers do
        Task.async(fn ->
          run = prepare.()
          Enum.each(1..100, fn _ -> run.() end)
          send(parent, {:ready, self()})
          receive do: (:go -> count(run, :erlang.monotonic_time(:millisecond) + ms, 0))
        end)
      end

    for %{pid: pid} <- tasks, do: receive(do: ({:ready, ^pid} -> :ok))
    for %{pid: pid} <- tasks, do: send(pid, :go)
    (tasks |> Task.await_many(:infinity) |> Enum.sum()) * 1000 / ms
  end

  defp count(run, deadline, n) do
    Enum.each(1..20, fn _ -> run.() end)
    if :erlang.monotonic_time(:millisecond) < deadline, do: count(run, deadline, n + 20), else: n + 20
  end

  @doc "Waits until `fun` is true."
  @spec wait((() -> boolean())) :: :ok
  def wait(fun) do
    unless fun.() do
      Process.sleep(5)
      wait(fun)
    end

    :ok
  end
end
