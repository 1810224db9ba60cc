"""Serves calls by gRPC: service `snakepit.v1.Worker` and the standard health check, on a Unix socket."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from .._native import Requests, close_in_children
from ..support.errors import ProtocolError
from ..support.limits import FETCH, INLINE, MAX_GRPC_MESSAGE
from ..wire.payload import payload_size, read_payload, write_payload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._native import Reply
    from .lane import Lane

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE),
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE),
    ("grpc.so_reuseport", 0),
]
# HealthCheckResponse { status: SERVING }.
_SERVING = b"\x08\x01"


def start(path: str, lanes: list[Lane]) -> Any:
    """A server that listens on this Unix socket. Raises what grpcio raises when it cannot."""
    close_in_children(os.fsencode(path))
    server = grpc.server(ThreadPoolExecutor(len(lanes) + 2, "snakepit-grpc"), options=_OPTIONS)
    worker = Worker(lanes)
    # No serializers: messages stay bytes, `payload` reads them.
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "snakepit.v1.Worker",
                {
                    "Call": grpc.unary_unary_rpc_method_handler(worker.call),
                    "Stream": grpc.unary_stream_rpc_method_handler(worker.stream),
                },
            ),
            grpc.method_handlers_generic_handler(
                "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(_check)}
            ),
        )
    )
    server.add_insecure_port(f"unix:{path}")
    server.start()
    return server


def _check(request: bytes, context: Any) -> bytes:
    return _SERVING


class Worker:
    """The handlers. A call takes its lane's turn, so that a lane never runs two tools."""

    def __init__(self, lanes: list[Lane]) -> None:
        self._lanes = lanes

    def call(self, message: bytes, context: Any) -> bytes:
        try:
            frame, buffers = read_payload(message)
            lane = self._lane(frame)
            with lane.lock:
                if not context.is_active():
                    # Its caller gave up while it waited for the lane.
                    return b""
                if Requests.head(frame)[0] == FETCH:
                    return self._fetch(lane, frame, context)
                lane.lost = False
                with self._running(lane):
                    reply = lane.calls.answer(frame, buffers)
                message = self._message(lane, reply)
                if reply.tokens is not None and not context.is_active():
                    lane.calls.replies.unread(reply.tokens)
                    lane.lost = False
                return message
        except ProtocolError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise

    def stream(self, message: bytes, context: Any) -> Iterator[bytes]:
        try:
            frame, buffers = read_payload(message)
            lane = self._lane(frame)
            with lane.lock, self._running(lane):
                lane.lost = False
                replies = lane.calls.stream(frame, buffers)
                try:
                    for reply in replies:
                        yield self._message(lane, reply)
                finally:
                    replies.close()
        except ProtocolError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    @staticmethod
    @contextmanager
    def _running(lane: Lane) -> Iterator[None]:
        """The lane's tool runs in this thread meanwhile."""
        before = lane.calls.cancellation.thread
        lane.here()
        try:
            yield
        finally:
            lane.calls.cancellation.thread = before

    def _lane(self, frame: memoryview) -> Lane:
        number = Requests.head(frame)[4]
        if number >= len(self._lanes):
            raise ProtocolError(f"there is no lane {number}")
        return self._lanes[number]

    @staticmethod
    def _fetch(lane: Lane, frame: memoryview, context: Any) -> bytes:
        call_id = Requests.head(frame)[3]
        waiting = lane.waiting
        if waiting is None or waiting[0] != call_id:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no reply of call {call_id} waits")
            raise ProtocolError("no such reply")
        lane.waiting = None
        return waiting[1]

    @staticmethod
    def _message(lane: Lane, reply: Reply) -> bytes:
        size = payload_size(reply.head, reply.buffers)
        if size > MAX_GRPC_MESSAGE:
            reply = lane.calls.too_large(reply, size, MAX_GRPC_MESSAGE)
        lane.calls.keep_released(reply)
        if reply.tokens is not None:
            lane.lost = True
        if reply.way == INLINE:
            return write_payload(reply.frame(), ())
        return write_payload(reply.head, reply.buffers)
