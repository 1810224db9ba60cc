"""Waiting for the next request awake, where it comes soon: to sleep and be woken costs more than a small call takes."""

from __future__ import annotations

import os
import socket
from time import perf_counter_ns

# Of the doubling, and what a wait in vain adds to it; one that was met takes one away.
_MOST = 12
_VAIN = 3


class BusyPoll:
    """One lane's. What it learns is as in `native/snakepit_core/src/patience.rs`."""

    def __init__(self, sock: socket.socket, microseconds: int) -> None:
        self._receive = sock.recv_into
        self._limit = microseconds * 1000
        self._doubling = 0
        # How many more waits are left out.
        self._left = 0

    def receive(self, window: memoryview) -> int | None:
        """As the socket's `recv_into`, but `None` where nothing came in time, or is not waited for."""
        if self._left:
            self._left -= 1
            return None
        receive, until = self._receive, perf_counter_ns() + self._limit
        while True:
            try:
                got = receive(window, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if perf_counter_ns() > until:
                    self._doubling = min(self._doubling + _VAIN, _MOST)
                    self._left = (1 << self._doubling) - 1
                    return None
                # Who else wants this core has it first: the caller, perhaps.
                os.sched_yield()
            else:
                if self._doubling:
                    self._doubling -= 1
                return got
