defmodule Snakepit.Pool.OptionsTest do
  use ExUnit.Case, async: true
  import Snakepit.Properties
  alias Snakepit.Error
  alias Snakepit.Pool.Options

  @fine %{name: :ml, python_module: "tools"}

  defp refused(given) do
    assert {:error, %Error{category: :validation, reason: :invalid_option} = error} = Options.new(given)
    error
  end

  test "the least that is needed" do
    assert {:ok, options} = Options.new(@fine)

    assert %{name: :ml, size: 2, python_module: ["tools"], worker_profile: :process, max_queue: 1000} =
             options

    assert options.transfers == Options.ways()
    assert Options.lanes(options) == 1
    assert Options.new(Keyword.new(@fine)) == {:ok, options}
    assert {:ok, %{python_module: ["a", "b"]}} = Options.new(%{@fine | python_module: ["a", "b"]})
    assert Enum.sort([:__struct__ | Options.keys()]) == options |> Map.keys() |> Enum.sort()
  end

  test "an error names the pool and the key" do
    for {key, value} <- [
          size: 0,
          size: "2",
          python_module: :tools,
          python_module: [],
          python_module: ["a" | "b"],
          python: 3,
          python_path: "lib",
          python_path: [{"my_app", "lib"}],
          python_path: [{nil, "lib"}],
          python_module: "words.py",
          python_module: ["fine", "a/b"],
          env: %{HOME: "x"},
          worker_profile: :fiber,
          threads_per_worker: 0,
          transfers: [],
          transfers: [:pigeon],
          transfers: [:inline, :inline],
          max_queue: -1,
          timeout: -1,
          timeout: "1s",
          startup_timeout: 0,
          shutdown_timeout: :infinity,
          inline_limit: 0,
          chunk_size: "big",
          memory_quota: 0,
          idle_chunk_ms: 1.5,
          max_result: "0"
        ] do
      error = refused(Map.put(@fine, key, value))
      assert error.message =~ ~r/^pool :ml: expected #{inspect(key)}/
      assert error.details.key == key
      assert error.pool == :ml
    end
  end

  test "an unknown key suggests the nearest, a missing one is named, and so is a pool without a name" do
    assert refused(Map.put(@fine, :sise, 1)).message == "pool :ml: unknown option :sise; did you mean :size?"
    assert refused(%{name: :ml}).message == "pool :ml: :python_module is required"
    assert refused(%{python_module: "a"}).message == "pool without a name: :name is required"
    assert refused(%{@fine | name: "ml"}).message =~ "pool without a name: expected :name to be an atom"

    for given <- [nil, 1, "ml", [1], ~D[2024-01-01]],
        do: assert(refused(given).message =~ "pool without a name")
  end

  test "a module is named, not its file" do
    assert refused(%{@fine | python_module: "a/b.py"}).message ==
             ~S(pool :ml: expected :python_module to be a module's name, not a file: "a.b", got: "a/b.py")
  end

  test "a directory may be seen from an application's own, which must be there" do
    assert {:ok, %{python_path: [{:logger, "x"}]}} =
             Options.new(Map.put(@fine, :python_path, [{:logger, "x"}]))

    error = refused(Map.put(@fine, :python_path, ["a", {:no_such_app, "x"}]))
    assert error.message == "pool :ml: :python_path names the application :no_such_app, which is not there"
  end

  test "what would be ignored is refused" do
    error = refused(Map.put(@fine, :threads_per_worker, 4))
    assert error.message =~ ":threads_per_worker would be ignored with worker_profile: :process"
    threads = Map.merge(@fine, %{worker_profile: :thread, threads_per_worker: 4})
    assert {:ok, options} = Options.new(threads)
    assert Options.lanes(options) == 4

    error = refused(Map.merge(@fine, %{chunk_size: "1MB", memory_quota: "1MB"}))
    assert error.details.key == :memory_quota
    assert error.message =~ "twice :chunk_size"

    assert {:ok, %{memory_quota: 2_097_152}} =
             Options.new(Map.merge(@fine, %{chunk_size: "1MB", memory_quota: "2MB"}))
  end

  test "nothing that is given makes it raise" do
    any = :proper_types.any()

    holds(:proper_types.list({:proper_types.oneof(Options.keys()), any}), 2_000, fn pairs ->
      case answer_of(fn -> Options.new(Map.merge(@fine, Map.new(pairs))) end) do
        {:ok, %Options{}} -> true
        {:error, %Error{category: :validation, message: message}} -> String.valid?(message)
        _ -> false
      end
    end)
  end
end
