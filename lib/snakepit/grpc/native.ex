defmodule Snakepit.Grpc.Native do
  @moduledoc false
  # The gRPC client, a native library of its own. Its functions return at once; the answer is a message
  # `{:snakepit_grpc, ref, answer}` to the process that called, where `ref` is the caller's own.
  #
  # The library is loaded with this module, and in interactive mode that is when the first function here is called:
  # refer to it only where gRPC is about to be used.
  #
  # A call is watched together with its caller: when the caller dies, the call is dropped and the worker is informed.
  # Binaries of at least 4 KiB are sent from where they are, without a copy; received buffers of at least 64 KiB are
  # binaries over the memory they were received in. The caller of this module does what `copy: true` asks.
  @on_load :load
  # Compiling it must not load it: the library may not be in its place yet.
  @compile {:autoload, false}

  @type channel :: reference
  @type call :: reference
  @type stream :: reference
  @typedoc "The codes of gRPC; no other text is made into an atom."
  @type code ::
          :cancelled
          | :unknown
          | :invalid_argument
          | :deadline_exceeded
          | :not_found
          | :already_exists
          | :permission_denied
          | :resource_exhausted
          | :failed_precondition
          | :aborted
          | :out_of_range
          | :unimplemented
          | :internal
          | :unavailable
          | :data_loss
          | :unauthenticated

  # From this many buffers on a call starts on a dirty scheduler. Their size does not matter, see above: it is
  # their number, and the copies of the small ones among them, that take time (below 1 µs each).
  @many 128

  @doc """
  A channel to `unix:/path` or `http://host:port`.

  Nothing is connected yet: that happens at the first call, and again by itself whenever the connection is lost. A
  worker that is not there shows as the error `:unavailable` of a call.
  """
  @spec connect(String.t()) :: {:ok, channel} | {:error, String.t()}
  def connect(_target), do: not_loaded()

  @doc """
  `Worker/Call`. The answer is `{:ok, frame, buffers}` or `{:error, code, message}`.

  After `timeout_ms` the answer is `{:error, :deadline_exceeded, message}`, whatever the worker does; 0 waits for ever.
  `{:error, :too_large}`, at once: the message would be over 2^31 - 1 bytes. The handle is for `withdraw/1` alone: the
  call goes on without it.
  """
  @spec call(channel, reference, binary, [binary], non_neg_integer) ::
          {:ok, call} | {:error, :too_large | String.t()}
  def call(channel, ref, frame, buffers, timeout_ms) do
    if many?(buffers),
      do: call_dirty(channel, ref, frame, buffers, timeout_ms),
      else: call_few(channel, ref, frame, buffers, timeout_ms)
  end

  @doc false
  @spec call_few(channel, reference, binary, [binary], non_neg_integer) ::
          {:ok, call} | {:error, :too_large | String.t()}
  def call_few(_channel, _ref, _frame, _buffers, _timeout_ms), do: not_loaded()

  @doc "`call/5` on a dirty scheduler, whatever the number of buffers."
  @spec call_dirty(channel, reference, binary, [binary], non_neg_integer) ::
          {:ok, call} | {:error, :too_large | String.t()}
  def call_dirty(_channel, _ref, _frame, _buffers, _timeout_ms), do: not_loaded()

  @doc """
  `Worker/Stream`. Each item, and the end, is asked for with `next/2`.

  The timeout is that of the whole stream, the time in which nothing is asked for included. The stream is dropped with
  `cancel/1`, when nothing refers to the handle any more, and when the process that began it ends.
  """
  @spec stream(channel, binary, [binary], non_neg_integer) ::
          {:ok, stream} | {:error, :too_large | String.t()}
  def stream(channel, frame, buffers, timeout_ms) do
    if many?(buffers),
      do: stream_dirty(channel, frame, buffers, timeout_ms),
      else: stream_few(channel, frame, buffers, timeout_ms)
  end

  @doc false
  @spec stream_few(channel, binary, [binary], non_neg_integer) ::
          {:ok, stream} | {:error, :too_large | String.t()}
  def stream_few(_channel, _frame, _buffers, _timeout_ms), do: not_loaded()

  @doc false
  @spec stream_dirty(channel, binary, [binary], non_neg_integer) ::
          {:ok, stream} | {:error, :too_large | String.t()}
  def stream_dirty(_channel, _frame, _buffers, _timeout_ms), do: not_loaded()

  @doc """
  Asks for what comes next: after `:ok` the calling process is sent `{:item, frame, buffers}` or, once, `:done` or
  `{:error, code, message}`. A stream that has ended already, or broke, answers with that at once.

  Ask again only after the answer came. The process that asks gets it, even if another process began the stream.
  """
  @spec next(stream, reference) :: :ok | :done | {:error, code, String.t()}
  def next(_stream, _ref), do: not_loaded()

  @doc "Drops a stream. Messages that it sent before may still be in the mailbox."
  @spec cancel(stream) :: :ok
  def cancel(_stream), do: not_loaded()

  @doc "Drops a call. False if its answer could not be called back: it is in the mailbox, or under way."
  @spec withdraw(call) :: boolean
  def withdraw(_call), do: not_loaded()

  @doc "The same for a stream whose next item was asked for."
  @spec withdraw_stream(stream) :: boolean
  def withdraw_stream(_stream), do: not_loaded()

  @doc "`Health/Check` of the whole server. The answer is `{:ok, :serving | :not_serving}` or `{:error, code, message}`."
  @spec health(channel, reference, non_neg_integer) :: :ok | {:error, String.t()}
  def health(_channel, _ref, _timeout_ms), do: not_loaded()

  @doc false
  def load do
    with dir when is_list(dir) <- :code.priv_dir(:snakepit) do
      :erlang.load_nif(:filename.join(dir, 'native/libsnakepit_grpc'), 0)
    end
  end

  # `length/1` would walk all of a list that is long.
  defp many?(buffers), do: match?([_ | _], Enum.drop(buffers, @many))

  defp not_loaded, do: :erlang.nif_error(:not_loaded)
end
