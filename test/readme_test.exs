defmodule Snakepit.ReadmeTest do
  # Every example of the README works as typed, in the order of the page.
  # Not async: it starts the pool that calls without a pool's name go to.
  use Snakepit.Case, async: false
  import ExUnit.CaptureIO

  @readme File.read!("README.md")

  defp blocks(language) do
    for [_, code] <- Regex.scan(~r/```#{language}\n(.*?)```/s, @readme), do: code
  end

  @tag :tmp_dir
  test "the first tool and the first pool", %{tmp_dir: dir} do
    File.write!(Path.join(dir, "my_tools.py"), Enum.join(blocks("python"), "\n\n"))
    # In place of the working directory's priv/python.
    before = System.get_env("PYTHONPATH")
    System.put_env("PYTHONPATH", dir)

    on_exit(fn ->
      if before, do: System.put_env("PYTHONPATH", before), else: System.delete_env("PYTHONPATH")
      Snakepit.stop_pool(:tools)
    end)

    # As the page's configuration does.
    {:ok, _} = Snakepit.start_pool(%{name: :tools, size: 2, python_module: "my_tools"})
    examples = for block <- blocks("elixir"), block =~ "iex>", example <- examples(block), do: example
    assert length(examples) > 10

    Enum.reduce(examples, [], fn {code, expected}, binding ->
      # Some of them print.
      {{value, binding}, _printed} = with_io(fn -> Code.eval_string(code, binding) end)

      if expected != "" do
        {wanted, _} = Code.eval_string(expected, binding)
        assert value == wanted, "#{code}\ngives #{inspect(value)}, the README says #{expected}"
      end

      binding
    end)
  end

  # [{expression, expected value or ""}]
  defp examples(block) do
    for part <- String.split(block, ~r/^iex> /m, trim: true) do
      [code | rest] = String.split(part, "\n", trim: true)
      {more, expected} = Enum.split_while(rest, &String.starts_with?(&1, "...>"))
      code = Enum.join([code | Enum.map(more, &String.trim_leading(&1, "...>"))], "\n")
      {code, Enum.join(expected, "\n")}
    end
  end

  @tag :tmp_dir
  test "the README's table of types holds for array-like objects", %{tmp_dir: dir} do
    assert @readme =~
             "not objects that are more than their numbers: subclasses of `ndarray`, tables and columns of pandas, polars and pyarrow"

    source = """
    import numpy as np
    from snakepit import tool

    def like(module, name):
        offers = {"__array__": lambda self, dtype=None, copy=None: np.arange(3.0), "__module__": module}
        return type(name, (), offers)()

    @tool
    def made(kind: str):
        return {
            "plain": lambda: like("mine", "Numbers"),
            "transposed": lambda: np.arange(6.0).reshape(2, 3).T,
            "pandas": lambda: like("pandas.core.frame", "DataFrame"),
            "polars": lambda: like("polars.series.series", "Series"),
            "pyarrow": lambda: like("pyarrow.lib", "Table"),
            "masked": lambda: np.ma.masked_array([1, 2], mask=[0, 1]),
            "matrix": lambda: np.matrix([[1, 2]]),
        }[kind]()
    """

    {:ok, pool} = source_pool(dir, source)
    made = &Snakepit.execute("made", %{kind: &1}, pool: pool)
    assert {:ok, %Tensor{shape: {3}}} = made.("plain")
    assert {:ok, %Tensor{shape: {3, 2}}} = made.("transposed")

    for kind <- ~w(pandas polars pyarrow masked matrix),
        do: assert({:error, %Error{category: :python_error}} = made.(kind), kind)
  end

  test "the configuration is valid" do
    for block <- blocks("elixir"), block =~ "config :snakepit", env <- [:prod, :test] do
      # The reader's application stands for this one.
      block = String.replace(block, ":my_app", ":snakepit")
      config = Config.Reader.eval!("README.md", "import Config\n" <> block, env: env)
      assert {:ok, %Snakepit.Config{pools: pools}} = Snakepit.Config.validate(config[:snakepit] || [])
      for pool <- pools, do: assert(%{name: :tools, size: 2} = pool)
    end
  end

  test "the README names compilation and setup before the first pool" do
    place = fn words -> @readme |> :binary.match(words) |> elem(0) end
    assert place.("mix snakepit.setup --with numpy") < place.("Snakepit.start_pool")
    assert place.("builds the Rust libraries") < place.("Snakepit.start_pool")
  end

  test "the README's table of calls names all functions, and only existing ones" do
    named =
      for [_, name, arity] <- Regex.scan(~r{`([a-z_]+!?)/(\d)`}, @readme),
          do: {String.to_atom(name), String.to_integer(arity)}

    public =
      Snakepit.__info__(:functions)
      |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
      |> Map.new(fn {k, v} -> {k, Enum.max(v)} end)

    for {name, arity} <- named, do: assert(public[name] == arity, "#{name}/#{arity}")
    assert (Map.keys(public) -- Keyword.keys(named)) -- [:bytes, :default_pool] == []
    for category <- Snakepit.Error.categories(), do: assert(@readme =~ "`#{inspect(category)}`")
  end

  test "the README has the project's version and is the module's documentation" do
    version = Mix.Project.config()[:version]
    assert File.read!("CHANGELOG.md") =~ "## #{version}"
    assert File.read!("priv/python/pyproject.toml") =~ ~s(version = "#{version}")
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Snakepit)
    assert doc =~ "## A first tool"
  end
end
