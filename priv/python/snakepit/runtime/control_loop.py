"""The thread that reads the control socket. It answers at once, whatever the tools do: slow work is done elsewhere."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from ..support import context, identity
from ..support.errors import ProtocolError
from ..support.limits import BINS, KINDS
from ..wire.control import LOST
from . import signals

if TYPE_CHECKING:
    from ..logs.records import Logs
    from ..wire.control import Control
    from .calls import Service
    from .lane import Lane


class ControlLoop:
    """Obeys the BEAM's control messages."""

    def __init__(
        self, control: Control, service: Service, lanes: list[Lane], stop: threading.Event, logs: Logs | None = None
    ) -> None:
        self._control = control
        self._service = service
        self._lanes = lanes
        self._stop = stop
        self._logs = logs
        self._grpc: Any = None

    def run(self) -> None:
        try:
            while True:
                message = self._control.receive()
                if message is None:
                    break
                self._obey(message)
        except (ProtocolError, OSError, ValueError, TypeError) as error:
            sys.stderr.write(f"snakepit: the control connection broke: {type(error).__name__}: {error}\n")
        # Without the BEAM nobody needs this process; no cleanup of the user's may keep it.
        context.caller_gone()
        os._exit(0)

    def _obey(self, message: list[Any]) -> None:
        name, *rest = message
        if name == "ping":
            self._control.send(["pong", *rest[:1]])
            if self._logs is not None:
                self._logs.send_dropped()
        elif name == "cancel":
            number, call_id = rest[:2]
            if number < len(self._lanes):
                self._lanes[number].calls.cancellation.cancel(call_id)
        elif name == "chunk":
            self._chunk(*rest[:2])
        elif name == "drop":
            self._service.borrowed.drop(rest[0])
        elif name == "free":
            if self._service.arena is not None:
                self._service.arena.freed(rest[0])
        elif name == "table":
            self._table(rest[0])
        elif name == "refused":
            if self._service.arena is not None:
                self._service.arena.refused(rest[0])
        elif name == "idle_ms":
            self._service.maintenance.give_back_after(int(rest[0]) / 1000)
        elif name == "log_level":
            if self._logs is not None:
                # `logging` has a lock, which a tool may hold for long.
                change = threading.Thread(target=self._logs.set_level, args=(int(rest[0]),), daemon=True)
                change.start()
        elif name == "resized":
            identity.resized(int(rest[0]))
            if self._service.arena is not None:
                self._service.arena.quota = int(rest[1])
        elif name == "grpc":
            threading.Thread(target=self._serve_grpc, args=(rest[0],), name="snakepit-grpc", daemon=True).start()
        elif name == "stop" and not self._service.stopping:
            self._service.stopping = True
            context.caller_gone()
            signals.interrupt()
            threading.Thread(target=self._finish, name="snakepit-stop", daemon=True).start()

    def _chunk(self, chunk: int, size: int) -> None:
        fd = self._control.take_fd()
        try:
            if fd == LOST:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._service.borrowed.add(chunk, fd, size)
        except Exception as error:
            # Calls that refer to it fail with a transfer error; the worker lives on.
            self._service.borrowed.refuse(chunk, str(error))
            sys.stderr.write(f"snakepit: chunk {chunk:#x} is not mapped: {error}\n")
        finally:
            if fd != LOST:
                os.close(fd)

    def _table(self, table: bytes) -> None:
        if not isinstance(table, bytes) or len(table) != KINDS * BINS:
            raise ProtocolError("a table of ways is not as long as there are bins")
        for lane in self._lanes:
            lane.calls.replies.table = table

    def _serve_grpc(self, path: str) -> None:
        try:
            from .grpc_server import start

            self._grpc = self._grpc or start(path, self._lanes)
        except ImportError as error:
            self._control.send(["grpc_failed", f"{sys.executable} lacks grpcio: {error}"])
        except Exception as error:
            self._control.send(["grpc_failed", f"{type(error).__name__}: {error}"])
        else:
            self._control.send(["grpc_ready", path])

    def _finish(self) -> None:
        """Ends lanes that the interruption missed: where Python calls back from C, an exception may be lost."""
        for lane in self._lanes:
            # Held by the call that runs there, if one does; never given back.
            lane.lock.acquire()
        self._stop.set()
        for lane in self._lanes:
            try:
                lane.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
