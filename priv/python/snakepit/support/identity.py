"""Which worker this process is."""

from __future__ import annotations

import contextvars
from typing import Any, NoReturn


class Worker:
    """A worker of a pool, as `worker` tells it. It cannot be changed."""

    __slots__ = ("index", "lane", "pool", "size")
    pool: str
    index: int
    lane: int | None
    size: int

    def __init__(self, pool: str, index: int, lane: int | None, size: int) -> None:
        for name, value in (("pool", pool), ("index", index), ("lane", lane), ("size", size)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{name} of a worker cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name} of a worker cannot be deleted")

    def _key(self) -> tuple[str, int, int | None, int]:
        return self.pool, self.index, self.lane, self.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Worker) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Worker(pool={self.pool!r}, index={self.index}, lane={self.lane}, size={self.size})"


# The lane that this thread or task serves.
lane: contextvars.ContextVar[int | None] = contextvars.ContextVar("snakepit_lane", default=None)

_own: Worker | None = None


def become(pool: str, index: int, size: int, lanes: int) -> None:
    """This process is that worker from now on. With a single lane, all its code is that lane's."""
    global _own
    _own = Worker(pool, index, 0 if lanes == 1 else None, size)


def resized(size: int) -> None:
    """The pool has so many workers now."""
    global _own
    if _own is not None:
        _own = Worker(_own.pool, _own.index, _own.lane, size)


def worker() -> Worker:
    """This worker: `pool` (its name), `index` (from 0), `size` (how many the pool has), and `lane`.

    Modules may ask at import: `device = f"cuda:{snakepit.worker().index}"`. An index belongs to one worker
    at a time, but for moments in which one finishes its last calls beside its successor.

    `lane` is 0, or of a pool with `worker_profile: :thread` the lane (from 0) whose thread runs this call; there it is
    `None` where no call runs: at import, in hooks, and in threads that a tool started. A forked child gets what its
    parent is. Raises `LookupError` in a process that is no worker of Snakepit's.
    """
    own = _own
    if own is None:
        raise LookupError("this process is no worker: Snakepit did not start it")
    number = lane.get()
    return own if number is None or number == own.lane else Worker(own.pool, own.index, number, own.size)
