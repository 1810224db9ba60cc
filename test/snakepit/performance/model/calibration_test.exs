defmodule Snakepit.Performance.Model.CalibrationTest do
  use Snakepit.Case, async: true
  alias Snakepit.Native
  alias Snakepit.Performance.Model.{Calibration, Learning, Probe}
  alias Snakepit.Pool.Handle

  @enabled [performance_policy: [enabled: true]]

  defp handle(options \\ []) do
    {:ok, handle} = (@enabled ++ options) |> pool!() |> Handle.fetch()
    handle
  end

  test "measures each way in both directions, on idle lanes, and is nobody's call" do
    handle = handle()
    assert {:ok, %{probes: probes, base_ns: base}} = Calibration.run(handle, budget_ms: 5_000)
    assert probes > 40 and base > 0

    for direction <- [0, 1], way <- [0, 1] do
      assert {a, b, samples} = Native.cost_model_line(handle.cost_model, direction, way, 0, true, 65_536)
      assert a >= 0 and b >= 0 and samples > 0
    end

    # gRPC was not started for it.
    assert {_, _, 0} = Native.cost_model_line(handle.cost_model, 0, 2, 0, true, 65_536)
    assert {:ok, %{calls: 0, request_bytes: 0}} = Snakepit.get_stats(handle.name)
    assert [%{tools: tools}] = Snakepit.list_workers(handle.name)
    assert tools != []
    refute Probe.command() in tools
    assert {:error, error} = Snakepit.execute("snakepit.prob", %{}, pool: handle.name)
    refute error.message =~ Probe.command()
  end

  test "shared memory that has to be made is measured apart" do
    handle = handle()
    assert {:ok, _} = Calibration.run(handle, budget_ms: 20_000)
    assert {_, _, cold} = Native.cost_model_line(handle.cost_model, 0, 1, 0, false, 1_048_576)
    assert cold in 6..9
  end

  test "gRPC on request" do
    handle = handle()
    assert {:ok, _} = Calibration.run(handle, budget_ms: 5_000, ways: [:inline, :grpc])
    assert {_, _, samples} = Native.cost_model_line(handle.cost_model, 0, 2, 0, true, 65_536)
    assert samples > 0
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
    cost_model = Native.cost_model_new()
    model = Native.cost_model_export(cost_model)
    assert Native.cost_model_import(cost_model, model)

    for bytes <- ["", <<0>>, :binary.copy(<<255>>, 10_000), model <> <<0>>],
        do: refute(Native.cost_model_import(cost_model, bytes))
  end

  test "a pool that starts is waited for" do
    handle = handle()
    assert :ok = Learning.await_calibrated(handle.name)
    assert :ok = Learning.await_calibrated(:no_such_pool)
  end
end
