defmodule Snakepit.Tool.Parameter do
  @moduledoc """
  A parameter of a `Snakepit.Tool`.

  `annotation` and `default` are text, as Python writes them, and nil where there is none. A parameter that is `required?`
  has to be given. `keyword_only?` stands behind a `*` in Python; calls of Snakepit name every argument anyway. `rest?` is
  one such as `**options`, which takes whatever other arguments there are.
  """

  @enforce_keys [:name]
  defstruct [:name, :annotation, :default, required?: true, keyword_only?: false, rest?: false]

  @type t :: %__MODULE__{
          name: String.t(),
          annotation: String.t() | nil,
          default: String.t() | nil,
          required?: boolean(),
          keyword_only?: boolean(),
          rest?: boolean()
        }
end
