defmodule Snakepit.Call.Options do
  @moduledoc false
  # The options of one call. Checked key by key, so that a call without options costs nothing.

  alias Snakepit.{Error, Options, Transfer}
  alias Snakepit.Call.Cancellation

  @choices [:auto | Transfer.ways()]

  @schema [
    pool_name: [type: :atom, doc: "The pool; by default the first configured."],
    pool: [type: :atom, doc: "The same, shorter."],
    timeout: [
      type: :timeout,
      doc:
        "Milliseconds the call may take, waiting included; by default the pool's. Of a stream: all of it, the consumer's " <>
          "own time included; by default without end."
    ],
    item_timeout: [
      type: :timeout,
      doc:
        "Of a stream: milliseconds its tool may take for one item; the consumer's own time does not count. By default " <>
          "the pool's `:timeout`, in which a worker must be free too; none if `:timeout` is given."
    ],
    transfer: [
      type: {:in, @choices},
      default: :auto,
      doc:
        "The way both request and reply must take; `request_transfer:` and `reply_transfer:` force one of them."
    ],
    request_transfer: [type: {:in, @choices}, default: :auto, doc: "The way the arguments must take."],
    reply_transfer: [type: {:in, @choices}, default: :auto, doc: "The way the result must take."],
    zero_copy: [type: :boolean, default: true, doc: "`false` keeps this call out of shared memory."],
    copy: [
      type: :boolean,
      default: false,
      doc: "`true` returns ordinary binaries, copied out of shared memory."
    ],
    session_id: [
      type: :string,
      doc: "Calls of one session go to one worker, where `snakepit.session()` keeps its state."
    ],
    affinity: [
      type: {:in, [:strict, :prefer]},
      default: :strict,
      doc: "Whether a session's call waits for its worker, or takes another when that one is busy."
    ],
    idempotent: [
      type: :boolean,
      default: false,
      doc:
        "`true` says that running the tool twice does no harm: a call whose worker is lost is tried again on another, " <>
          "at most three times, as long as the pool's retries stay within a tenth of its calls."
    ],
    correlation_id: [
      type: {:string, Cancellation.longest_id()},
      doc:
        "Names the call in observations and errors, to the tool (`snakepit.correlation_id()`), and to `Snakepit.cancel/1`. " <>
          "Calls may share one."
    ]
  ]

  defstruct pool: nil,
            timeout: nil,
            item_timeout: nil,
            request: :auto,
            reply: :auto,
            zero_copy: true,
            copy: false,
            session: nil,
            affinity: :strict,
            idempotent: false,
            correlation_id: nil

  @type t :: %__MODULE__{
          pool: atom(),
          timeout: timeout() | nil,
          item_timeout: timeout() | nil,
          request: :auto | Transfer.way(),
          reply: :auto | Transfer.way(),
          zero_copy: boolean(),
          copy: boolean(),
          session: String.t() | nil,
          affinity: :strict | :prefer,
          idempotent: boolean(),
          correlation_id: String.t() | nil
        }

  @doc "The options as Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@schema)

  @map_schema @schema ++ [max_concurrency: [type: :pos_integer]]

  @doc "As `new/1` for `Snakepit.map/3`: its own option apart, and the others as each call takes them."
  @spec for_map(keyword() | map()) :: {:ok, t(), pos_integer() | nil, keyword()} | {:error, Error.t()}
  def for_map(opts) when is_list(opts) or is_map(opts) do
    case Options.validate(opts, @map_schema) do
      {:ok, %{max_concurrency: concurrency}} ->
        of_call = opts |> Enum.to_list() |> Keyword.delete(:max_concurrency)

        with {:ok, options} <- new(of_call),
             :ok <- no_item_timeout(options),
             do: {:ok, options, concurrency, of_call}

      {:error, _key, message} ->
        refuse("options of the call: #{message}")
    end
  end

  def for_map(other), do: new(other)

  defp no_item_timeout(%{item_timeout: nil}), do: :ok

  defp no_item_timeout(_options),
    do: refuse("options of the call: :item_timeout is for streams; each call of a map has :timeout")

  @stream_schema [
    on_return: [
      type: {:function, 1},
      doc:
        "Called with what the generator returned (`nil` where it returned nothing) once the stream was read to its end, " <>
          "in the process that reads it."
    ]
  ]

  @doc "The options that a stream has beside those of a call, as Markdown."
  @spec stream_docs() :: String.t()
  def stream_docs, do: Options.docs(@stream_schema)

  @doc "As `new/1` for `Snakepit.stream/3`: its own option apart, and the others, not yet checked."
  @spec for_stream(keyword() | map()) ::
          {:ok, (term() -> any()) | nil, keyword() | map()} | {:error, Error.t()}
  def for_stream(opts) when is_list(opts) or is_map(opts) do
    given = for {:on_return, fun} <- Enum.to_list(opts), do: fun

    with [fun | _] <- given,
         {:ok, fun} <- Options.cast({:function, 1}, fun) do
      {:ok, fun, Enum.reject(opts, &match?({:on_return, _}, &1))}
    else
      [] ->
        {:ok, nil, opts}

      :error ->
        {:error, _key, message} = Options.validate(%{on_return: hd(given)}, @stream_schema)
        refuse("options of the call: #{message}")
    end
  end

  def for_stream(other), do: {:ok, nil, other}

  @spec new(keyword() | map()) :: {:ok, t()} | {:error, Error.t()}
  def new([]), do: {:ok, %__MODULE__{}}
  def new(opts) when is_list(opts) or is_map(opts), do: each(opts, %__MODULE__{})
  def new(other), do: refuse("expected a call's options to be a keyword list, got: #{inspect(other)}")

  defp each(opts, acc) do
    Enum.reduce_while(opts, {:ok, acc}, fn
      {key, value}, {:ok, acc} when is_atom(key) ->
        case option(key, value, acc) do
          {:ok, acc} -> {:cont, {:ok, acc}}
          {:error, error} -> {:halt, {:error, error}}
        end

      other, _acc ->
        {:halt, refuse("expected a call's options to be a keyword list, got the item #{inspect(other)}")}
    end)
  end

  defp option(key, value, acc) do
    with {:ok, spec} <- Keyword.fetch(@schema, key),
         {:ok, value} <- Options.cast(spec[:type], value) do
      {:ok, put(acc, key, value)}
    else
      :error when key == :on_return ->
        refuse(
          "options of the call: :on_return is of stream/3 alone: execute_stream/4 answers with what was returned"
        )

      # The whole schema words the complaint, as it does for pools.
      :error ->
        {:error, _key, message} = Options.validate(%{key => value}, @schema)
        refuse("options of the call: #{message}")
    end
  end

  defp put(acc, key, value) when key in [:pool_name, :pool], do: %{acc | pool: value}
  defp put(acc, :transfer, value), do: %{acc | request: value, reply: value}
  defp put(acc, :request_transfer, value), do: %{acc | request: value}
  defp put(acc, :reply_transfer, value), do: %{acc | reply: value}
  defp put(acc, :session_id, value), do: %{acc | session: value}
  defp put(acc, key, value), do: Map.put(acc, key, value)

  defp refuse(message), do: {:error, Error.new(:validation, :invalid_option, message)}
end
