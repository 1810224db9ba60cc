"""`multiprocessing.Queue`, one in each direction."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .driver import RoundTrip


def _echo(requests: Any, replies: Any) -> None:
    while True:
        replies.put(requests.get())


def start() -> RoundTrip:
    """A process that echoes."""
    context = multiprocessing.get_context("spawn")
    requests, replies = context.Queue(), context.Queue()
    context.Process(target=_echo, args=(requests, replies), daemon=True).start()

    def round_trip(data: bytes) -> Any:
        requests.put(data)
        return replies.get()

    return round_trip
