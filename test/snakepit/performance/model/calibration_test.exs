defmodule Snakepit.Performance.Model.CalibrationTest do
  use Snakepit.Case, async: true
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.{Calibration, Learning}
  alias Snakepit.Pool.Handle

  @enabled [performance_policy: [enabled: true]]

  defp handle(options \\ []) do
    {:ok, handle} = (@enabled ++ options) |> pool!() |> Handle.fetch()
    handle
  end

  defp line(handle, direction, way),
    do: Model.line(handle.performance, %{direction: direction, way: way, type: :binary, size: 65_536})

  test "measures each way in both directions, on idle lanes, and is nobody's call" do
    handle = handle()
    assert {:ok, %{probes: probes, base_ns: base}} = Calibration.run(handle, budget_ms: 5_000)
    assert probes > 40 and base > 0

    for direction <- [:request, :reply], way <- [:inline, :zero_copy] do
      line = line(handle, direction, way)
      assert line.fixed_ns >= 0 and line.ns_per_byte >= 0 and line.samples > 0
    end

    # gRPC was not started for it.
    assert %{samples: 0} = line(handle, :request, :grpc)
    assert {:ok, %{calls: 0, request_bytes: 0}} = Snakepit.get_stats(handle.name)
    assert [%{tools: tools}] = Snakepit.list_workers(handle.name)
    assert tools != []
    refute Snakepit.Transfer.probe_command() in tools
    assert {:error, error} = Snakepit.execute("snakepit.prob", %{}, pool: handle.name)
    refute error.message =~ Snakepit.Transfer.probe_command()
  end

  test "a kept prediction agrees with probes unless nearly all of them are twice as short or twice as long" do
    probes = fn times ->
      for ns <- times, do: %{direction: :request, way: :inline, size: 4096, ns: ns, warm: true}
    end

    agree? = fn times, predicted -> Calibration.agree?(probes.(times), fn _ -> predicted end) end
    for ns <- [50, 100, 400], do: assert(agree?.([100, 120, 150, 200, 9000], ns * 1.0))
    for ns <- [49, 401, 9000], do: refute(agree?.([100, 120, 150, 200, 9000], ns * 1.0))
    assert agree?.([100], 200.0) and agree?.([100, 200], 400.0)
    refute agree?.([100], 201.0) or agree?.([100, 200], 401.0)

    # A prediction for each kind of probe is compared, and one that is off is enough.
    mixed = probes.([100, 100, 100]) ++ Enum.map(probes.([500, 500]), &%{&1 | way: :zero_copy})
    assert Calibration.agree?(mixed, fn %{way: way} -> if way == :inline, do: 100.0, else: 500.0 end)
    refute Calibration.agree?(mixed, fn _ -> 100.0 end)
    assert Calibration.agree?([], fn _ -> raise "nothing to predict" end)
  end

  test "shared memory that has to be made is measured apart" do
    handle = handle()
    assert {:ok, _} = Calibration.run(handle, budget_ms: 20_000)
    cold = %{direction: :request, way: :zero_copy, type: :binary, size: 1_048_576, warm: false}
    assert Model.line(handle.performance, cold).samples in 6..9
  end

  test "gRPC on request" do
    handle = handle()
    assert {:ok, _} = Calibration.run(handle, budget_ms: 5_000, ways: [:inline, :grpc])
    assert line(handle, :request, :grpc).samples > 0
  end

  @tag :tmp_dir
  test "gives up where no lane is idle", %{tmp_dir: dir} do
    handle = handle()
    {task, go_on} = busy(handle.name, dir)
    assert {:error, :busy} = Calibration.run(handle, max_wait_ms: 50)
    go_on.()
    Task.await(task)
  end

  test "one way leaves nothing to compare; small quotas are respected" do
    assert {:error, :nothing_to_compare} = Calibration.run(handle(transfers: [:inline]))
    handle = handle(memory_quota: "2MB", chunk_size: "1MB")
    assert {:ok, _} = Calibration.run(handle, budget_ms: 5_000)
  end

  test "a model's bytes are checked" do
    %{performance: model} = handle()
    exported = Model.export(model)
    assert Model.import(model, exported)

    for bytes <- ["", <<0>>, :binary.copy(<<255>>, 10_000), exported <> <<0>>],
        do: refute(Model.import(model, bytes))
  end

  test "a pool that starts is waited for" do
    handle = handle()
    assert :ok = Learning.await_calibrated(handle.name)
    assert :ok = Learning.await_calibrated(:no_such_pool)
  end
end
