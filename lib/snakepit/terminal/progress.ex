defmodule Snakepit.Terminal.Progress do
  @moduledoc false
  # A bar on the last line of a terminal. Writes nothing if stdout is no terminal.

  alias Snakepit.Terminal.Units

  defstruct width: nil, colour?: false, label: "", total: 0, done: 0, shown_at: nil

  @type t :: %__MODULE__{width: pos_integer() | nil, total: non_neg_integer()}

  @every_ms 100

  @doc "A bar for this terminal, if it is one."
  @spec new() :: t()
  def new do
    if terminal?() and System.get_env("TERM") not in [nil, "", "dumb"],
      do: %__MODULE__{width: width(), colour?: System.get_env("NO_COLOR", "") == ""},
      else: %__MODULE__{}
  end

  @doc "How wide the terminal is; nil where stdout is none."
  @spec columns() :: pos_integer() | nil
  def columns, do: if(terminal?(), do: width())

  @doc "Starts over, with `total` units of work ahead."
  @spec begin(t(), String.t(), non_neg_integer()) :: t()
  def begin(bar, label, total), do: show(%{bar | label: label, total: total, done: 0, shown_at: nil}, "")

  @doc "`units` more are done; `text` stands behind the bar."
  @spec advance(t(), non_neg_integer(), String.t()) :: t()
  def advance(bar, units, text) do
    bar = %{bar | done: bar.done + units}
    now = System.monotonic_time(:millisecond)

    if bar.shown_at == nil or now - bar.shown_at >= @every_ms,
      do: show(%{bar | shown_at: now}, text),
      else: bar
  end

  @doc "Removes the bar, so that other text can be written."
  @spec clear(t()) :: t()
  def clear(%{width: nil} = bar), do: bar

  def clear(bar) do
    IO.write("\r\e[K")
    %{bar | shown_at: nil}
  end

  defp show(%{width: nil} = bar, _text), do: bar

  defp show(bar, text) do
    IO.write(["\r", line(bar, text), "\e[K"])
    bar
  end

  @doc "The line as it is now, never as wide as the terminal: a full line would break."
  @spec line(t(), String.t()) :: String.t()
  def line(bar, text) do
    share = if bar.total > 0, do: min(bar.done / bar.total, 1.0), else: 1.0
    head = "#{bar.label} "
    tail = " #{String.pad_leading("#{trunc(share * 100)}", 3)} %  #{text}"
    room = bar.width - 1 - String.length(head) - String.length(tail)

    if room < 5 do
      String.slice(head <> String.trim(tail), 0, bar.width - 1)
    else
      size = min(room, 40)
      full = trunc(share * size)
      head <> paint(String.duplicate("━", full), bar.colour?) <> String.duplicate("─", size - full) <> tail
    end
  end

  defp paint("", _colour?), do: ""
  defp paint(text, true), do: "\e[32m" <> text <> "\e[0m"
  defp paint(text, false), do: text

  @doc "The text behind the bar while files are read."
  @spec files(non_neg_integer(), non_neg_integer(), non_neg_integer()) :: String.t()
  def files(done, total, bytes),
    do: "#{Units.count(done)} of #{Units.counted(total, "file")}, #{Units.bytes(bytes)}"

  # The VM has no terminal of its own when a script runs it: it is asked of the system.
  defp terminal? do
    case File.read_link("/proc/self/fd/1") do
      {:ok, "/dev/" <> name} -> String.starts_with?(name, ["pts/", "tty", "console"])
      {:ok, _file_or_pipe} -> false
      {:error, _no_proc} -> IO.ANSI.enabled?()
    end
  end

  defp width do
    with {text, 0} <-
           System.cmd("sh", ["-c", "stty size < /proc/#{System.pid()}/fd/1"], stderr_to_stdout: true),
         [_, columns] <- Regex.run(~r/^\d+ (\d+)$/m, text),
         columns when columns > 0 <- String.to_integer(columns) do
      columns
    else
      _ -> 80
    end
  end
end
