Code.require_file("native/compile_cargo.exs", __DIR__)

defmodule Snakepit.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :snakepit,
      version: @version,
      elixir: "~> 1.14",
      description: "Calls Python from the BEAM, each call's bytes by the cheapest way",
      compilers: [:cargo] ++ Mix.compilers() ++ [:snakepit_worker, :snakepit_release],
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      deps: [],
      # PropEr comes with Erlang's packages and is used by tests alone, ErlPort by the bench where it is loaded.
      xref: [exclude: [:proper, :proper_types, :python]],
      package: [licenses: ["Apache-2.0"]],
      dialyzer: [plt_add_apps: [:mix, :ex_unit]]
    ]
  end

  def application do
    [extra_applications: [:logger, :crypto, telemetry: :optional], mod: {Snakepit.Application, []}]
  end

  # The bench and the demo are compiled in a clone only. While Mix reads this file for a dependency, the project that
  # depends on Snakepit is the current one.
  defp elixirc_paths(env) do
    if Mix.Project.get() in [nil, __MODULE__],
      do: ["lib", "bench/lib", "examples/demo/lib"] ++ tests(env),
      else: ["lib"]
  end

  defp tests(:test), do: ["test/support"]
  defp tests(_), do: []
end
