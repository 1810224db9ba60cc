defmodule Snakepit.Layers do
  @moduledoc false
  # Which module refers to which, read from the compiled modules, and what of it the layers in lib/layers.exs forbid.
  #
  # References come from three places: the code of functions (calls, structs, and module names held as atoms), types and
  # behaviours, and Mix's own graph of files for what happens at compile time only.

  defmodule Reference do
    @moduledoc false
    defstruct [:from, :to, :kind, :file, :line]

    @type t :: %__MODULE__{
            from: module(),
            to: module(),
            kind: :code | :type | :compile,
            file: Path.t(),
            line: pos_integer() | nil
          }
  end

  defstruct layers: [], files: %{}, references: []

  @type t :: %__MODULE__{
          layers: [{atom(), [module()]}],
          files: %{module() => Path.t()},
          references: [Reference.t()]
        }
  @type violation :: {from :: module(), to :: module()}

  @doc "Reads lib/layers.exs, the compiled modules of lib, bench/lib and examples, and Mix's graph of their files."
  @spec read() :: t()
  def read do
    {layers, _} = Code.eval_file("lib/layers.exs")

    beams = Mix.Project.compile_path() |> Path.join("*.beam") |> Path.wildcard()
    read = for path <- beams, do: info(String.to_charlist(path))
    files = for %{module: module, file: file} <- read, product?(file), into: %{}, do: {module, file}
    found = for info <- read, is_map_key(files, info.module), reference <- found(info, files), do: reference
    %__MODULE__{layers: layers, files: files, references: found ++ at_compile_time(files, found)}
  end

  # Helpers of the tests are in the same application.
  defp product?(file), do: not String.starts_with?(file, "test/")

  defp info(beam) do
    with {:ok, {_, [debug_info: {:debug_info_v1, _, {:elixir_v1, map, specs}}]}} <-
           :beam_lib.chunks(beam, [:debug_info]),
         do: Map.merge(map, %{specs: specs, file: Path.relative_to_cwd(map.file)})
  end

  # ---- references -------------------------------------------------------------------------------------------------

  @doc "The references of a compiled module to any of these modules: at most one of each kind to each of them."
  @spec references(charlist() | binary(), %{module() => Path.t()}) :: [Reference.t()]
  def references(beam, files), do: beam |> info() |> found(files)

  defp found(info, files) do
    code =
      for {_, _, meta, clauses} <- info.definitions,
          found <- walk(clauses, meta[:line], files),
          do: {:code, found}

    types = for found <- walk({info.attributes, info.specs}, info.line, files), do: {:type, found}

    for {kind, {to, line}} <- Enum.uniq_by(code ++ types, fn {kind, {to, _}} -> {kind, to} end),
        to != info.module,
        do: %Reference{from: info.module, to: to, kind: kind, file: info.file, line: line}
  end

  # All names of modules in a term, each with the nearest line above it. Elixir's syntax trees have the line in a keyword
  # list in the second place, Erlang's forms of types have it there as a number or with a column.
  defp walk(term, line, files) when is_atom(term),
    do: if(is_map_key(files, term), do: [{term, line}], else: [])

  defp walk([head | tail], line, files), do: walk(head, line, files) ++ walk(tail, line, files)

  defp walk(term, line, files) when is_tuple(term) do
    line = if tuple_size(term) > 1, do: line(elem(term, 1)) || line, else: line
    term |> Tuple.to_list() |> walk(line, files)
  end

  defp walk(term, line, files) when is_map(term), do: term |> Map.to_list() |> walk(line, files)
  defp walk(_term, _line, _files), do: []

  defp line([{_, _} | _] = meta), do: if(Keyword.keyword?(meta), do: meta[:line])
  defp line({line, column}) when is_integer(line) and is_integer(column), do: line
  defp line(line) when is_integer(line) and line > 0, do: line
  defp line(_other), do: nil

  # Mix knows the files, not the modules: edges that the compiled code has as well are left out.
  defp at_compile_time(files, found) do
    known = for reference <- found, into: MapSet.new(), do: {reference.file, files[reference.to]}
    modules = files |> Enum.sort() |> Enum.reverse() |> Map.new(fn {module, file} -> {file, module} end)

    for {from, to} <- graph(),
        {from, to} not in known,
        is_map_key(modules, from) and is_map_key(modules, to),
        do: %Reference{from: modules[from], to: modules[to], kind: :compile, file: from, line: nil}
  end

  # Lines of a file, each followed by the files that it depends on, which are indented.
  defp graph do
    Mix.Task.reenable("xref")
    shell = Mix.shell()
    Mix.shell(Mix.Shell.Process)
    Mix.Task.run("xref", ["graph", "--format", "plain", "--no-compile"])
    Mix.shell(shell)
    said() |> String.split("\n", trim: true) |> edges(nil)
  end

  defp said do
    receive do
      {:mix_shell, :info, [text]} -> text <> "\n" <> said()
    after
      0 -> ""
    end
  end

  defp edges([], _from), do: []

  defp edges([line | rest], from) do
    case Regex.run(~r/^([|`]-- )?(\S+)/, line, capture: :all_but_first) do
      ["", file] -> edges(rest, file)
      [_, file] -> [{from, file} | edges(rest, from)]
    end
  end

  # ---- what is forbidden ------------------------------------------------------------------------------------------

  @doc "Modules that no layer has."
  @spec homeless(t()) :: [module()]
  def homeless(%__MODULE__{} = read),
    do: for({module, _} <- Enum.sort(read.files), level(read, module) == nil, do: module)

  @doc "References from a lower layer to an upper one, by the modules at both ends."
  @spec upwards(t()) :: %{violation() => Reference.t()}
  def upwards(%__MODULE__{} = read) do
    # Where there is code, it is shown, not a type.
    for reference <- Enum.reverse(read.references),
        {from, _} = level(read, reference.from),
        {to, _} = level(read, reference.to),
        from < to,
        into: %{},
        do: {{reference.from, reference.to}, reference}
  end

  @doc "Files that refer to each other in a circle, within one layer: circles across layers have an edge upwards. Types do not count."
  @spec cycles(t()) :: [[Path.t()]]
  def cycles(%__MODULE__{} = read) do
    graph = :digraph.new()

    for reference <- read.references,
        reference.kind != :type,
        {from, to} = {reference.file, read.files[reference.to]},
        from != to,
        level(read, reference.from) == level(read, reference.to) do
      :digraph.add_vertex(graph, from)
      :digraph.add_vertex(graph, to)
      :digraph.add_edge(graph, from, to)
    end

    cycles = for component <- :digraph_utils.cyclic_strong_components(graph), do: Enum.sort(component)
    :digraph.delete(graph)
    Enum.sort(cycles)
  end

  @doc "The layer of a module: its place in the order, and its name."
  @spec level(t(), module()) :: {non_neg_integer(), atom()} | nil
  def level(%__MODULE__{} = read, module) do
    with {at, layer, _entry} <- placed(read, module), do: {at, layer}
  end

  @doc "The entry of lib/layers.exs that a module falls under: itself, or the nearest module above it."
  @spec entry(t(), module()) :: module() | nil
  def entry(%__MODULE__{} = read, module) do
    with {_at, _layer, entry} <- placed(read, module), do: entry
  end

  defp placed(%__MODULE__{layers: layers, files: files}, module) do
    owner = owner(module, files)

    entries =
      for {{layer, entries}, at} <- Enum.with_index(layers),
          entry <- entries,
          owner == entry or
            (entry != Snakepit and String.starts_with?(inspect(owner), inspect(entry) <> ".")),
          do: {at, layer, entry}

    Enum.max_by(entries, fn {_, _, entry} -> length(Module.split(entry)) end, fn -> nil end)
  end

  # An implementation of a protocol belongs to the struct it is for, which is in the same file.
  defp owner(module, files) do
    if own?(module),
      do: module,
      else:
        Enum.find_value(files, module, fn {other, file} -> file == files[module] && own?(other) && other end)
  end

  defp own?(module), do: match?([first | _] when first in ["Snakepit", "Mix"], Module.split(module))
end
