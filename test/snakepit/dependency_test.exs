defmodule Snakepit.DependencyTest do
  # Snakepit as a dependency of another application, which has an application :telemetry, and of that one's release.
  use Snakepit.Case, async: true

  @moduletag :python
  @moduletag vm: :second
  @moduletag timeout: 600_000
  @tools Path.expand("../support/python", __DIR__)

  # As the library of that name has it; handlers are called in the order in which they came.
  @telemetry ~S"""
  -module(telemetry).
  -behaviour(application).
  -behaviour(supervisor).
  -export([attach/4, execute/3, start/2, stop/1, init/1]).
  attach(Id, Event, Fun, Config) -> true = ets:insert(?MODULE, {Event, Id, Fun, Config}), ok.
  execute(Event, Measurements, Metadata) ->
      [Fun(Event, Measurements, Metadata, Config) || {_, _, Fun, Config} <- ets:lookup(?MODULE, Event)], ok.
  start(_, _) -> ets:new(?MODULE, [named_table, public, bag]), supervisor:start_link(?MODULE, []).
  stop(_) -> ok.
  init([]) -> {ok, {#{}, []}}.
  """

  @telemetry_mix """
  defmodule Telemetry.MixProject do
    use Mix.Project
    def project, do: [app: :telemetry, version: "1.3.0", language: :erlang]
    def application, do: [mod: {:telemetry, []}]
  end
  """

  @app_mix """
  defmodule MyApp.MixProject do
    use Mix.Project

    def project do
      # Snakepit comes first: so it is started first, but for its own word.
      deps = [{:snakepit, path: SNAKEPIT}, {:telemetry, path: "../telemetry"}]
      [app: :my_app, version: "0.1.0", deps: deps]
    end

    def application, do: [extra_applications: [:logger]]
  end
  """

  # README's first pool, as it is.
  @config """
  import Config
  config :logger, level: :none
  config :snakepit, pools: [%{name: :tools, size: 2, python_module: "my_tools"}]
  """

  @app ~S"""
  defmodule MyApp do
    alias Snakepit.Performance.{Controller, ThresholdManager}
    alias Snakepit.Performance.Model.{Calibration, Learning}

    def first_pool do
      {:ok, _} = Application.ensure_all_started(:snakepit)
      {:error, error} = Snakepit.execute("add", %{a: 1, b: 2})
      print(error.message)
    end

    def first_module(python) do
      Application.put_env(:snakepit, :python, python)
      first_pool()
    end

    # What both kinds of listeners got of the same calls.
    def events(python, path) do
      {:ok, _} = Application.ensure_all_started(:my_app)
      found(hd(Snakepit.Telemetry.events()))

      for event <- Snakepit.Telemetry.events() do
        :ok = :telemetry.attach({:library, event}, event, &__MODULE__.heard/4, {self(), :library})
        :ok = Snakepit.Telemetry.attach({:own, event}, event, &__MODULE__.heard/4, {self(), :own})
      end

      pool = %{name: :events, size: 1, python: python, python_module: "snakepit_test_tools", python_path: [path]}
      {:ok, _} = Snakepit.start_pool(Map.put(pool, :performance_policy, enabled: true, exploration_rate: 0))
      :ok = Learning.await_calibrated(:events)
      {:ok, handle} = Snakepit.Pool.Handle.fetch(:events)
      # By the threshold of 10 MB; no memory is warm yet.
      {:ok, _} = Snakepit.execute("length", %{x: Snakepit.bytes(:binary.copy("x", 20_000_000))}, pool: :events)
      {:error, _} = Snakepit.execute("fail", %{}, pool: :events)
      :ok = Controller.update_policy(:events, goal: :minimize_memory)
      {:ok, _} = Calibration.run(handle, budget_ms: 20)
      :ok = ThresholdManager.adjust_threshold(:events, %{data_type: :tensor, bytes: 77})
      :ok = Application.stop(:snakepit)
      print({caught(:library), caught(:own)})
    end

    # Nobody has attached anything to Snakepit's own.
    defp found(event), do: unless(Snakepit.Telemetry.listened_to?(event), do: Process.sleep(1) && found(event))

    def heard(event, measurements, metadata, {pid, by}), do: send(pid, {by, event, measurements, metadata})

    defp caught(by) do
      receive do
        {^by, event, measurements, metadata} -> [{event, measurements, metadata} | caught(by)]
      after
        0 -> []
      end
    end

    defp print(term), do: IO.puts(["printed: ", Base.encode64(:erlang.term_to_binary(term))])
  end
  """

  setup_all do
    dir = Path.join(System.tmp_dir!(), "snakepit-dependency-#{System.pid()}")
    on_exit(fn -> File.rm_rf!(dir) end)
    app = Path.join(dir, "my_app")

    for {path, text} <- [
          {"telemetry/mix.exs", @telemetry_mix},
          {"telemetry/src/telemetry.erl", @telemetry},
          {"my_app/mix.exs", String.replace(@app_mix, "SNAKEPIT", inspect(File.cwd!()))},
          {"my_app/config/config.exs", @config},
          {"my_app/lib/my_app.ex", @app},
          {"my_app/priv/python/my_tools.py", "from snakepit import tool\n"}
        ] do
      path = Path.join(dir, path)
      File.mkdir_p!(Path.dirname(path))
      File.write!(path, text)
    end

    env = for name <- ~w(MIX_EXS MIX_BUILD_PATH MIX_BUILD_ROOT MIX_DEPS_PATH MIX_TARGET), do: {name, nil}

    {said, status} =
      System.cmd("mix", ["release"], cd: app, env: [{"MIX_ENV", "prod"} | env], stderr_to_stdout: true)

    assert status == 0, said
    # A release does not start where its project is.
    elsewhere = Path.join(dir, "elsewhere")
    File.mkdir_p!(elsewhere)
    %{said: said, program: Path.join(app, "_build/prod/rel/my_app/bin/my_app"), cwd: elsewhere}
  end

  defp printed(%{program: program, cwd: cwd}, code) do
    {text, status} = System.cmd(program, ["eval", code], cd: cwd, stderr_to_stdout: true)
    printed = Regex.run(~r/^printed: (\S+)$/m, text, capture: :all_but_first)
    assert printed, "status #{status}: #{text}"
    printed |> hd() |> Base.decode64!() |> :erlang.binary_to_term()
  end

  test "an application compiles without a warning; mix release warns of paths that will not work", %{
    said: said
  } do
    warnings = said |> String.split("\n") |> Enum.filter(&(&1 =~ "warning"))
    assert [venv, path] = warnings
    assert venv =~ ~S(`venv: ".snakepit/venv"` is seen from the working directory)
    assert venv =~ ~S(set `config :snakepit, venv: {:my_app, "priv/venv"}` and run `mix snakepit.setup`)
    assert path =~ ~S(pool :tools: `python_path: "priv/python"` is seen from the working directory)
    assert path =~ ~S(set `python_path: [{:my_app, "priv/python"}]`)
  end

  test "a pool that finds no environment or no modules in a release says how to mend it",
       %{cwd: cwd} = release do
    message = printed(release, "MyApp.first_pool()")

    assert message =~
             "no Python environment at #{cwd}/.snakepit/venv/bin/python: no such file or directory (enoent); set `config :snakepit, venv: {:my_app, \"priv/venv\"}`"

    message = printed(release, "MyApp.first_module(#{inspect(Snakepit.Python.venv_python())})")

    assert message =~
             "looked for in #{cwd}/priv/python (no such directory): set `python_path: [{:my_app, \"priv/python\"}]`"
  end

  test "the application :telemetry gets every event that Snakepit's own handlers get", release do
    python = inspect(Snakepit.Python.venv_python())
    {library, own} = printed(release, "MyApp.events(#{python}, #{inspect(@tools)})")
    assert Enum.sort(library) == Enum.sort(own)
    events = library |> Enum.map(&elem(&1, 0)) |> Enum.uniq()

    for event <- [
          [:snakepit, :call, :stop],
          [:snakepit, :call, :fallback],
          [:snakepit, :performance, :decision],
          [:snakepit, :performance, :threshold],
          [:snakepit, :performance, :policy],
          [:snakepit, :performance, :calibration]
        ],
        do: assert(event in events)

    # Each has what the table says of it.
    for {event, measurements, metadata} <- library do
      {names, of_metadata} = documented(event)
      assert names -- Enum.map(Map.keys(measurements), &to_string/1) == [], inspect({event, measurements})
      assert of_metadata -- Enum.map(Map.keys(metadata), &to_string/1) == [], inspect({event, metadata})
    end
  end

  # The names in the columns of the table, without what stands in brackets behind them.
  defp documented(event) do
    {:docs_v1, _, _, _, %{"en" => text}, _, _} = Code.fetch_docs(Snakepit.Telemetry)
    row = text |> String.split("\n") |> Enum.find(&String.starts_with?(&1, "| `#{inspect(event)}` |"))
    [_event, _when, measurements, metadata] = row |> String.trim("|") |> String.split(" | ")
    {names(measurements), names(metadata)}
  end

  defp names(cell) do
    for [_, name] <- Regex.scan(~r/`(\w+\??)`/, String.replace(cell, ~r/\([^)]*\)/, "")), do: name
  end
end
