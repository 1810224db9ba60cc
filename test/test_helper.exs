# PropEr is a Debian package (erlang-proper); newer Mix versions prune code paths that no application lists.
with path when is_list(path) <- :code.lib_dir(:proper), do: Code.append_path(Path.join(path, "ebin"))

unless Code.ensure_loaded?(:proper) do
  IO.puts(:stderr, "PropEr is missing: apt-get install erlang-proper")
  System.halt(1)
end

unless File.exists?(Snakepit.Python.venv_python()) do
  IO.puts(:stderr, "no Python environment: run `mix snakepit.setup --with test`")
  System.halt(1)
end

exclude =
  if System.find_executable("chromium") do
    []
  else
    IO.puts(
      :stderr,
      "no Chromium, so the test that opens the bench's page is left out: apt-get install chromium"
    )

    [:chromium]
  end

# A machine that is busy with something else may take its time: no test is about that.
ExUnit.start(capture_log: true, exclude: exclude, assert_receive_timeout: 30_000, timeout: 300_000)
