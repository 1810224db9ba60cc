defmodule Snakepit.Performance.Model.Calibration.KeptTest do
  use Snakepit.Case, async: true
  alias Snakepit.Performance.Settings
  alias Snakepit.Performance.Model
  alias Snakepit.Performance.Model.Calibration
  alias Snakepit.Performance.Model.Calibration.Kept
  alias Snakepit.Pool.Handle

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

  test "what cannot be kept is an error, and no crash" do
    handle = handle()
    settings = %Settings{Settings.default() | calibration_dir: "/proc/nowhere"}
    assert {:error, _} = Kept.store(handle, settings)
    assert :none = Kept.load(handle, settings)
  end
end
