defmodule Snakepit.Test.Tool do
  @moduledoc false
  # A function in place of a Python tool, and the checks of its arguments: those of priv/python/snakepit/tools/signature.py,
  # in the same words. Pure.

  alias Snakepit.Options
  alias Snakepit.Test.{Kinds, Words}

  # The Python name of each declared type, and the kinds of values that may be passed for it.
  @types [
    any: {nil, nil},
    int: {"int", [:int]},
    float: {"float", [:float, :int]},
    str: {"str", [:str]},
    bool: {"bool", [:bool]},
    bytes: {"bytes", [:bytes]},
    none: {"None", [:none]},
    list: {"list", [:list]},
    tuple: {"tuple", [:tuple]},
    dict: {"dict", [:dict]},
    set: {"set", [:set]},
    tensor: {"numpy.ndarray", [:tensor]},
    date: {"datetime.date", [:date, :datetime]},
    time: {"datetime.time", [:time]},
    datetime: {"datetime.datetime", [:datetime]},
    decimal: {"decimal.Decimal", [:decimal]}
  ]

  @schema [
    params: [type: :any, default: nil, doc: "The parameters, in order; by default any argument is taken."],
    stream: [
      type: :boolean,
      default: false,
      doc:
        "Whether what the function returns is what the tool yields: its items, as by a generator. A `Stream` is taken so " <>
          "in any case."
    ],
    returns: [type: :any, default: nil, doc: "What a generator returns at its end: of a tool that streams."],
    doc: [
      type: {:or, [{:in, [nil]}, :string]},
      default: nil,
      doc: "The docstring that `Snakepit.tools/1` shows."
    ]
  ]

  @enforce_keys [:fun]
  defstruct [:name, :fun, :params, :doc, :returns, stream?: false]

  @typep param :: %{
           name: String.t(),
           text: String.t() | nil,
           kinds: [Kinds.kind()] | nil,
           default: {:ok, term()} | :none
         }
  @type t :: %__MODULE__{
          name: String.t() | nil,
          fun: (() -> term()) | (map() -> term()),
          params: [param()] | nil,
          doc: String.t() | nil,
          returns: term(),
          stream?: boolean()
        }

  @doc "The options of a tool as Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@schema)

  @doc "The names of types."
  @spec types() :: [atom()]
  def types, do: Keyword.keys(@types)

  @doc "A tool made of a function, or of another value that `tools:` may have; an error text if it is none."
  @spec new(term(), keyword() | map()) :: {:ok, t()} | {:error, String.t()}
  def new(fun, opts \\ [])
  def new(%__MODULE__{} = tool, []), do: {:ok, tool}
  def new({:stream, fun}, []), do: new(fun, stream: true)

  def new(fun, opts) when is_function(fun, 0) or is_function(fun, 1) do
    with {:ok, options} <- Options.validate(opts, @schema),
         {:ok, params} <- params(options.params, fun) do
      {:ok,
       %__MODULE__{
         fun: fun,
         params: params,
         doc: options.doc,
         stream?: options.stream,
         returns: options.returns
       }}
    else
      {:error, _key, words} -> {:error, words}
      {:error, words} -> {:error, words}
    end
  end

  def new(other, _opts),
    do:
      {:error,
       "expected a function of the arguments' map, {:stream, function}, or Snakepit.Test.tool/2, got: #{inspect(other)}"}

  # A function without arguments has no parameters.
  defp params(nil, fun) when is_function(fun, 0), do: {:ok, []}
  defp params(nil, _fun), do: {:ok, nil}

  defp params(given, fun) when is_list(given) do
    with {:ok, params} <- each(given, []) do
      cond do
        params != [] and is_function(fun, 0) ->
          {:error, "a function of no arguments has no :params, got: #{inspect(given)}"}

        twice = List.first(params -- Enum.uniq_by(params, & &1.name)) ->
          {:error, "in :params: #{twice.name} is there twice"}

        true ->
          {:ok, params}
      end
    end
  end

  defp params(other, _fun),
    do: {:error, "expected :params to be a list such as [:a, b: :int, c: {:int, 1}], got: #{inspect(other)}"}

  defp each([], done), do: {:ok, Enum.reverse(done)}

  defp each([given | rest], done) do
    with {:ok, param} <- param(given), do: each(rest, [param | done])
  end

  defp param({name, type}) when (is_atom(name) and name not in [nil, true, false]) or is_binary(name) do
    {types, default} =
      case type do
        {types, default} -> {types, {:ok, default}}
        types -> {types, :none}
      end

    with {:ok, text, kinds} <- type(List.wrap(types), to_string(name)),
         do: {:ok, %{name: to_string(name), text: text, kinds: kinds, default: default}}
  end

  defp param(name) when (is_atom(name) and name not in [nil, true, false]) or is_binary(name),
    do: param({name, :any})

  defp param(other),
    do: {:error, "in :params: expected a name, or {name, type}, got: #{inspect(other)}"}

  defp type(names, param) do
    case Enum.find(names, &(not (is_atom(&1) and Keyword.has_key?(@types, &1)))) do
      nil ->
        known = Enum.map(names, &@types[&1])

        if Enum.any?(known, &(&1 == {nil, nil})) or known == [],
          do: {:ok, nil, nil},
          else: {:ok, Enum.map_join(known, " | ", &elem(&1, 0)), Enum.flat_map(known, &elem(&1, 1))}

      unknown ->
        near = (is_atom(unknown) or is_binary(unknown)) && Options.nearest(unknown, types())

        suggestion =
          if near,
            do: "did you mean #{inspect(near)}?",
            else: "known are: #{Enum.map_join(types(), ", ", &inspect/1)}"

        {:error, "in :params: #{param} has the unknown type #{inspect(unknown)}; #{suggestion}"}
    end
  end

  @doc "The signature as Python would write it."
  @spec signature(t()) :: String.t()
  def signature(%__MODULE__{params: nil}), do: "(**arguments)"
  def signature(%__MODULE__{params: params}), do: "(" <> Enum.map_join(params, ", ", &written/1) <> ")"

  defp written(%{name: name, text: nil, default: :none}), do: name
  defp written(%{name: name, text: nil, default: {:ok, value}}), do: "#{name}=#{Words.repr(value)}"
  defp written(%{name: name, text: text, default: :none}), do: "#{name}: #{text}"

  defp written(%{name: name, text: text, default: {:ok, value}}),
    do: "#{name}: #{text} = #{Words.repr(value)}"

  @doc "The description of such a tool in a worker's `ready` message (native/PROTOCOL.md)."
  @spec described(t(), module :: String.t()) :: map()
  def described(%__MODULE__{} = tool, module) do
    %{
      name: tool.name,
      module: module,
      file: nil,
      line: nil,
      kind: if(tool.stream?, do: "stream", else: "function"),
      signature: signature(tool),
      parameters: parameters(tool.params),
      returns: nil,
      doc: tool.doc,
      writable: []
    }
  end

  defp parameters(nil), do: [%{name: "arguments", kind: "rest", annotation: nil, default: nil}]

  defp parameters(params) do
    for %{name: name, text: text, default: default} <- params do
      default = with {:ok, value} <- default, do: Words.repr(value), else: (:none -> nil)
      %{name: name, kind: "plain", annotation: text, default: default}
    end
  end

  @doc "The arguments that the function gets, defaults filled in; or the error reply. `kinds`: of them, as they came."
  @spec check(t(), map(), [{String.t() | integer(), Kinds.kind()}]) :: {:ok, map()} | {:error, map()}
  def check(%__MODULE__{params: nil}, args, _kinds), do: {:ok, args}

  def check(%__MODULE__{params: params} = tool, args, kinds) do
    with nil <- Enum.find_value(kinds, &wrong(tool, &1)),
         nil <- missing(tool, args) do
      defaults = for %{name: name, default: {:ok, value}} <- params, into: %{}, do: {name, value}
      {:ok, Map.merge(defaults, args)}
    else
      error -> {:error, error}
    end
  end

  defp wrong(%{params: params} = tool, {name, kind}) do
    case Enum.find(params, &(&1.name == name)) do
      nil ->
        known = Enum.map(params, & &1.name)
        suggestion = Words.did_you_mean(to_string(name), known)
        words = "#{tool.name}#{signature(tool)} takes no argument #{name}#{suggestion}"
        refusal("unknown_argument", words, name, %{"known" => known})

      %{kinds: kinds} = param when is_list(kinds) ->
        # `x: int = None` is common, and means an optional argument.
        unless kind in kinds or (kind == :none and param.default == {:ok, nil}),
          do:
            refusal(
              "wrong_type",
              "#{tool.name}: args#{Words.step(name)}: #{expected(param, kind)}",
              name,
              nil
            )

      _any ->
        nil
    end
  end

  defp expected(%{text: text, kinds: kinds}, kind) do
    instead =
      cond do
        kind == :str and :bytes in kinds -> ": send Snakepit.bytes/1 of the binary"
        kind == :bytes and :str in kinds -> ": send the binary itself, without Snakepit.bytes/1"
        true -> ""
      end

    "expected #{text}, got #{python_name(kind)}#{instead}"
  end

  defp python_name(:none), do: "NoneType"
  defp python_name(kind), do: @types[kind] |> elem(0)

  defp missing(%{params: params} = tool, args) do
    case for %{name: name, default: :none} <- params, not is_map_key(args, name), do: name do
      [] ->
        nil

      [first | _] = names ->
        words = "#{tool.name}#{signature(tool)} misses #{Enum.join(names, ", ")}"
        refusal("missing_argument", words, first, %{"missing" => names})
    end
  end

  defp refusal(reason, words, name, details) do
    %{
      "category" => "validation",
      "reason" => reason,
      "message" => words,
      "path" => "args" <> Words.step(name),
      "details" => details
    }
  end
end
