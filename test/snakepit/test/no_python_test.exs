defmodule Snakepit.Test.NoPythonTest do
  # A VM in which no Python can be found, nor any other program: fake pools start and serve there, by configuration
  # alone, and no OS process is started for them.
  use ExUnit.Case, async: true

  # An emulator as `erl` starts it, without the shell scripts, which need a PATH.
  defp vm(code) do
    bin = Path.join([:code.root_dir(), "erts-#{:erlang.system_info(:version)}", "bin"])
    env = for {name, _} <- System.get_env(), do: {name, nil}

    own = [
      {"ROOTDIR", to_string(:code.root_dir())},
      {"BINDIR", bin},
      {"EMU", "beam"},
      {"PROGNAME", "erl"},
      {"PATH", "/nonexistent"},
      {"LANG", "C.UTF-8"},
      {"TMPDIR", System.tmp_dir!()}
    ]

    paths = for app <- [:elixir, :logger, :snakepit], do: app |> :code.lib_dir() |> Path.join("ebin")
    file = Path.join(System.tmp_dir!(), "no-python-#{System.pid()}.exs")
    File.write!(file, code)
    on_exit(fn -> File.rm(file) end)
    run = "'Elixir.Code':eval_file(<<\"#{file}\">>), halt(0, [{flush, true}])."

    args =
      ["+fnu", "-noinput", "-pa"] ++
        paths ++ ["-eval", "{ok, _} = application:ensure_all_started(elixir), " <> run]

    env = Enum.uniq_by(own ++ env, &elem(&1, 0))
    System.cmd(Path.join(bin, "erlexec"), args, env: env, stderr_to_stdout: true)
  end

  test "a fake pool needs no interpreter, no environment and no companion" do
    code = ~S"""
    Application.load(:snakepit)
    Application.put_env(:snakepit, :python, "/nonexistent/python")
    Application.put_env(:snakepit, :venv, "/nonexistent/venv")
    Application.put_env(:snakepit, :pools, [{Snakepit.Test, name: :tools, tools: Snakepit.FakeTools}])
    {:ok, _} = Application.ensure_all_started(:snakepit)
    nil = System.find_executable("python3")

    {:ok, 3} = Snakepit.execute("add", %{a: 1, b: 2})
    {:ok, _} = Snakepit.Test.start_pool(name: :more, tools: %{"echo" => fn %{"x" => x} -> x end})
    tensor = Snakepit.Tensor.new(Enum.to_list(1..10_000), :f64)
    {:ok, ^tensor} = Snakepit.execute("echo", %{x: tensor}, pool: :more)
    [3, 2, 1] = Enum.to_list(Snakepit.stream("countdown", %{n: 3}))
    {:error, %{category: :worker}} = Task.await(Task.async(fn ->
      Snakepit.Test.stub(:tools, "answer", fn -> Snakepit.Test.kill_worker() end)
      Snakepit.execute("answer")
    end))
    {:ok, 42} = Snakepit.execute("answer")

    # The emulator's own helper, and nothing else.
    children = for task <- File.ls!("/proc/self/task"),
                   pid <- String.split(File.read!("/proc/self/task/#{task}/children")),
                   do: String.trim(File.read!("/proc/#{pid}/comm"))

    IO.puts("children: #{inspect(children)}")
    {:error, error} = Snakepit.start_pool(%{name: :real, python_module: "x"})
    IO.puts(error.message)
    :ok = Application.stop(:snakepit)
    IO.puts("done")
    """

    {said, status} = vm(code)
    assert said =~ ~s(children: ["erl_child_setup"]\n)
    assert said =~ ~s(the Python interpreter "/nonexistent/python" does not exist)
    assert {_, 0} = {said, status}
    assert said =~ ~r{^done$}m
  end
end
