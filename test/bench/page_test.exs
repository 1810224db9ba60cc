defmodule Snakepit.Bench.PageTest do
  use ExUnit.Case, async: true
  alias Snakepit.Bench.{Chart, Compare, Page, Pictures, Result, Results}

  defp figure(name, unit, value), do: Result.new(name, unit, [value * 0.9, value, value * 1.1])

  defp results do
    peers =
      for {rival, factor} <- [snakepit: 1, port: 3, grpc: 9],
          {size, us} <- [{"0B", 30}, {"4KiB", 35}, {"16MiB", 3_000}],
          do: figure("peers.#{rival}.#{size}.roundtrip", "µs", us * factor)

    floors =
      for {size, us} <- [{"0B", 0.1}, {"16MiB", 2_000}],
          do: figure("floor.memcpy_warm.#{size}.roundtrip", "µs", us)

    over =
      for {size, ratio} <- [{"0B", 0.8}, {"16MiB", 3.0}],
          do: Result.new("peers.port.#{size}.roundtrip.over_snakepit", "ratio", [ratio], {:at_least, 1})

    ways =
      for k <- [12, 16, 20],
          {way, factor} <- [inline: 1, zero_copy: 0.7],
          do: figure("regret.request.2^#{k}.#{way}", "µs", 2 ** (k - 9) * factor)

    regret =
      for {who, ratio} <- [chosen: 1.0, fixed_10MB: 2.5],
          k <- [12, 20],
          do: figure("regret.2^#{k}.#{who}.over_fastest", "ratio", ratio)

    crossover = [%Result{name: "calibrate.crossover.1", unit: "B", value: 30_000, low: 20_000, high: 40_000}]
    scale = for n <- [1, 2, 4], do: figure("scale.workers.#{n}.calls", "calls/s", 10_000 * n)

    peers ++
      floors ++
      over ++ ways ++ regret ++ crossover ++ scale ++ [Result.absent("peers.<erlport>", "not & never")]
  end

  defp run, do: %{machine: %{cpu: "A <CPU>", cores: 2}, complete?: true, results: results()}

  # What is no XML, this does not read.
  defp parsed(svg, dir) do
    path = Path.join(dir, "chart.svg")
    File.write!(path, svg)
    code = "import sys, xml.dom.minidom as m; print(m.parse(sys.argv[1]).documentElement.tagName)"
    {out, 0} = System.cmd(Snakepit.Python.venv_python(), ["-c", code, path])
    out
  end

  @tag :tmp_dir
  test "charts of what there is: well-formed, named, with all points", %{tmp_dir: dir} do
    charts = Pictures.charts(results())
    assert Enum.map(charts, & &1.id) == ~w(peers peers-over ways regret scale-workers-calls)

    for chart <- charts do
      svg = chart |> Chart.svg() |> IO.iodata_to_binary()
      assert parsed(svg, dir) == "svg\n"
      for {name, points} <- chart.series, do: assert(svg =~ ">#{name}</text>" and length(points) > 1)
      circles = svg |> String.split("<circle") |> length()
      assert circles - 1 == chart.series |> Enum.map(&length(elem(&1, 1))) |> Enum.sum()
      # Nothing outside, and no number that is none.
      for [_, x] <- Regex.scan(~r/c[xy]="([^"]+)"/, svg),
          do: assert(String.to_float(x) >= 0 and String.to_float(x) <= 900)
    end

    assert [{"snakepit", _} | _] = hd(charts).series
    assert hd(charts).floors == ["floor: memcpy warm"]
    assert Pictures.charts([]) == []
    assert Pictures.charts([Result.absent("peers.x", "y")]) == []
  end

  test "the page has every figure, and nothing of it is markup by accident" do
    html = run() |> Page.html() |> IO.iodata_to_binary()
    for r <- results(), r.absent == nil, do: assert(html =~ r.name)
    assert html =~ "A &lt;CPU&gt;" and html =~ "peers.&lt;erlport&gt;" and html =~ "not &amp; never"
    refute html =~ "broken off"
    assert %{run() | complete?: false} |> Page.html() |> IO.iodata_to_binary() =~ "broken off"

    earlier = for r <- results(), r.value, do: %{r | value: r.value / 2, low: r.low / 2, high: r.high / 2}
    comparison = Compare.compare(results(), earlier, 0.1)
    html = run() |> Page.html(comparison) |> IO.iodata_to_binary()
    assert html =~ ~s(class="worse">worse) and html =~ "Against the earlier run"
  end

  @tag :tmp_dir
  @tag :chromium
  test "a browser shows it without a complaint", %{tmp_dir: dir} do
    path = Path.join(dir, "page.html")
    File.write!(path, Page.html(run()))
    shot = Path.join(dir, "page.png")

    {said, 0} =
      System.cmd(
        "chromium",
        ~w(--headless --no-sandbox --disable-gpu --enable-logging=stderr --v=0 --window-size=1000,2000 --dump-dom) ++
          ["--user-data-dir=#{Path.join(dir, "profile")}", "--screenshot=#{shot}", "file://" <> path],
        stderr_to_stdout: true
      )

    refute said =~ "CONSOLE"
    assert said =~ "peers.snakepit.0B.roundtrip"
    assert <<0x89, "PNG", _::binary>> = File.read!(shot)
  end

  test "wrong words on the command line are told apart" do
    for {argv, words} <- [
          {["--minutes", "abc"], "--minutes takes a number, not abc"},
          {["--quik"], "unknown option --quik"},
          {["--json"], "--json takes a value"},
          {["--quick=3"], "--quick takes no value"},
          {["speed"], "there is no suite \"speed\""},
          {["calls", "--from", "x.json"], "--from measures nothing: leave calls out"},
          {["--from", "README.md"], "README.md is no file of mix snakepit.bench --json"},
          {["--compare", "none.json"], "none.json: no such file"}
        ] do
      error = assert_raise(Mix.Error, fn -> Mix.Tasks.Snakepit.Bench.run(argv) end)
      assert error.message =~ words
    end
  end

  @tag :tmp_dir
  test "from a file, by the mix task", %{tmp_dir: dir} do
    import ExUnit.CaptureIO
    json = Path.join(dir, "run.json")
    :ok = Results.write!(json, run())
    html = Path.join(dir, "page.html")
    task = &Mix.Tasks.Snakepit.Bench.run/1
    out = capture_io(fn -> task.(["--from", json, "--html", html, "--svg", Path.join(dir, "svg")]) end)
    assert out =~ "page.html" and File.exists?(html)
    # What it says, it says again.
    assert out =~ "peers.snakepit.0B.roundtrip" and out =~ "not & never"
    assert dir |> Path.join("svg/*.svg") |> Path.wildcard() |> length() == 5

    # The same figures are no worse than themselves; half as good ones are.
    assert capture_io(fn -> task.(["--from", json, "--compare", json]) end) =~ "Nothing is worse."

    better =
      for r <- results(),
          do: if(r.unit == "µs", do: %{r | value: r.value / 2, low: r.low / 2, high: r.high / 2}, else: r)

    :ok = Results.write!(Path.join(dir, "better.json"), %{run() | results: better})

    assert capture_io(:stderr, fn ->
             capture_io(fn ->
               assert catch_exit(task.(["--from", json, "--compare", Path.join(dir, "better.json")])) ==
                        {:shutdown, 1}
             end)
           end) =~ ~r/^Worse: \d+ of \d+ figures\.$/m

    assert_raise Mix.Error, ~r/no_such.json: no such file/, fn -> task.(["--compare", "no_such.json"]) end
  end
end
