defmodule Snakepit.Call.Request do
  @moduledoc false
  # A call as it was asked for: its options and arguments are checked, the arguments encoded, and it is known which ways the
  # caller and the pool allow. The plan is added once its lane is known.

  alias Snakepit.{Breaker, Error, Native, Performance, Transfer}
  alias Snakepit.Call.{Cancellation, Options, Outcome, WayBreaker}
  alias Snakepit.Pool.Handle
  alias Snakepit.Transfer.{Payload, Plan}

  defstruct [
    :command,
    :handle,
    :options,
    :deadline,
    :envelope,
    :buffers,
    :payload,
    # The ways that the pool and the caller allow; the plan is made once the lane is known.
    :request_ways,
    :reply_ways,
    :plan,
    :started,
    # What `Snakepit.cancel/1` finds; nil of a call without a correlation id.
    :cancellation,
    # The timeout of a stream's items in milliseconds.
    item_timeout: :infinity,
    stream?: false,
    # Whether the caller of a stream takes what its generator returns, too.
    returned?: false
  ]

  @type t :: %__MODULE__{
          command: String.t(),
          handle: Handle.t(),
          options: Options.t(),
          deadline: integer() | :infinity,
          envelope: binary(),
          buffers: [binary()],
          payload: Payload.t(),
          request_ways: [Transfer.way(), ...],
          reply_ways: [Transfer.way(), ...],
          plan: Plan.t() | nil,
          started: integer(),
          cancellation: Cancellation.t(),
          item_timeout: timeout(),
          stream?: boolean(),
          returned?: boolean()
        }
  @doc "The call, or why it cannot be made: nothing is sent, and no lane is taken yet."
  @spec new(String.t() | atom(), map(), keyword(), stream? :: boolean()) ::
          {:ok, t()} | {:error, Error.t()}
  def new(command, args, opts, stream?) do
    started = System.monotonic_time(:nanosecond)

    with {:ok, options} <- Options.new(opts),
         :ok <- only_of_streams(options, stream?),
         {:ok, handle} <- Handle.fetch(options.pool || Handle.default()),
         {:error, error} <- prepared(command, args, options, handle, stream?, started) do
      {:error, error |> Outcome.named(%{options: options, handle: handle}) |> Error.of_command(command)}
    else
      {:ok, call} -> {:ok, call}
      {:error, error} -> {:error, Error.of_command(error, command)}
    end
  end

  defp prepared(command, args, options, handle, stream?, started) do
    with {:ok, command} <- command(command, handle),
         :ok <- arguments(args, handle),
         {:ok, envelope, buffers, {bytes, fresh, kind}} <- encode(command, args, options, handle) do
      call = %__MODULE__{
        command: command,
        handle: handle,
        options: options,
        deadline: deadline(options.timeout || if(stream?, do: :infinity, else: handle.options.timeout)),
        item_timeout: if(stream?, do: item_timeout(options, handle), else: :infinity),
        envelope: envelope,
        buffers: buffers,
        payload: %Payload{
          bytes: bytes,
          fresh: fresh,
          type: Performance.data_type(kind),
          count: length(buffers),
          envelope: byte_size(envelope)
        },
        started: started,
        stream?: stream?
      }

      with {:ok, call} <- ways(call), :ok <- not_idempotent(call), do: {:ok, call}
    end
  end

  defp only_of_streams(%{item_timeout: ms}, false) when ms != nil,
    do: invalid(:invalid_option, "options of the call: :item_timeout is for streams; this call has :timeout")

  defp only_of_streams(_options, _stream?), do: :ok

  # Items that were handed out cannot be taken back.
  defp not_idempotent(%{stream?: true, options: %{idempotent: true}}) do
    words = "options of the call: :idempotent is not for streams, which are never tried again"
    invalid(:invalid_option, words)
  end

  defp not_idempotent(_call), do: :ok

  # A stream that hangs ends as a call does that hangs, unless the caller said when.
  defp item_timeout(%{item_timeout: nil, timeout: nil}, handle), do: handle.options.timeout
  defp item_timeout(%{item_timeout: nil}, _handle), do: :infinity
  defp item_timeout(%{item_timeout: ms}, _handle), do: ms

  defp command(command, _handle) when is_binary(command) and byte_size(command) <= 1024 do
    if String.valid?(command), do: {:ok, command}, else: bad_command(command)
  end

  defp command(command, _handle) when is_atom(command) and command not in [nil, true, false],
    do: {:ok, Atom.to_string(command)}

  defp command(command, _handle), do: bad_command(command)

  defp bad_command(command) do
    shown = inspect(command, printable_limit: 100)

    invalid(
      :invalid_command,
      "expected a command to be a string of at most 1024 bytes or an atom, got: #{shown}"
    )
  end

  defp arguments(args, _handle) when is_map(args) and not is_struct(args), do: :ok

  defp arguments(args, _handle) do
    shown = inspect(args, limit: 5, printable_limit: 100)

    suggestion =
      if Keyword.keyword?(args), do: "; write #{inspect(Map.new(args), limit: 5, printable_limit: 100)}"

    words = "expected the arguments to be a map of names to values, got: #{shown}#{suggestion}"
    invalid(:invalid_arguments, words, %{path: "args"})
  end

  defp encode(command, args, options, handle) do
    case Native.encode(command, args, caller(options, handle.options), handle.options.inline_limit) do
      {:ok, _envelope, _buffers, _size} = encoded ->
        encoded

      :convert ->
        encode(command, Transfer.Convert.term(args), options, handle)

      {:error, path, :unsupported_type, what} ->
        error = "#{path}: #{what} cannot be sent to Python#{suggestion(what)}"
        invalid(:unsupported_type, error, %{path: path, type: what})

      {:error, path, :not_utf8, what} ->
        invalid(:not_utf8, "#{path}: #{what}: wrap it with Snakepit.bytes/1 to send it as bytes", %{
          path: path
        })

      {:error, path, reason, what} ->
        invalid(reason, "#{path}: #{what}", %{path: path})
    end
  end

  # The caller as the tool may know it (native/PROTOCOL.md).
  defp caller(%{correlation_id: nil, session: session}, %{fake: nil}), do: session
  defp caller(%{correlation_id: id, session: session}, %{fake: nil}), do: [session, id]
  # A fake tool may depend on the process that calls.
  defp caller(%{correlation_id: id, session: session}, %{fake: {module, _}}),
    do: [[session, module.caller()], id]

  defp suggestion("the struct " <> _),
    do: ": send the map of what Python needs, such as Map.from_struct/1 gives"

  defp suggestion("a bitstring" <> _), do: ": pad it to whole bytes, and send its bit_size too"
  defp suggestion(_what), do: ""

  # The ways that a forced way, the pool and `zero_copy: false` leave.
  defp ways(%{options: options, handle: handle, payload: payload} = call) do
    allowed =
      if options.zero_copy, do: handle.options.transfers, else: handle.options.transfers -- [:zero_copy]

    with {:ok, for_request} <- choice(options.request, allowed, handle),
         {:ok, for_reply} <- choice(options.reply, allowed, handle),
         isolated = Breaker.isolated(handle.breaker),
         {:ok, for_request} <- without(for_request, isolated, handle),
         {:ok, for_reply} <- without(for_reply, isolated, handle),
         :ok <- reply_open(for_reply, options, handle) do
      case Transfer.among(for_request, for_request, payload.bytes, payload.envelope) do
        [] -> {:error, too_large(payload, for_request, handle)}
        able -> {:ok, %{call | request_ways: able, reply_ways: for_reply}}
      end
    end
  end

  defp too_large(%{bytes: bytes, envelope: envelope}, ways, handle) do
    Error.new(
      :transfer,
      :too_large,
      "the arguments have #{bytes + envelope} bytes; by #{Enum.join(ways, " or ")} a message has at most #{Transfer.largest_message()}",
      pool: handle.name
    )
  end

  defp choice(:auto, [], handle) do
    invalid(:no_way, "pool #{inspect(handle.name)} allows zero_copy alone, and the call forbids it")
  end

  defp choice(:auto, allowed, _handle), do: {:ok, allowed}

  defp choice(forced, allowed, handle) do
    if forced in allowed do
      {:ok, [forced]}
    else
      names = Enum.map_join(handle.options.transfers, ", ", &inspect/1)

      invalid(
        :way_not_allowed,
        "the way #{inspect(forced)} is not open to this call: pool #{inspect(handle.name)} allows #{names}"
      )
    end
  end

  defp without(ways, [], _handle), do: {:ok, ways}

  defp without(ways, isolated, handle) do
    case ways -- isolated do
      [] -> {:error, WayBreaker.open(handle, hd(ways))}
      left -> {:ok, left}
    end
  end

  # A worker passes over a way that does not work by itself, unless it is forced: then it need not run the tool first.
  defp reply_open([way], %{reply: way}, handle) when way != :inline do
    if Breaker.refuses?(handle.breaker, way),
      do: {:error, WayBreaker.open(handle, way)},
      else: :ok
  end

  defp reply_open(_ways, _options, _handle), do: :ok

  defp invalid(reason, message, details \\ %{}),
    do: {:error, Error.new(:validation, reason, message, details: details)}

  @doc "When a timeout that begins now is over (monotonic ms)."
  @spec deadline(timeout()) :: integer() | :infinity
  def deadline(:infinity), do: :infinity
  def deadline(timeout), do: System.monotonic_time(:millisecond) + timeout
end
