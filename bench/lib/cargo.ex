defmodule Snakepit.Bench.Cargo do
  @moduledoc false
  # Builds the native libraries that only the bench uses, when a suite needs one. `mix compile` does not build them.

  @root Path.expand("../..", __DIR__)

  @doc "Builds a crate of the workspace; the path of its library."
  @spec library(String.t()) :: {:ok, Path.t()} | {:error, String.t()}
  def library(crate) do
    target = Path.expand(System.get_env("CARGO_TARGET_DIR") || "target", @root)
    args = ["build", "--release", "--locked", "--quiet", "-p", crate]

    with true <- File.exists?(Path.join(@root, "Cargo.toml")),
         cargo when cargo != nil <- System.find_executable("cargo"),
         {_, 0} <- System.cmd(cargo, args, cd: @root, stderr_to_stdout: true) do
      {:ok, Path.join(target, "release/lib#{crate}.so")}
    else
      {words, status} -> {:error, "cargo exited with status #{status}: #{words}"}
      _ -> {:error, "it needs Snakepit's own sources and cargo"}
    end
  end
end
