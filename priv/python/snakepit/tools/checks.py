"""The check of an argument: the exact types that pass at once, and a function that judges the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from ..support.errors import type_name

Mismatch = tuple[str, str]
Slow = Callable[[Any], Mismatch | None]


class Check:
    """How arguments of one annotation are checked, and what is made of them."""

    __slots__ = ("convert", "kinds", "name", "slow", "takes")

    def __init__(
        self,
        name: str,
        kinds: Iterable[type],
        slow: Slow | None = None,
        convert: Callable[[Any], Any] | None = None,
        takes: Iterable[type] | None = None,
    ) -> None:
        self.name = name
        self.kinds = frozenset(kinds)
        self.slow = slow or self.refuse
        self.convert = convert
        # The types of all that `slow` may let pass, where they are known.
        self.takes = None if takes is None else frozenset(takes)

    def taken(self) -> frozenset[type] | None:
        """The types of all that may pass; `None` where it is not known."""
        if self.takes is not None:
            return self.kinds | self.takes
        return self.kinds if self.slow == self.refuse else None

    def refuse(self, value: Any) -> Mismatch | None:
        return "", f"expected {self.name}, got {shown(value)}{self._instead(value)}"

    def _instead(self, value: Any) -> str:
        """Advice on what to send instead, where text and bytes were mixed up."""
        if type(value) is str and bytes in self.kinds:
            return ": send Snakepit.bytes/1 of the binary"
        if type(value) in BYTES and str in self.kinds:
            return ": send the binary itself, without Snakepit.bytes/1"
        return ""

    def __call__(self, value: Any) -> Mismatch | None:
        return None if type(value) in self.kinds else self.slow(value)


class Unmade(Exception):
    """A value that passed its check, of which its class could not be made: where, and why."""

    def __init__(self, path: str, words: str, reason: str = "wrong_value") -> None:
        super().__init__(words)
        self.reason = reason
        self.path = path
        self.words = words


class Seen(threading.local):
    """The verdicts of unions on values that they looked at in the part of a call that runs.

    Without them, where classes are inside of each other by unions, each member would look at everything below it
    again, at every level.
    """

    def __init__(self) -> None:
        # By the ids of union and value, which is kept so that nothing else has its id.
        self.found: dict[tuple[int, int], tuple[Any, Any]] = {}

    def forget(self) -> None:
        """The values must not be kept any longer than the call has them."""
        self.found.clear()


seen = Seen()


# As arguments arrive, and as `adapt` leaves them.
BYTES: set[type] = {bytes, memoryview, bytearray}


def shown(value: Any) -> str:
    return "bytes" if type(value) is memoryview else type_name(type(value))


def short(value: Any) -> str:
    """A small value as it is written, of any other its type."""
    return repr(value) if isinstance(value, (str, int, float)) and len(repr(value)) < 60 else shown(value)
