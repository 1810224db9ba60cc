defmodule Snakepit.ReleaseTest do
  # A real release is made in dependency_test.exs.
  use ExUnit.Case, async: true
  alias Snakepit.Release

  @moduletag :tmp_dir

  defp problems(env, dir, runtime \\ []),
    do: Release.problems(env, %{app: :my_app, root: dir, runtime: runtime})

  defp environment!(dir, path) do
    File.mkdir_p!(Path.join([dir, path, "bin"]))
    File.write!(Path.join([dir, path, "bin/python"]), "")
  end

  test "the README's configuration has no problem once the environment is made", %{tmp_dir: dir} do
    pool = %{name: :tools, python_module: "my_tools", python_path: [{:my_app, "priv/python"}]}
    env = [venv: {:my_app, "priv/venv"}, pools: [pool]]

    assert ["there is no Python environment at priv/venv: run `mix snakepit.setup` before `mix release`"] =
             problems(env, dir)

    environment!(dir, "priv/venv")
    assert [] = problems(env, dir)
    File.ln_s!("lib", Path.join(dir, "priv/venv/lib64"))

    assert ["priv/venv/lib64 is a link, which `mix release` copies as a second environment" <> _] =
             problems(env, dir)
  end

  test "paths relative to the working directory, or outside of priv, are problems", %{tmp_dir: dir} do
    assert [venv] = problems([], dir)
    assert venv =~ ~S(set `config :snakepit, venv: {:my_app, "priv/venv"}`)
    assert ["`venv: {:my_app, \"venv\"}` is not in priv" <> _] = problems([venv: {:my_app, "venv"}], dir)
    assert [] = problems([venv: "/opt/venv"], dir)
    assert [] = problems([python: "python3.12"], dir)
    assert [] = problems([python: "/usr/bin/python3"], dir)

    assert ["config :snakepit: `python: \"venv/bin/python\"` is seen" <> _] =
             problems([python: "venv/bin/python"], dir)

    pool = fn options -> [python: "python3", pools: [[name: :a, python_module: "x"] ++ options]] end
    # A module may come from the interpreter's packages, and the default directory is not there.
    assert [] = problems(pool.([]), dir)
    File.mkdir_p!(Path.join(dir, "priv/python"))
    assert ["pool :a: `python_path: \"priv/python\"` is seen" <> path] = problems(pool.([]), dir)
    assert path =~ ~S(set `python_path: [{:my_app, "priv/python"}]`)
    assert ["pool :a: `python_path: \"py\"`" <> path] = problems(pool.(python_path: ["/x", "py"]), dir)
    assert path =~ ~S(set `python_path: [{:my_app, "priv/python"}]`)

    assert ["pool :a: `python_path: {:my_app, \"py\"}` is not in priv" <> _] =
             problems(pool.(python_path: [{:my_app, "py"}]), dir)

    assert [] = problems(pool.(python_path: [{:logger, "priv/py"}]), dir)
  end

  test "an anonymous function for env: is a problem", %{tmp_dir: dir} do
    pool = fn env -> [python: "python3", pools: [%{name: :a, python_module: "x", env: env}]] end
    assert [] = problems(pool.({MyApp, :env}), dir)
    assert [] = problems(pool.(&String.upcase/1), dir)
    assert [] = problems(pool.(%{"A" => "b"}), dir)
    assert ["pool :a: `env:` is an anonymous function" <> _] = problems(pool.(fn _ -> %{} end), dir)
  end

  test "a pool's own interpreter is checked; keys that are set when the release starts are not", %{
    tmp_dir: dir
  } do
    own = [pools: [%{name: :a, python_module: "x", python: "/usr/bin/python3", python_path: []}]]
    assert [] = problems(own, dir)
    own = [pools: [%{name: :a, python_module: "x", python: "bin/python3", python_path: ["py"]}]]

    assert ["pool :a: `python: \"bin/python3\"`" <> _, "pool :a: `python_path: \"py\"`" <> _] =
             problems(own, dir)

    assert [] = problems(own, dir, [:pools])
    assert [] = problems([], dir, [:python])
    assert [] = problems([], dir, [:venv])
    assert [_] = problems([], dir, [:default_pool])
  end

  test "an invalid configuration is left to the start of the application", %{tmp_dir: dir} do
    for env <- [
          [python: 1],
          [python: "python3", pools: :none],
          [python: "python3", pools: [1, %{name: 1, python_path: 2}]]
        ],
        do: assert([] = problems(env, dir))

    assert [] = problems([venv: 7], dir)
  end
end
