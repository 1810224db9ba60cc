defmodule Snakepit.Error do
  alias Snakepit.Error.{Reasons, Text, Traceback}

  @moduledoc """
  Why a call, or the start of a pool, failed.

  | category | who can mend it |
  |---|---|
  | `:validation` | the caller: a wrong command, argument, option or value; the message says where |
  | `:python_error` | the tool: it raised, or returned what Elixir cannot hold |
  | `:worker` | nobody at the keyboard: the worker exited, was killed or broke the protocol |
  | `:timeout` | the deadline passed, in the queue or while the tool ran; of a stream, or the time of one item (`:item_timeout`) |
  | `:cancelled` | whoever called `Snakepit.cancel/1` |
  | `:pool` | the pool is saturated, stopped or failed to start, or its workers keep dying |
  | `:transfer` | the bytes could not travel by the way that was forced, or are too many |
  | `:grpc_error` | the gRPC call failed |

  Its fields:

  | field | |
  |---|---|
  | `category`, `reason` | atoms, out of the tables here |
  | `message` | one sentence, or more: what is wrong, where, and what to do |
  | `command` | the tool that was called; nil where there was no call, or the command was no name |
  | `pool`, `worker` | of the call, as far as it came |
  | `details` | what else is known: `:path` (the value that is meant), `:correlation_id`, and what the reason's row says |
  | `python_type`, `python_traceback` | of an exception: its type, and its whole traceback |

  `Exception.message/1` names the tool and adds the traceback, whose middle is left out where it is long. Inspected, as in
  IEx, an error is a few lines: your own frames of the traceback, the innermost first, and how many are of libraries.

  ## Reasons

  #{Reasons.docs()}
  """

  @type category ::
          :validation | :python_error | :worker | :timeout | :cancelled | :pool | :transfer | :grpc_error

  @type t :: %__MODULE__{
          category: category(),
          reason: atom(),
          message: String.t(),
          command: String.t() | nil,
          details: map(),
          python_type: String.t() | nil,
          python_traceback: String.t() | nil,
          pool: atom() | nil,
          worker: String.t() | nil
        }

  @enforce_keys [:category, :reason, :message]
  defexception [
    :category,
    :reason,
    :message,
    :command,
    :python_type,
    :python_traceback,
    :pool,
    :worker,
    details: %{}
  ]

  # A message may be a pool's whole standard error.
  @longest_message 8 * 1024

  @doc "Every category."
  @spec categories() :: [category()]
  def categories, do: Keyword.keys(Reasons.all())

  @doc "Every reason that errors of a category have."
  @spec reasons(category()) :: [atom()]
  def reasons(category), do: Reasons.of(category)

  @doc false
  @spec new(category(), atom(), String.t(), keyword()) :: t()
  def new(category, reason, message, fields \\ []) when is_atom(reason) do
    struct!(%__MODULE__{category: category, reason: reason, message: message}, fields)
  end

  @doc false
  # The error of a call of this command, whatever was given as one.
  @spec of_command(t(), term()) :: t()
  def of_command(%__MODULE__{} = error, command), do: %{error | command: command_name(command)}

  defp command_name(command) when is_binary(command) and byte_size(command) <= 1024,
    do: if(String.valid?(command), do: command)

  defp command_name(command) when is_atom(command) and command not in [nil, true, false],
    do: Atom.to_string(command)

  defp command_name(_no_name), do: nil

  @doc false
  # An errno, or another reason of `:socket` and `File`, in words.
  @spec reason_words(term()) :: String.t()
  def reason_words(reason) when is_atom(reason) do
    case reason |> :file.format_error() |> to_string() do
      "unknown POSIX error" <> _ -> inspect(reason)
      words -> "#{words} (#{reason})"
    end
  end

  def reason_words(reason), do: inspect(reason)

  @impl true
  def message(%__MODULE__{python_traceback: nil} = error), do: headline(error)

  def message(%__MODULE__{python_traceback: traceback} = error),
    do: headline(error) <> "\n\n" <> Traceback.cut(traceback)

  defp headline(%__MODULE__{command: command, message: message}) do
    message = Text.cut(message, @longest_message)
    if command == nil or names?(message, command), do: message, else: "#{command}: #{message}"
  end

  # Snakepit's own sentences begin with the tool, or quote it.
  defp names?(message, command) do
    String.starts_with?(message, for(next <- [" ", "(", ":"], do: command <> next)) or
      String.contains?(message, ["'#{command}'", inspect(command)])
  end

  # The names that a worker may send; no atom is made from its data.
  @worker_categories Map.new([:validation, :python_error, :transfer, :worker, :timeout], &{to_string(&1), &1})

  @worker_details Map.new(
                    [
                      :nearest,
                      :known,
                      :missing,
                      :quota,
                      :total,
                      :needed,
                      :bytes,
                      :limit,
                      :envelope,
                      :buffers
                    ],
                    &{to_string(&1), &1}
                  )

  @doc false
  # The map of an error reply (native/PROTOCOL.md) as a struct. A reason this version does not know stays in details.
  @spec from_worker(map()) :: t()
  # A struct is a map as well: a date or a tensor, where a worker lies.
  def from_worker(%{} = reply) when not is_struct(reply) do
    said = with none when none in [nil, ""] <- text(reply["reason"]), do: "raised"
    known = Reasons.from_worker(said)
    said_more = reply["details"]
    details = if is_map(said_more) and not is_struct(said_more), do: said_more, else: %{}
    details = Map.new(details, fn {key, value} -> {Map.get(@worker_details, key, key), value} end)
    details = if known, do: details, else: Map.put(details, :reason, said)
    details = put(details, :path, text(reply["path"]))
    type = text(reply["type"])

    error = %__MODULE__{
      category: Map.get(@worker_categories, reply["category"], :python_error),
      reason: known || :raised,
      message: text(reply["message"]) || "the worker gave no message",
      details: details,
      python_traceback: text(reply["traceback"])
    }

    # The type is the exception's, or that of the value which cannot cross.
    if error.reason == :raised,
      do: %{error | python_type: type},
      else: %{error | details: put(details, :type, type)}
  end

  def from_worker(_other) do
    new(:worker, :protocol, "the worker sent an error that is no map")
  end

  defp put(details, _key, nil), do: details
  defp put(details, key, value), do: Map.put(details, key, value)

  # Bytes come as a binary, too.
  defp text(value) when is_binary(value), do: if(String.valid?(value), do: value, else: Kernel.inspect(value))
  defp text(_other), do: nil

  defimpl Inspect do
    import Inspect.Algebra
    alias Snakepit.Error.{Text, Traceback}
    alias Snakepit.Terminal.Name

    @frames 3
    @message_lines 10
    @width 160
    @wrapped 110

    def inspect(error, opts) do
      lines =
        where(error) ++
          message(error.message) ++ traceback(error.python_traceback) ++ details(error.details, opts)

      body = for line <- lines, do: concat(line(), line)

      head =
        color("#Snakepit.Error<#{inspect_atom(error.category)}, #{inspect_atom(error.reason)}", :map, opts)

      concat([nest(concat([head | body]), 2), line(), color(">", :map, opts)])
    end

    defp inspect_atom(atom), do: Kernel.inspect(atom)

    defp where(error) do
      said =
        [
          error.command && "tool #{error.command |> to_string() |> Text.shorten(80) |> Name.show()}",
          error.pool && "pool #{Kernel.inspect(error.pool)}",
          error.worker && "worker #{error.worker}"
        ]
        |> Enum.filter(& &1)

      if said == [], do: [], else: [Enum.join(said, ", ")]
    end

    # Advice is often at the end of a message, so long lines are wrapped.
    defp message(message) do
      message
      |> Text.cut(4 * 1024)
      |> String.split("\n", trim: true)
      |> Enum.map(&Name.show/1)
      |> Enum.flat_map(&Text.wrap(&1, @wrapped))
      |> Text.cut_lines(@message_lines - 3, 2)
    end

    defp traceback(nil), do: []

    defp traceback(traceback),
      do: for(line <- Traceback.summary(traceback, @frames), do: "  " <> shown(line))

    defp details(details, _opts) when details == %{}, do: []

    defp details(details, opts) do
      text =
        Kernel.inspect(details,
          limit: 10,
          printable_limit: 80,
          width: :infinity,
          custom_options: opts.custom_options
        )

      ["details: " <> Text.shorten(text, 2 * @width)]
    end

    # Control characters are written as escapes: they must not reach a terminal.
    defp shown(line), do: line |> Text.shorten(@width) |> Name.show()
  end
end
