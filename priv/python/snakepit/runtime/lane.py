"""One lane: a socket on which one call at a time travels. The thread that reads it runs the tool."""

from __future__ import annotations

import socket
import sys
import threading
from typing import TYPE_CHECKING

from .._native import Requests, add_descriptor, remove_row, serve
from ..support import context, fork, identity
from ..support.errors import ProtocolError
from ..support.limits import (
    ERROR,
    GRPC,
    INLINE,
    MAX_FRAME,
    MAX_GRPC_MESSAGE,
    RESULT,
    STREAM,
    SYNC,
    WAITS,
    ZERO_COPY,
)
from ..wire.frames import FRAME_START, PREFIX, REPLY, lay_out, without_released, write_head
from ..wire.payload import payload_size, write_payload
from .calls import Calls

if TYPE_CHECKING:
    from .calls import Reply, Service

_ROOM = 64 << 10
# Up to this many bytes are joined and sent by one call.
_JOIN = 128 << 10
_IOV_MAX = 512
_NIL = b"\xc0"


class Lane:
    """The worker's end of a lane."""

    def __init__(self, sock: socket.socket, service: Service, number: int = 0) -> None:
        self.sock = sock
        self._number = number
        self._row = add_descriptor(sock.fileno())
        # Held while a call runs, whichever way it came.
        self.lock = fork.lock()
        self.calls = Calls(service)
        self.service = service
        # A reply that waits to be fetched by gRPC: call id and payload.
        self.waiting: tuple[int, bytes] | None = None
        # Whether a reply of the last call had tokens, of places that it grants or buffers that it gives back: if nobody
        # read it, they are lost. The head of that reply where it is the only one, so that they can be taken back.
        self.lost: bool | bytes = False

    def serve(self) -> None:
        """Runs calls until the connection ends or the worker stops."""
        self.here()
        memory = memoryview(bytearray(FRAME_START + _ROOM))
        try:
            serve(self, self.calls.quick_calls, self.sock.fileno(), memory, FRAME_START, self.service.busy_poll)
        except (ProtocolError, OSError):
            # The peer broke the protocol or went away: the connection ends, and the BEAM sees it.
            return
        except Exception as error:
            # No memory, most likely. The same: the BEAM ends a worker whose lane it has lost, and says why.
            sys.stderr.write(f"snakepit: a lane ends: {type(error).__name__}: {error}\n")
        finally:
            if fork.is_child():
                # Forked by what is no tool: a handler of a signal, say.
                fork.leave()
            remove_row(self._row)
            self.sock.close()

    def slowly(self, frame: memoryview, views: list[memoryview] | None) -> None:
        """Serves a frame that is no usual call; the lane is held. `views` are those of its buffers, if made already."""
        kind, _, flags, _, _ = Requests.head(frame)
        if kind == SYNC:
            reply, lost = self.calls.synchronized(frame, self.lost)
            self.send(reply)
            # The caller that asked reads this one.
            self.lost = lost
            return
        self.waiting = None
        self.lost = False
        if flags & STREAM:
            self._stream(frame, views)
        else:
            self.send(self.calls.answer(frame, views=views))

    def here(self) -> None:
        """This thread runs the lane's tools from now on."""
        self.calls.cancellation.thread = threading.get_ident()
        context.cancellation.set(self.calls.cancellation)
        identity.lane.set(self._number)

    def _stream(self, frame: memoryview, views: list[memoryview] | None) -> None:
        replies = self.calls.stream(frame, views=views)
        try:
            for reply in replies:
                if reply[0] == GRPC and reply[2]:
                    # A lane keeps one reply to be fetched; the items of a stream would be many.
                    self.send(self.calls.no_way(reply[1]))
                    return
                self.send(reply)
        finally:
            # An unfinished generator of the user ends here, not when it happens to be collected.
            replies.close()

    def send(self, reply: Reply) -> None:
        way, head, views = reply
        if views is not None:
            kind, _, _, _, _, _, _, count, released = REPLY.unpack_from(head)
            if released or (count and way == ZERO_COPY):
                self.lost = head if kind in (RESULT, ERROR) and not self.lost else True
            if way == GRPC and views:
                size = payload_size(head, views)
                if size > MAX_GRPC_MESSAGE:
                    way, head, views = self.calls.too_large(head, size, MAX_GRPC_MESSAGE)
                else:
                    head, views = self._keep(head, views), None
        if not (way == INLINE and views) and len(head) <= _JOIN:
            self.sock.sendall(PREFIX.pack(len(head)) + head)
            return
        parts = lay_out(head, views or ()) if way == INLINE else [head]
        total = sum(len(part) for part in parts)
        if total > MAX_FRAME:
            raise ProtocolError("a reply is longer than a frame can be")
        parts.insert(0, PREFIX.pack(total))
        if total <= _JOIN:
            self.sock.sendall(b"".join(parts))
            return
        for at in range(0, len(parts), _IOV_MAX):
            batch = parts[at : at + _IOV_MAX]
            sent = self.sock.sendmsg(batch)
            for part in batch:
                if sent >= len(part):
                    sent -= len(part)
                else:
                    self.sock.sendall(memoryview(part)[sent:])
                    sent = 0

    def _keep(self, head: bytes, views: list[memoryview]) -> bytes:
        """Keeps a reply until it is fetched; returns what the lane says instead.

        The tokens go with what is sent now: a reply that nobody fetches must not take them away.
        """
        head, released = without_released(head)
        _, _, flags, _, _, call_id, nanoseconds, _, _ = REPLY.unpack_from(head)
        self.waiting = (call_id, write_payload(head, views))
        return write_head(WAITS, GRPC, flags, call_id, nanoseconds, _NIL, (), (), released)
