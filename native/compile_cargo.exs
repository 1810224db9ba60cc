unless Code.ensure_loaded?(Mix.Tasks.Compile.Cargo) do
  defmodule Mix.Tasks.Compile.Cargo do
    @moduledoc false
    # Builds the Cargo workspace and puts its results into priv/native. Always a release build: Mix links one priv/
    # into every environment. cargo is run only when a source is newer than the stamp, so that an idle `mix compile`
    # costs a directory listing.
    use Mix.Task.Compiler

    @min_rust {1, 91}
    @root Path.expand("..", __DIR__)
    @out Path.join(@root, "priv/native")
    @libraries ~w(nif grpc numpy)
    @dylib if match?({:unix, :darwin}, :os.type()), do: "dylib", else: "so"
    # As cargo names them, and as they are named here.
    @artifacts [{"snakepit_companion", "snakepit_companion"}] ++
                 for(name <- @libraries, do: {"libsnakepit_#{name}.#{@dylib}", "libsnakepit_#{name}.so"})

    @impl true
    def run(_args) do
      if fresh?(), do: {:noop, []}, else: build()
    end

    @impl true
    def clean do
      File.rm_rf!(@out)
      :ok
    end

    defp stamp, do: Path.join(@out, ".stamp")

    defp fresh? do
      with {:ok, %{mtime: built}} <- File.stat(stamp(), time: :posix),
           true <- Enum.all?(@artifacts, fn {_, name} -> File.exists?(Path.join(@out, name)) end) do
        sources() |> Enum.all?(fn path -> File.stat!(path, time: :posix).mtime <= built end)
      else
        _ -> false
      end
    end

    defp sources do
      Path.wildcard(Path.join(@root, "native/*/{src,proto}/**/*.{rs,proto}")) ++
        Path.wildcard(Path.join(@root, "native/*/{Cargo.toml,build.rs}")) ++
        [Path.join(@root, "Cargo.toml"), Path.join(@root, "Cargo.lock")]
    end

    defp build do
      cargo = check_cargo!()
      # Taken before the build: a source saved while cargo runs is newer, and built the next time.
      started = System.os_time(:second)
      Mix.shell().info("Building the native libraries (cargo, release)")
      crates = Enum.flat_map(["companion" | @libraries], &["-p", "snakepit_#{&1}"])
      args = ["build", "--release", "--locked" | crates]

      case System.cmd(cargo, args, cd: @root, into: IO.stream(:stdio, :line), stderr_to_stdout: true) do
        {_, 0} ->
          install()
          File.write!(stamp(), "")
          File.touch!(stamp(), started)
          {:ok, []}

        {_, status} ->
          Mix.shell().error("cargo exited with status #{status}")
          {:error, [diagnostic("cargo exited with status #{status}; its output is above")]}
      end
    end

    # Written beside and renamed: a VM that has the old library mapped keeps it.
    defp install do
      File.mkdir_p!(@out)
      target = System.get_env("CARGO_TARGET_DIR") || Path.join(@root, "target")

      for {built, name} <- @artifacts do
        from = Path.join([Path.expand(target, @root), "release", built])
        to = Path.join(@out, name)
        temporary = to <> ".#{System.pid()}"
        File.cp!(from, temporary)
        File.chmod!(temporary, 0o755)
        File.rename!(temporary, to)
      end
    end

    defp check_cargo! do
      needed = "Snakepit needs Rust #{elem(@min_rust, 0)}.#{elem(@min_rust, 1)} or later (https://rustup.rs)"

      case System.find_executable("cargo") do
        nil ->
          Mix.raise("cargo was not found. #{needed}.")

        cargo ->
          {text, 0} = System.cmd(cargo, ["--version"])
          [_, major, minor] = Regex.run(~r/cargo (\d+)\.(\d+)/, text)

          if {String.to_integer(major), String.to_integer(minor)} < @min_rust,
            do: Mix.raise("#{String.trim(text)} is too old. #{needed}.")

          cargo
      end
    end

    defp diagnostic(message) do
      %Mix.Task.Compiler.Diagnostic{
        compiler_name: "cargo",
        file: Path.join(@root, "Cargo.toml"),
        message: message,
        position: nil,
        severity: :error
      }
    end
  end
end
