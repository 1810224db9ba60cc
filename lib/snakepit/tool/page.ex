defmodule Snakepit.Tool.Page do
  @moduledoc false
  # Tools as text: a line, a few lines, a page. Text from Python is shown without control characters. Pure.

  alias Snakepit.Error.Text
  alias Snakepit.Terminal.Name
  alias Snakepit.Tool.Parameter

  # A `Snakepit.Tool`, which shows itself by this module and so stands above it.
  @type tool :: %{required(:name) => String.t(), optional(atom()) => term()}

  @wide 100

  @doc "`name(parameters) -> result`."
  @spec signature(tool()) :: String.t()
  def signature(%{name: name} = tool), do: shown(name) <> "(" <> parameters(tool) <> ")" <> returns(tool)

  defp parameters(%{parameters: parameters}) do
    {by_position, others} = Enum.split_while(parameters, &(not &1.keyword_only? and not &1.rest?))
    star = if match?([%Parameter{keyword_only?: true} | _], others), do: ["*"], else: []
    Enum.join(Enum.map(by_position, &parameter/1) ++ star ++ Enum.map(others, &parameter/1), ", ")
  end

  defp parameter(%Parameter{rest?: true} = p), do: "**" <> annotated(p)
  defp parameter(%Parameter{default: nil} = p), do: annotated(p)
  defp parameter(%Parameter{annotation: nil} = p), do: "#{shown(p.name)}=#{shown(p.default)}"
  defp parameter(%Parameter{} = p), do: "#{annotated(p)} = #{shown(p.default)}"

  defp annotated(%Parameter{annotation: nil} = p), do: shown(p.name)
  defp annotated(p), do: "#{shown(p.name)}: #{shown(p.annotation)}"

  defp returns(%{returns: nil}), do: ""
  defp returns(%{returns: returns}), do: " -> " <> shown(returns)

  @doc "The first line of its docstring."
  @spec headline(tool()) :: String.t()
  def headline(%{doc: nil}), do: ""

  def headline(%{doc: doc}),
    do: doc |> String.trim_leading() |> String.split("\n", parts: 2) |> hd() |> shown()

  @doc "A few lines."
  @spec brief(tool()) :: [String.t(), ...]
  def brief(tool) do
    headline = tool |> headline() |> Text.shorten(@wide)

    [tool |> signature() |> Text.shorten(2 * @wide)] ++
      if(headline == "", do: [], else: [headline]) ++ [place(tool)]
  end

  defp place(%{kind: kind, pool: pool} = tool) do
    where =
      if tool.file,
        do: "#{tool.file |> Name.from_here() |> shown()}:#{tool.line}",
        else: "module #{shown(tool.module)}"

    "#{kind} of pool #{inspect(pool)}, #{where}"
  end

  @doc "All of it."
  @spec text(tool()) :: String.t()
  def text(tool) do
    [head(tool), place(tool) | doc(tool.doc)]
    |> Kernel.++(arguments(tool))
    |> Enum.join("\n\n")
    |> Kernel.<>("\n")
  end

  # One parameter a line where the whole is too wide.
  defp head(tool) do
    line = signature(tool)

    if String.length(line) <= @wide or tool.parameters == [] do
      line
    else
      inner = for p <- tool.parameters, do: "    #{parameter(p)},\n"
      "#{shown(tool.name)}(\n#{inner})#{returns(tool)}"
    end
  end

  defp doc(nil), do: []

  defp doc(doc) do
    lines = doc |> String.trim() |> String.split("\n")

    if lines == [""],
      do: [],
      else: [Enum.map_join(lines, "\n", &if(&1 == "", do: "", else: "  " <> shown(&1)))]
  end

  defp arguments(%{parameters: []}), do: ["It takes no arguments."]

  defp arguments(%{parameters: parameters} = tool) do
    width = parameters |> Enum.map(&String.length(label(&1))) |> Enum.max()

    lines =
      for p <- parameters do
        notes = [
          p.annotation && shown(p.annotation),
          needed(p),
          if(p.name in tool.writable, do: "a private copy, which it may write to")
        ]

        "  #{String.pad_trailing(label(p), width)}  #{notes |> Enum.filter(& &1) |> Enum.join(", ")}"
      end

    ["Arguments:\n" <> Enum.join(lines, "\n")]
  end

  defp label(%Parameter{rest?: true, name: name}), do: "**" <> shown(name)
  defp label(%Parameter{name: name}), do: shown(name)

  defp needed(%Parameter{rest?: true}), do: "any others"
  defp needed(%Parameter{required?: true}), do: "required"
  defp needed(%Parameter{default: default}), do: "#{shown(default)} by default"

  defp shown(text), do: Name.show(text)
end
