defmodule Snakepit.Tool do
  @moduledoc """
  A tool that a pool serves, as `Snakepit.tools/1` lists it.

  | field | |
  |---|---|
  | `name` | what calls name it by |
  | `pool` | the pool that serves it |
  | `module` | the Python module that defines it |
  | `file`, `line` | where; nil of what is no Python function |
  | `kind` | `:function`, `:async` (`async def`), or `:stream` (it yields: `Snakepit.stream/3`) |
  | `parameters` | `Snakepit.Tool.Parameter`, in the function's order |
  | `returns` | the annotation of its result, as text; nil without one |
  | `doc` | its docstring; nil without one |
  | `writable` | the parameters of which it gets private copies: `@tool(writable=…)` |

  Inspected, a tool is its signature and the first line of its docstring. As a string it is a whole page, so that IEx has
  something like `h/1` for it:

      iex> Snakepit.tools(:tools) |> Enum.find(&(&1.name == "add")) |> IO.puts()
  """

  alias Snakepit.Tool.{Page, Parameter}

  @enforce_keys [:name, :pool, :module, :kind]
  defstruct [:name, :pool, :module, :file, :line, :kind, :returns, :doc, parameters: [], writable: []]

  @type kind :: :function | :async | :stream
  @type t :: %__MODULE__{
          name: String.t(),
          pool: atom(),
          module: String.t(),
          file: String.t() | nil,
          line: pos_integer() | nil,
          kind: kind(),
          parameters: [Parameter.t()],
          returns: String.t() | nil,
          doc: String.t() | nil,
          writable: [String.t()]
        }

  @doc """
  The tool as Python would write it.

      iex> x = %Snakepit.Tool.Parameter{name: "x", annotation: "int"}
      iex> tool = %Snakepit.Tool{name: "add", pool: :p, module: "m", kind: :function, parameters: [x], returns: "int"}
      iex> Snakepit.Tool.signature(tool)
      "add(x: int) -> int"
  """
  @spec signature(t()) :: String.t()
  def signature(%__MODULE__{} = tool), do: Page.signature(tool)

  defimpl String.Chars do
    defdelegate to_string(tool), to: Snakepit.Tool.Page, as: :text
  end

  defimpl Inspect do
    import Inspect.Algebra

    def inspect(tool, opts) do
      [first | rest] = Snakepit.Tool.Page.brief(tool)
      body = for text <- rest, do: concat(line(), text)
      head = color("#Snakepit.Tool<", :map, opts)
      concat(nest(concat([head, first | body]), 2), color(">", :map, opts))
    end
  end
end
