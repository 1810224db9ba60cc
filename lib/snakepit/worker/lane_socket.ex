defmodule Snakepit.Worker.LaneSocket do
  @moduledoc false
  # The BEAM's end of a lane: a descriptor that the worker passed, as a socket of gen_tcp.
  #
  # gen_tcp closes a descriptor that it did not open only when it met an error on it, and not when it is told to close.
  # Whether it did is seen by what the number stands for by then.

  alias Snakepit.Native

  @enforce_keys [:socket, :fd, :identity]
  defstruct @enforce_keys

  @type t :: %__MODULE__{socket: :gen_tcp.socket(), fd: non_neg_integer(), identity: term()}

  @spec open(non_neg_integer()) :: t()
  def open(fd) do
    options = [:local, :binary, packet: 4, active: false, buffer: 65_536, high_watermark: 1_048_576]
    {:ok, socket} = :gen_tcp.fdopen(fd, options)
    %__MODULE__{socket: socket, fd: fd, identity: identity(fd)}
  end

  @spec close(t()) :: :ok
  def close(%__MODULE__{socket: socket, fd: fd, identity: identity}) do
    :gen_tcp.close(socket)
    if identity(fd) == identity, do: Native.close_fd(fd), else: :ok
  end

  defp identity(fd) do
    with {:ok, stat} <- File.stat("/proc/self/fd/#{fd}"), do: {stat.major_device, stat.inode}
  end
end
