"""One lane: a socket on which one call at a time travels. The thread that reads it runs the tool."""

from __future__ import annotations

import socket
import sys
import threading
from typing import TYPE_CHECKING

from .._native import Leftover, Requests, add_descriptor, remove_row, serve
from ..support import context, fork, identity
from ..support.errors import ProtocolError
from ..support.limits import ERROR, GRPC, MAX_GRPC_MESSAGE, RESULT, STREAM, SYNC
from ..wire.payload import payload_size, write_payload
from .calls import Calls

if TYPE_CHECKING:
    from .._native import Reply
    from .calls import Service

# Where a frame begins in a lane's buffer: after its length, and so that tensors in it are aligned for numpy.
_START = 16
_ROOM = 64 << 10


class Lane(Leftover):
    """The worker's end of a lane."""

    def __init__(self, sock: socket.socket, service: Service, number: int = 0) -> None:
        self.sock = sock
        self._number = number
        self._row = add_descriptor(sock.fileno())
        # Held while a call runs, whichever way it came.
        self.lock = fork.lock()
        self.calls = Calls(service)
        self.service = service

    def serve(self) -> None:
        """Runs calls until the connection ends or the worker stops."""
        self.here()
        memory = memoryview(bytearray(_START + _ROOM))
        try:
            serve(self, self.calls.quick_calls, self.sock.fileno(), memory, _START, self.service.busy_poll)
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
                if reply.way == GRPC and reply.buffers:
                    # A lane keeps one reply to be fetched; the items of a stream would be many.
                    self.send(self.calls.no_way(reply))
                    return
                self.send(reply)
        finally:
            # An unfinished generator of the user ends here, not when it happens to be collected.
            replies.close()

    def send(self, reply: Reply) -> None:
        last = reply.kind in (RESULT, ERROR)
        if reply.way == GRPC and reply.buffers:
            reply = self._keep(reply)
        tokens = reply.tokens
        if tokens is not None:
            self.lost = tokens if last and not self.lost else True
        reply.send(self.sock.fileno())

    def _keep(self, reply: Reply) -> Reply:
        """Keeps a reply until it is fetched; returns what the lane says instead."""
        size = payload_size(reply.head, reply.buffers)
        if size > MAX_GRPC_MESSAGE:
            return self.calls.too_large(reply, size, MAX_GRPC_MESSAGE)
        waits = reply.waits()
        self.waiting = (reply.call_id, write_payload(reply.head, reply.buffers))
        return waits
