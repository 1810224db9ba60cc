defmodule Snakepit.ConfigTest do
  use ExUnit.Case, async: true
  alias Snakepit.{Config, Error}

  @pool %{name: :ml, python_module: "tools"}

  defp refused(env) do
    assert {:error, %Error{category: :validation} = error} = Config.validate(env)
    error
  end

  test "nothing is a configuration" do
    assert {:ok, %Config{pools: [], default_pool: nil, venv: ".snakepit/venv", python: nil}} =
             Config.validate([])

    assert Config.validate(%{}) == Config.validate([])
  end

  test "the first pool is the default, unless another is named" do
    pools = [@pool, [name: :other, python_module: ["a", "b"], size: 1]]

    assert {:ok, %{default_pool: :ml, pools: [%{name: :ml}, %{name: :other, size: 1}]}} =
             Config.validate(pools: pools)

    assert {:ok, %{default_pool: :other}} = Config.validate(pools: pools, default_pool: :other)
  end

  test "an unknown key suggests the nearest" do
    error = refused(pols: [])
    assert error.message == "config :snakepit: unknown option :pols; did you mean :pools?"
    assert error.details.key == :pols

    assert refused(zzzzzz: 1).message =~
             "known are: :pools, :python, :venv, :performance_optimization, :default_pool"
  end

  test "a wrong type names the key" do
    for {key, value} <- [
          python: :python3,
          venv: nil,
          venv: 'venv',
          venv: {:a},
          default_pool: "ml",
          default_pool: true
        ] do
      error = refused([{key, value}])
      assert error.message =~ "config :snakepit: expected #{inspect(key)} to be"
      assert error.details.key == key
    end

    for pools <- [nil, @pool, :ml, [@pool | @pool]],
        do: assert(refused(pools: pools).message =~ "expected :pools to be a list")

    for env <- [nil, "x", [1]], do: assert(refused(env).message =~ "expected a map or a keyword list")
  end

  test "the environment may lie in an application's directory, which must be there" do
    assert {:ok, %{venv: {:snakepit, "priv/venv"}}} = Config.validate(venv: {:snakepit, "priv/venv"})
    assert refused(venv: {:no_such_app, "x"}).message =~ ":venv names an application that is not there"
  end

  test "what is wrong with a pool names the pool and the key" do
    assert refused(pools: [@pool, %{name: :b, size: 0}]).message ==
             "pool :b: expected :size to be a positive integer, got: 0"

    assert refused(pools: [Map.put(@pool, :pyton, "x")]).message ==
             "pool :ml: unknown option :pyton; did you mean :python?"

    assert refused(pools: [Map.put(@pool, :threads_per_worker, 2)]).message =~
             "pool :ml: :threads_per_worker would be ignored"

    assert refused(pools: [nil]).message =~ "pool without a name"
  end

  test "a pool configured twice" do
    assert refused(pools: [@pool, %{@pool | python_module: "b"}]).message == "pool :ml: configured twice"
  end
end
