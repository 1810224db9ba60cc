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

    assert Enum.sort([:__struct__, :source, :fake, :performance | Options.keys()]) ==
             options |> Map.keys() |> Enum.sort()
  end

  test "an error names the pool and the key" do
    for {key, value} <- [
          size: 0,
          size: 1_025,
          threads_per_worker: 1_025,
          timeout: 2 ** 31,
          shutdown_timeout: 2 ** 32 - 1,
          cancel_grace: 2 ** 31,
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

  test "the breaker's options have defaults of their own, and errors that name them" do
    defaults = %{window_ms: 10_000, failure_ratio: 0.5, minimum_calls: 20, open_ms: 1_000, slow_ms: 5_000}
    assert {:ok, %{breaker: ^defaults}} = Options.new(@fine)
    assert {:ok, %{breaker: breaker}} = Options.new(Map.put(@fine, :breaker, open_ms: 50, slow_ms: :infinity))
    assert breaker == %{defaults | open_ms: 50, slow_ms: :infinity}
    assert {:ok, %{breaker: %{failure_ratio: 1}}} = Options.new(Map.put(@fine, :breaker, %{failure_ratio: 1}))

    for {key, value} <- [
          window_ms: 0,
          failure_ratio: 0,
          failure_ratio: 1.01,
          failure_ratio: "half",
          minimum_calls: 0,
          open_ms: -1,
          slow_ms: -1
        ] do
      error = refused(Map.put(@fine, :breaker, [{key, value}]))
      assert error.message =~ ~r/^pool :ml: in :breaker: expected #{inspect(key)} to be .*, got: /
      assert error.details.key == :breaker
    end

    assert refused(Map.put(@fine, :breaker, open: 1)).message =~
             "unknown option :open; did you mean :open_ms?"

    assert refused(Map.put(@fine, :breaker, false)).message =~ ":breaker: expected a map or a keyword list"
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

  test "limits are complete, and checked by key" do
    assert {:ok, %{limits: none}} = Options.new(@fine)
    assert none == %{memory: nil, open_files: nil, nice: nil, cpus: nil}
    limits = [memory: "4GB", open_files: 64, nice: -20, cpus: [0]]
    all = %{memory: 4 * 1024 ** 3, open_files: 64, nice: -20, cpus: [0]}
    assert {:ok, %{limits: ^all}} = Options.new(Map.put(@fine, :limits, limits))
    assert {:ok, %{limits: ^all}} = Options.new(Map.put(@fine, :limits, Map.new(limits)))

    for {limits, words} <- [
          {[memroy: 1], "unknown option :memroy; did you mean :memory?"},
          {[memory: "much"], "expected :memory to be one of nil or a number of bytes"},
          {[memory: 2 ** 63], "expected :memory to be less than"},
          {[open_files: 0], "expected :open_files to be one of nil or an integer from 1 to"},
          {[open_files: 2 ** 64], "expected :open_files"},
          {[nice: 20], "expected :nice to be one of nil or an integer from -20 to 19, got: 20"},
          {[nice: -21], "expected :nice"},
          {[nice: 1.0], "expected :nice"},
          {[cpus: 0], "expected :cpus to be one of nil or a list of a non-negative integer"},
          {[cpus: []], "expected :cpus to list some of this machine's CPUs (0"},
          {[cpus: [0, 0]], "each once, got: [0, 0]"},
          {[cpus: [0, 60_000]], "got: [0, 60000]"}
        ] do
      error = refused(Map.put(@fine, :limits, limits))
      assert error.message =~ "pool :ml: in :limits: "
      assert error.message =~ words
      assert error.details.key == :limits
    end

    for none <- [nil, "4GB", [4]],
        do: assert(refused(Map.put(@fine, :limits, none)).message =~ "pool :ml: :limits: expected a map or a")
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
