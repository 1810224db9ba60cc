defmodule Snakepit.Wire.ControlSocket do
  @moduledoc false
  # The control socket of one worker (native/PROTOCOL.md): listen, accept, frames, descriptors. Used by the worker's
  # own process only; every read answers at once, `{:select, …}` messages say when to read again.

  alias Snakepit.Native

  defstruct [:socket, :path, buffer: <<>>, fds: [], peer: nil]

  @type t :: %__MODULE__{
          socket: :socket.socket() | nil,
          path: Path.t() | nil,
          buffer: binary(),
          fds: [integer()],
          peer: term()
        }

  @max_frame 16 * 1024 * 1024
  @max_fds 1024
  # Bytes that may be read in one go, a message counted as so many more for what is made of it: a worker that sends
  # faster than it is read would keep its owner here, and its messages in memory, for ever.
  @burst 64 * 1024 * 1024
  @message 4_096
  @send_timeout 5_000
  # SOL_SOCKET, SO_PEERCRED, struct ucred: pid, uid, gid.
  @peercred {1, 17}

  @doc "Listens in a private directory."
  @spec listen(Path.t()) :: {:ok, t()} | {:error, term()}
  def listen(path) do
    with {:ok, socket} <- :socket.open(:local, :stream) do
      with :ok <- :socket.bind(socket, %{family: :local, path: path}),
           :ok <- :socket.listen(socket, 1) do
        {:ok, %__MODULE__{socket: socket, path: path}}
      else
        # It is tried again and again.
        {:error, _} = error ->
          :socket.close(socket)
          error
      end
    end
  end

  @doc "The worker's connection, `:wait` until a select message comes. The listening socket goes once it is there."
  @spec accept(t()) :: {:ok, t()} | :wait | {:error, term()}
  def accept(%__MODULE__{socket: listening, path: path}) do
    case :socket.accept(listening, :nowait) do
      {:ok, socket} ->
        :socket.close(listening)
        File.rm(path)

        with {:ok, <<pid::32-native, uid::32-native, _gid::32-native>>} <-
               :socket.getopt_native(socket, @peercred, 12) do
          {:ok, %__MODULE__{socket: socket, peer: %{pid: pid, uid: uid}}}
        end

      {:select, _info} ->
        :wait

      {:error, reason} ->
        {:error, reason}
    end
  end

  @doc "All messages that have come, and the descriptors that came with them are kept for `take_fds/2`."
  @spec receive_all(t()) :: {:ok, [list()], t()} | {:closed, [list()], t()} | {:error, String.t(), t()}
  def receive_all(%__MODULE__{} = control), do: receive_all(control, [], @burst)

  defp receive_all(control, _done, left) when left < 0,
    do: {:error, "the worker floods the control socket", control}

  defp receive_all(control, done, left) do
    case :socket.recvmsg(control.socket, 65_536, 4_096, [], :nowait) do
      {:ok, %{iov: iov, ctrl: ctrl} = received} ->
        fds = for %{level: :socket, type: :rights, data: data} <- ctrl, <<fd::32-native <- data>>, do: fd
        # The kernel leaves out what it has no number for.
        lost = if :ctrunc in Map.get(received, :flags, []), do: [:lost], else: []
        fds = control.fds ++ fds ++ lost
        control = %{control | buffer: IO.iodata_to_binary([control.buffer | iov]), fds: fds}

        cond do
          IO.iodata_length(iov) == 0 ->
            {:closed, Enum.reverse(done), control}

          length(control.fds) > @max_fds ->
            {:error, "more than #{@max_fds} descriptors were sent", control}

          true ->
            with {:ok, messages, control} <- frames(control, []) do
              left = left - IO.iodata_length(iov) - @message * length(messages)
              receive_all(control, messages ++ done, left)
            end
        end

      {:select, _info} ->
        {:ok, Enum.reverse(done), control}

      {:error, reason} when reason in [:closed, :econnreset, :epipe] ->
        {:closed, Enum.reverse(done), control}

      {:error, reason} ->
        {:error, "recvmsg: #{inspect(reason)}", control}
    end
  end

  # Newest first.
  defp frames(%{buffer: <<size::32, _::binary>>} = control, _done) when size > @max_frame,
    do: {:error, "a control frame of #{size} bytes", control}

  defp frames(%{buffer: <<size::32, frame::binary-size(size), rest::binary>>} = control, done) do
    case Native.unpack(frame, MapSet.new()) do
      {:ok, [name | _] = message} when is_binary(name) ->
        frames(%{control | buffer: rest}, [message | done])

      {:ok, _other} ->
        {:error, "a control frame that is no message", control}

      {:error, reason} ->
        {:error, "a malformed control frame: #{reason}", control}
    end
  end

  defp frames(control, done), do: {:ok, done, control}

  @doc """
  The next `n` descriptors in the order they were sent; they are the caller's to close. `:lost` stands for the first of a
  message that this VM could not have.
  """
  @spec take_fds(t(), non_neg_integer()) :: {:ok, [integer() | :lost], t()} | :error
  def take_fds(%__MODULE__{fds: fds} = control, n) do
    case Enum.split(fds, n) do
      {taken, rest} when length(taken) == n -> {:ok, taken, %{control | fds: rest}}
      _ -> :error
    end
  end

  @doc "Sends a message, with the descriptors it announces."
  @spec send_message(t(), list(), [non_neg_integer()]) :: :ok | {:error, term()}
  def send_message(%__MODULE__{socket: socket}, message, fds \\ []) do
    {:ok, packed} = Native.pack(message)
    data = [<<byte_size(packed)::32>>, packed]

    if fds == [] do
      with {:error, reason} <- :socket.send(socket, IO.iodata_to_binary(data), [], @send_timeout),
           do: {:error, reason}
    else
      rights = for fd <- fds, into: <<>>, do: <<fd::32-native>>
      message = %{iov: data, ctrl: [%{level: :socket, type: :rights, data: rights}]}

      case :socket.sendmsg(socket, message, [], @send_timeout) do
        :ok -> :ok
        {:ok, rest} -> :socket.send(socket, IO.iodata_to_binary(rest), [], @send_timeout)
        {:error, reason} -> {:error, reason}
      end
    end
  end

  @doc "Closes the socket and every descriptor nobody took."
  @spec close(t()) :: :ok
  def close(%__MODULE__{} = control) do
    :socket.close(control.socket)
    if control.path, do: File.rm(control.path)
    for fd <- control.fds, is_integer(fd), do: Native.close_fd(fd)
    :ok
  end
end
