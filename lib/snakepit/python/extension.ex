defmodule Snakepit.Python.Extension do
  @moduledoc false
  # The native part of workers, `native/snakepit_worker`: an extension of CPython, built for each version of Python that
  # runs workers, and kept beside the Python package. The name of its file is that of the version's ABI, as
  # `_native.cpython-311-x86_64-linux-gnu.so`; beside it lies a file with the digest of the sources that it was built
  # from and the interpreter that it was built for.

  alias Snakepit.Error
  alias Snakepit.Python.Environment.{Command, Failure}

  # Where Snakepit's sources are; a release has none.
  @root Path.expand("../../..", __DIR__)
  @sources [
    'Cargo.{toml,lock}',
    'native/snakepit_{worker,core,fork,memfd}/Cargo.toml',
    'native/snakepit_{worker,core,fork,memfd}/src/**/*.rs'
  ]
  # The interpreter says it without an import of its own libraries.
  @suffix "import _imp; print(_imp.extension_suffixes()[0])"
  # Lines of cargo's output that an error shows.
  @shown 25

  @type say :: (String.t() -> any())

  @doc "Builds it for this interpreter, unless it was built from the present sources."
  @spec complete(Path.t(), say()) :: :ok | {:error, Error.t()}
  def complete(python, say) do
    with {:ok, file} <- file(python) do
      cond do
        not sources?() and File.exists?(file) ->
          :ok

        not sources?() ->
          failed("there is no #{Path.basename(file)}, and no sources to build it from. #{in_release()}")

        current?(file) ->
          :ok

        true ->
          build(python, file, say)
      end
    end
  end

  @doc "Builds those anew whose sources have changed."
  @spec refresh(say()) :: :ok | {:error, Error.t()}
  def refresh(say) do
    stale = for file <- built(), not current?(file), do: file
    Enum.reduce_while(stale, :ok, fn file, :ok -> again(interpreter(file), file, say) end)
  end

  defp again(python, file, say) do
    if python && file(python) == {:ok, file} do
      with :ok <- build(python, file, say), do: {:cont, :ok}, else: (error -> {:halt, error})
    else
      # Its interpreter is gone. Without it, a worker says what to run.
      for path <- [file, digest_file(file)], do: File.rm(path)
      {:cont, :ok}
    end
  end

  defp directory do
    # While Snakepit is compiled for the first time, it is no application yet.
    priv = with {:error, _} <- :code.priv_dir(:snakepit), do: Path.join(@root, "priv")
    Path.join(priv, "python/snakepit")
  end

  defp built,
    do:
      for(
        name <- :filelib.wildcard('_native.*.so', String.to_charlist(directory())),
        do: Path.join(directory(), to_string(name))
      )

  defp digest_file(file), do: file <> ".digest"

  defp file(python) do
    case Command.run(python, ["-c", @suffix]) do
      {"." <> _ = suffix, 0} -> {:ok, Path.join(directory(), "_native" <> String.trim(suffix))}
      {text, _} -> failed("#{python} does not run: #{Failure.last_lines(text, 3)}")
    end
  end

  defp current?(file), do: File.exists?(file) and match?([_ | _], known(file)) and hd(known(file)) == digest()

  defp interpreter(file), do: file |> known() |> Enum.at(1)

  defp known(file),
    do:
      with(
        {:ok, text} <- File.read(digest_file(file)),
        do: String.split(text, "\n", trim: true),
        else: (_ -> [])
      )

  # ---- sources ----------------------------------------------------------------------------------------------------

  defp sources?, do: File.regular?(Path.join(@root, "native/snakepit_worker/Cargo.toml"))

  # Contents, not times: what comes out of git or a cache is as old as it happens to be.
  defp digest do
    sources()
    |> Enum.reduce(:crypto.hash_init(:sha256), &:crypto.hash_update(&2, File.read!(Path.join(@root, &1))))
    |> :crypto.hash_final()
    |> Base.encode16(case: :lower)
  end

  # A pattern, seen from the root: its own path may have characters that mean something in one.
  defp sources do
    found = Enum.flat_map(@sources, &:filelib.wildcard(&1, String.to_charlist(@root)))
    found |> Enum.map(&to_string/1) |> Enum.sort()
  end

  # ---- cargo ------------------------------------------------------------------------------------------------------

  defp build(python, file, say) do
    digest = digest()

    with {:ok, cargo} <- cargo(),
         say.("Building the native part of workers for #{python} (cargo, release)"),
         :ok <- compile(cargo, python),
         do: install(file, [digest, "\n", python, "\n"])
  end

  defp cargo do
    case System.find_executable("cargo") do
      nil ->
        failed(
          "cargo was not found, which builds the native part of workers: install Rust (https://rustup.rs)"
        )

      cargo ->
        {:ok, cargo}
    end
  end

  defp compile(cargo, python) do
    env = System.find_executable("env") || "/usr/bin/env"
    manifest = Path.join(@root, "Cargo.toml")
    args = ["build", "--release", "--locked", "--manifest-path", manifest, "-p", "snakepit_worker"]

    case Command.stream(python, env, ["PYO3_PYTHON=#{python}", cargo | args], fn _line -> :ok end) do
      {_, 0} ->
        :ok

      {text, status} ->
        failed("cargo exited with status #{status}: #{Failure.last_lines(text, @shown)}")
    end
  end

  # Written beside and renamed: a worker that has the old one loaded keeps it.
  defp install(file, digest) do
    target = System.get_env("CARGO_TARGET_DIR") || Path.join(@root, "target")
    dylib = if match?({:unix, :darwin}, :os.type()), do: "dylib", else: "so"
    from = Path.join([Path.expand(target, @root), "release", "libsnakepit_worker.#{dylib}"])
    half = file <> ".#{System.pid()}"

    with :ok <- File.cp(from, half),
         :ok <- File.rename(half, file),
         :ok <- File.write(digest_file(file), digest) do
      :ok
    else
      {:error, reason} -> failed("#{file} cannot be written: #{:file.format_error(reason)}")
    end
  end

  defp in_release, do: "Run `mix snakepit.setup` before `mix release`"

  defp failed(message),
    do: {:error, Error.new(:pool, :setup_failed, message, details: %{cause: :extension})}
end
