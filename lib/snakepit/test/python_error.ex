defmodule Snakepit.Test.PythonError do
  @moduledoc """
  A fake tool raises this in place of a Python exception.

      raise Snakepit.Test.PythonError, type: "ValueError", message: "x must be positive"

  The caller gets category `:python_error`, `python_type: "ValueError"` and the message `"ValueError: x must be positive"`,
  as for the exception itself. `:type` defaults to `"RuntimeError"`, `:message` to none. Types outside of Python's own
  have their module: `"my_app.errors.TooSmall"`.
  """

  @type t :: %__MODULE__{type: String.t(), message: String.t()}

  defexception type: "RuntimeError", message: ""

  @impl true
  def exception(message) when is_binary(message), do: %__MODULE__{message: message}
  def exception(fields), do: struct!(__MODULE__, fields)
end
