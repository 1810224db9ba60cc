defmodule Snakepit.Performance.Model.Calibration.KeptTest do
  use Snakepit.Case, async: true
  alias Snakepit.Performance.Settings
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.Calibration
  alias Snakepit.Performance.Model.Calibration.Kept
  alias Snakepit.Pool.Handle
  alias Snakepit.Telemetry

  defp handle(options \\ []) do
    {:ok, handle} = ([performance_policy: [enabled: true]] ++ options) |> pool!() |> Handle.fetch()
    handle
  end

  @tag :tmp_dir
  test "is kept for the same machine and pool, and for no other", %{tmp_dir: dir} do
    settings = %Settings{Settings.default() | calibration_dir: dir}
    handle = handle()
    assert :none = Kept.load(handle, settings)
    {:ok, _} = Calibration.run(handle, budget_ms: 5_000)
    assert {:ok, path} = Kept.store(handle, settings)
    assert File.ls!(dir) == [Path.basename(path)]
    model = Model.export(handle.performance)

    again = handle()
    assert :ok = Kept.load(again, settings)
    assert Model.export(again.performance) == model
    # Another pool's calls are others.
    assert :none = Kept.load(handle(inline_limit: 100), settings)

    # Whatever stands in the file.
    whole = File.read!(path)
    fresh = Model.export(Model.blank(handle.performance))

    for broken <- [
          "",
          "x",
          binary_part(whole, 0, byte_size(whole) - 1),
          whole <> "x",
          String.upcase(whole, :ascii)
        ] do
      File.write!(path, broken)
      other = handle()
      assert :none = Kept.load(other, settings)
      assert Model.export(other.performance) == fresh
    end
  end

  @tag :tmp_dir
  test "is not taken over where calls take other times by now", %{tmp_dir: dir} do
    settings = %Settings{Settings.default() | calibration_dir: dir}
    stalled = handle()
    # As a machine measures that stands still most of the time: both ways, all sizes.
    slow = fn size -> 50.0e6 + 1000.0 * size end

    for direction <- [:request, :reply],
        way <- [:inline, :zero_copy],
        size <- [4096, 65_536, 1_048_576],
        _ <- 1..10 do
      transfer = %{direction: direction, way: way, type: :binary, size: size, warm: true}
      Model.calibrate(stalled.performance, transfer, slow.(size), 1.0e6)
    end

    Model.anchor(stalled.performance)
    assert {:ok, _} = Kept.store(stalled, settings)
    test = self()
    event = [:snakepit, :performance, :calibration]
    id = make_ref()

    :ok =
      Telemetry.attach(
        id,
        [event],
        fn _, _, meta, _ -> send(test, {:calibration, meta.pool, meta.result}) end,
        nil
      )

    on_exit(fn -> Telemetry.detach(id) end)

    handle = handle()
    pool = handle.name
    assert :none = Kept.take_over(handle, settings)
    assert_received {:calibration, ^pool, :outdated}
    assert Model.export(handle.performance) == Model.export(Model.blank(handle.performance))

    # What was measured a moment ago holds. A machine may become busy between the two, so there is more than one try.
    held? = fn ->
      again = handle()
      {:ok, _} = Calibration.run(again, budget_ms: 5_000)
      {:ok, _} = Kept.store(again, settings)
      Kept.take_over(handle(), settings) == :ok
    end

    assert Enum.any?(1..20, fn _ -> held?.() end)
    assert_received {:calibration, _, :loaded}
  end

  test "what cannot be kept is an error, and no crash" do
    handle = handle()
    settings = %Settings{Settings.default() | calibration_dir: "/proc/nowhere"}
    assert {:error, _} = Kept.store(handle, settings)
    assert :none = Kept.load(handle, settings)
  end
end
