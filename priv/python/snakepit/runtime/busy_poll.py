"""Spinning for the next request, where it comes soon: to sleep and be woken costs more than a small call takes."""

from __future__ import annotations

import os
import socket
from time import perf_counter_ns

# After a wait in vain there is none for so many times as long.
_REST = 20


class BusyPoll:
    """One lane's. As `native/snakepit_core/src/spin.rs` has it."""

    def __init__(self, sock: socket.socket, microseconds: int) -> None:
        self._receive = sock.recv_into
        self._limit = microseconds * 1000
        self._not_before = 0

    def receive(self, window: memoryview) -> int | None:
        """As the socket's `recv_into`, but `None` where nothing came in time, or is not waited for."""
        receive, now = self._receive, perf_counter_ns()
        if now < self._not_before:
            return None
        until = now + self._limit
        while True:
            try:
                return receive(window, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            if (late := perf_counter_ns()) > until:
                self._not_before = late + _REST * (late - now)
                return None
            # Who else wants this core has it first: the caller, perhaps.
            os.sched_yield()
