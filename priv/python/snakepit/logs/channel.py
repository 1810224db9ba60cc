"""The socket on which log records go to the BEAM: bounded memory, bounded waiting, no thread, no lock of its own.

A frame that was sent is in the kernel: it arrives whatever becomes of this process. Each frame goes by one call of
the system, which on a Unix socket takes all of so short a frame or none of it. So frames stay whole, whatever
interrupts a send: a handler of a signal, a destructor, `Cancelled`.
"""

from __future__ import annotations

import select
import socket
from time import monotonic
from typing import Any

from .._native import add_descriptor, pack
from ..wire.frames import PREFIX

# The kernel cuts what is longer than 36 KiB into pieces.
MAX_FRAME = 32 << 10
# Holds a burst of some thousand records.
_BUFFER = 512 << 10
# Where it is full, whoever logs waits: a tenth of the time, and no longer at once.
_LONGEST = 0.1
_SHARE = 0.1
# How long the rest of a frame may take that was not sent whole after all.
_REST = 1.0
_NOWHERE = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT


class LogChannel:
    """One reader, which may be slow."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._sock = sock
        add_descriptor(sock.fileno())
        # Seconds left to wait, for ordinary and for important records: a flood of the first leaves the others some.
        self._left = [_LONGEST, _LONGEST]
        self._since = [monotonic()] * 2
        self._finishing = False
        self.dropped = 0
        self.broken = False
        """Nobody reads any more."""

    def send(self, message: list[Any], important: bool) -> None:
        """Sends a message, or counts it as dropped."""
        body = pack(message)
        if len(body) > MAX_FRAME or self._finishing:
            self.dropped += 1
            return
        frame = PREFIX.pack(len(body)) + body
        if not (self._sent(frame) or (not self.broken and self._may_send(important) and self._sent(frame))):
            self.dropped += 1

    def send_dropped(self) -> None:
        """Says how many were dropped, if any were and there is room."""
        if self.dropped and not self._finishing:
            self._sent(b"")

    def _sent(self, frame: bytes) -> bool:
        # Taken at once: each count is reported by one thread.
        dropped, self.dropped = self.dropped, 0
        if dropped:
            note = pack(["dropped", dropped])
            frame = PREFIX.pack(len(note)) + note + frame
        try:
            sent = self._sock.send(frame, _NOWHERE)
        except OSError as error:
            self.dropped += dropped
            self.broken = self.broken or not isinstance(error, BlockingIOError)
            return False
        if sent < len(frame):
            self._finish(frame[sent:])
        return True

    def _may_send(self, important: bool) -> bool:
        """Waits for room, if there is time left for it."""
        now = monotonic()
        left = min(self._left[important] + (now - self._since[important]) * _SHARE, _LONGEST)
        self._since[important] = now
        ready = left > 0.001 and self._room(left)
        self._left[important] = left - (monotonic() - now)
        return ready

    def _room(self, seconds: float) -> bool:
        """Waits until the kernel takes more. With an object of its own: one lets no two threads wait at a time."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def _finish(self, rest: bytes) -> None:
        """The kernel took a part of a frame. Without the rest of it nothing that follows could be read."""
        self._finishing = self.broken = True
        try:
            until = monotonic() + _REST
            while rest and monotonic() < until:
                if self._room(_REST):
                    try:
                        rest = rest[self._sock.send(rest, _NOWHERE) :]
                    except BlockingIOError:
                        continue
                    except OSError:
                        return
            self.broken = bool(rest)
        finally:
            self._finishing = False
