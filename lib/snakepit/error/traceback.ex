defmodule Snakepit.Error.Traceback do
  @moduledoc false
  # A Python traceback, read: which of its frames are the user's, and how many are of which library. Pure, and bounded:
  # the text comes from a worker.

  alias Snakepit.Error.Text
  alias Snakepit.Terminal.Name

  @type frame :: %{
          file: String.t(),
          line: String.t(),
          function: String.t() | nil,
          source: String.t() | nil,
          library: String.t() | nil
        }

  # A longer one is a recursion, of which the end is enough.
  @longest 64 * 1024
  @frame ~r/\A[\s|+]*File "(.+)", line (\d+)(?:, in (.+))?\z/u
  @repeated ~r/\A[\s|+]*\[Previous line repeated (\d{1,9}) more times?\]\z/u
  @library ~r{/(?:site|dist)-packages/([^/]+)}u
  # The standard library: of an installation, of an archive, and what is frozen into the interpreter.
  @python ~r{\A<frozen |/lib(?:64)?/python3[^/]*/|/python3\d*\.zip/}u
  @linked ~r/^.*(?:direct cause of the following exception|another exception occurred):\s*$/mu

  @doc "The frames of the raised exception, the innermost first, without those of its cause."
  @spec frames(String.t()) :: [frame()]
  def frames(traceback) do
    traceback
    |> ending()
    |> valid()
    |> String.split(@linked)
    |> List.last()
    |> String.split("\n")
    # The exceptions of a group.
    |> Enum.take_while(&(not String.contains?(&1, "+-+--")))
    |> read([])
  end

  defp ending(text) when byte_size(text) <= @longest, do: text

  defp ending(text),
    do: text |> binary_part(byte_size(text) - @longest, @longest) |> Text.without_broken_start()

  # The expressions here are of UTF-8.
  defp valid(text), do: if(String.valid?(text), do: text, else: Name.show(text))

  defp read([line | rest], frames) do
    case Regex.run(@frame, line, capture: :all_but_first) do
      [file, number | function] ->
        {source, rest} = source(rest)

        frame = %{
          file: file,
          line: number,
          function: List.first(function),
          source: source,
          library: library(file)
        }

        read(rest, [frame | frames])

      nil ->
        read(rest, repeated(line, frames))
    end
  end

  defp read([], frames), do: frames

  defp source([line | rest] = lines) do
    text = line |> String.trim() |> String.trim_leading("|") |> String.trim()

    if text == "" or line =~ @frame or not String.starts_with?(line, [" ", "|"]),
      do: {nil, lines},
      else: {text, rest}
  end

  defp source([]), do: {nil, []}

  defp repeated(line, [frame | _] = frames) do
    case Regex.run(@repeated, line, capture: :all_but_first) do
      [times] -> [Map.update(frame, :times, String.to_integer(times), & &1) | tl(frames)]
      nil -> frames
    end
  end

  defp repeated(_line, []), do: []

  defp library(file) do
    case Regex.run(@library, file, capture: :all_but_first) do
      [name] -> name |> String.trim_trailing(".py") |> Text.shorten(40)
      nil -> if file =~ @python, do: "Python", else: nil
    end
  end

  @doc """
  The traceback in a few lines: at most `most` of the user's frames, the innermost first, then how many there are of others.

  Where all frames are of libraries, the innermost of them are shown.
  """
  @spec summary(String.t(), pos_integer()) :: [String.t()]
  def summary(traceback, most) do
    frames = frames(traceback)
    {own, others} = Enum.split_with(frames, &is_nil(&1.library))
    {shown, hidden} = if own == [], do: {[], others}, else: {own, others}
    {shown, hidden} = if shown == [], do: Enum.split(hidden, most), else: {shown, hidden}
    {shown, more} = Enum.split(shown, most)
    Enum.map(shown, &line/1) ++ rest(more, hidden)
  end

  defp line(frame) do
    where = if frame.function, do: ", in #{frame.function}", else: ""
    source = if frame.source, do: ": #{frame.source}", else: ""
    Text.shorten("#{shown(frame.file)}:#{frame.line}#{where}#{source}", 120)
  end

  defp shown(file), do: Name.from_here(file)

  defp rest([], []), do: []

  defp rest(more, hidden) do
    mine = if more == [], do: [], else: ["#{counted(more)} of yours"]

    of_libraries =
      hidden
      |> Enum.group_by(&(&1.library || "yours"))
      |> Enum.sort_by(fn {name, frames} -> {-count(frames), name} end)
      |> Enum.map(fn {name, frames} -> "#{counted(frames)} of #{name}" end)

    ["… " <> Enum.join(mine ++ of_libraries, ", ")]
  end

  defp counted(frames) do
    case count(frames) do
      1 -> "1 frame"
      n -> "#{n} frames"
    end
  end

  defp count(frames), do: frames |> Enum.map(&(1 + Map.get(&1, :times, 0))) |> Enum.sum()

  @doc "The whole text, as far as somebody reads it in a log."
  @spec cut(String.t()) :: String.t()
  def cut(traceback) do
    traceback
    |> Text.cut(@longest)
    |> String.trim_trailing("\n")
    |> String.split("\n")
    |> Text.cut_lines(10, 50)
    |> Enum.map_join("\n", &Text.shorten(&1, 500))
  end
end
