defmodule Mix.Tasks.Snakepit.BenchTest do
  # The task as its user runs it: a VM of its own.
  use Snakepit.Case, async: true

  @moduletag :tmp_dir
  @moduletag timeout: 600_000

  defp bench(args, python) do
    code =
      "Application.put_env(:snakepit, :python, #{inspect(python)}); Mix.Task.run(\"snakepit.bench\", #{inspect(args)})"

    System.cmd("mix", ["run", "--no-start", "-e", code], stderr_to_stdout: true, env: [{"MIX_ENV", "test"}])
  end

  test "what is missing, and how to install it, is said first; the rest is measured", %{tmp_dir: dir} do
    json = Path.join(dir, "out.json")
    {out, status} = bench(["calls", "transfer", "soak", "--quick", "--json", json], bare_python(dir))
    assert status == 0, out
    [first, second | _] = String.split(out, "\n")
    assert first == "Without numpy, left out: transfer, soak."
    assert second =~ "mix snakepit.setup --with numpy,grpc"
    assert out =~ ~r/^transfer +absent +needs numpy: run `mix snakepit.setup --with numpy`$/m
    assert out =~ ~r/^soak +absent +needs numpy/m
    refute out =~ "** ("

    assert {:ok, %{results: results, complete?: true}} = Snakepit.Bench.Results.read(json)
    assert %{value: p50} = Enum.find(results, &(&1.name == "call.small.p50"))
    assert p50 > 0
  end

  test "an environment in which no worker starts is reported in one line, before anything is measured", %{
    tmp_dir: dir
  } do
    assert {"** (Mix) snakepit.bench: the Python interpreter \"/nope\" does not exist" <> _, 1} =
             bench(["calls"], "/nope")

    python = dir |> bare_python() |> without_native()

    assert {"** (Mix) snakepit.bench: workers cannot import snakepit._native: ModuleNotFoundError" <> words,
            1} = bench(["calls"], python)

    assert words =~ "Run `mix snakepit.setup`"

    # In the environment itself.
    first = Path.join(dir, "bare/first")
    File.mkdir_p!(first)
    File.write!(Path.join(first, "inspect.py"), "x = (")
    at_start(python, "sys.path.insert(0, #{inspect(first)})")

    assert {"** (Mix) snakepit.bench: workers cannot import inspect: SyntaxError" <> words, 1} =
             bench(["calls"], python)

    assert words =~ "It comes from #{first}/inspect.py. Run `mix snakepit.setup`"
  end

  test "a suite that fails is reported, and the others are run", %{tmp_dir: dir} do
    # Everything can be imported, and yet no worker starts.
    File.mkdir_p!(Path.join(dir, "late"))
    python = Path.join(dir, "late/python")
    real = Snakepit.Python.venv_python()

    File.write!(
      python,
      "#!/bin/sh\ncase \"$*\" in *snakepit.main*) echo broken >&2; exit 3;; esac\nexec #{real} \"$@\"\n"
    )

    File.chmod!(python, 0o755)
    {out, 1} = bench(["calls", "scale", "--quick"], python)
    assert out =~ ~r/^It was broken off: .*exited with status 3/m
    assert out =~ "** (Mix) snakepit.bench: broken off: calls, scale"
  end
end
