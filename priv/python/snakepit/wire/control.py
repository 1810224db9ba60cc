"""The control socket: framed messages with file descriptors."""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from .._native import pack, unpack
from ..support import fork
from ..support.context import undisturbed
from ..support.errors import ProtocolError
from ..support.limits import MAX_CONTROL_FRAME
from .frames import PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_FDS = 64
# Stands for a descriptor that this process could not have.
LOST = -1


class Control:
    """One reader, any number of writers."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = fork.lock()
        self._bytes = bytearray()
        # The kernel ends a read after the bytes that carry descriptors, so that their order is that of their frames.
        self._fds: deque[int] = deque()

    def send(self, message: list[Any], fds: Sequence[int] = ()) -> None:
        body = pack(message)
        if len(body) > MAX_CONTROL_FRAME:
            raise ProtocolError(f"a control message of {len(body)} bytes")
        # A tool may be sending: cancelled in the middle of it, it would leave a part of a message behind.
        undisturbed(self._send, PREFIX.pack(len(body)) + body, fds)

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        with self._lock:
            if fds:
                sent = socket.send_fds(self._sock, [data], list(fds))
                data = data[sent:]
            self._sock.sendall(data)

    def receive(self) -> list[Any] | None:
        """The next message, or `None` at the end of the connection."""
        while True:
            held = self._bytes
            if len(held) >= 4:
                length = PREFIX.unpack_from(held)[0]
                if length > MAX_CONTROL_FRAME:
                    raise ProtocolError(f"a control frame of {length} bytes")
                if len(held) >= 4 + length:
                    message = self._parse(bytes(held[4 : 4 + length]))
                    del held[: 4 + length]
                    return message
            data, fds, flags, _ = socket.recv_fds(self._sock, 1 << 16, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            self._fds.extend(fds)
            if flags & socket.MSG_CTRUNC:
                # The kernel leaves out what it has no number for.
                self._fds.append(LOST)
            if not data:
                return None
            held += data

    @staticmethod
    def _parse(body: bytes) -> list[Any]:
        try:
            message = unpack(body)
        except Exception as error:
            raise ProtocolError(f"a control message cannot be read: {error}") from None
        if not isinstance(message, list) or not message or not isinstance(message[0], str):
            raise ProtocolError("a control message must be an array that begins with its name")
        return message

    def take_fd(self) -> int:
        """The descriptor that came with the message just read, or `LOST`. The caller closes it."""
        if not self._fds:
            raise ProtocolError("a message without its file descriptor")
        return self._fds.popleft()

    def close_fds(self) -> None:
        while self._fds:
            fd = self._fds.popleft()
            if fd != LOST:
                os.close(fd)
