defmodule Snakepit.Terminal.Name do
  @moduledoc false
  # File names as text. A name is bytes: it need not be UTF-8, and may have control characters.

  @doc """
  The name with everything that cannot be shown written as an escape.

      iex> Snakepit.Terminal.Name.show(<<"caf", 233, "\\n">>)
      "caf\\\\xE9\\\\n"
  """
  @spec show(binary()) :: String.t()
  def show(name), do: name |> escape([]) |> Enum.reverse() |> IO.iodata_to_binary()

  defp escape(<<char::utf8, rest::binary>>, done) do
    text = <<char::utf8>>
    shown = if String.printable?(text) and char not in 7..13 and char != 27, do: text, else: control(char)
    escape(rest, [shown | done])
  end

  defp escape(<<byte, rest::binary>>, done), do: escape(rest, [["\\x", Base.encode16(<<byte>>)] | done])
  defp escape(<<>>, done), do: done

  defp control(?\n), do: "\\n"
  defp control(?\t), do: "\\t"
  defp control(?\r), do: "\\r"
  defp control(char), do: ["\\u{", Integer.to_string(char, 16), "}"]

  @doc "A path as it is seen from the working directory, as a terminal or an editor finds it from there."
  @spec from_here(Path.t()) :: Path.t()
  def from_here(path) do
    # Seen from the root, a path would lose its first character.
    if File.cwd() == {:ok, "/"}, do: path, else: Path.relative_to_cwd(path)
  end

  @doc """
  The end of a name that is longer than `width`.

      iex> Snakepit.Terminal.Name.shorten("numpy/core/umath.so", 10)
      "…/umath.so"
  """
  @spec shorten(String.t(), pos_integer()) :: String.t()
  def shorten(name, width) do
    length = String.length(name)
    if length <= width, do: name, else: "…" <> String.slice(name, (length - width + 1)..-1//1)
  end
end
