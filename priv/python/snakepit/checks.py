"""What a check of an argument is: the exact types that pass at once, and what tells the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .errors import type_name

Mismatch = tuple[str, str]
Slow = Callable[[Any], Mismatch | None]


class Check:
    """How arguments of one annotation are checked, and what is made of them."""

    __slots__ = ("convert", "kinds", "name", "slow")

    def __init__(
        self,
        name: str,
        kinds: Iterable[type],
        slow: Slow | None = None,
        convert: Callable[[Any], Any] | None = None,
    ) -> None:
        self.name = name
        self.kinds = frozenset(kinds)
        self.slow = slow or self.refuse
        self.convert = convert

    def refuse(self, value: Any) -> Mismatch | None:
        return "", f"expected {self.name}, got {shown(value)}{self._instead(value)}"

    def _instead(self, value: Any) -> str:
        """What to send instead, where text and bytes were mixed up."""
        if type(value) is str and bytes in self.kinds:
            return ": send Snakepit.bytes/1 of the binary"
        if type(value) in BYTES and str in self.kinds:
            return ": send the binary itself, without Snakepit.bytes/1"
        return ""

    def __call__(self, value: Any) -> Mismatch | None:
        return None if type(value) in self.kinds else self.slow(value)


class Unmade(Exception):
    """A value that passed its check, of which its class could not be made: where, and why."""

    def __init__(self, path: str, words: str) -> None:
        super().__init__(words)
        self.path = path
        self.words = words


# As arguments arrive, and as `adapt` leaves them.
BYTES: set[type] = {bytes, memoryview, bytearray}


def shown(value: Any) -> str:
    return "bytes" if type(value) is memoryview else type_name(type(value))


def short(value: Any) -> str:
    """A small value as it is written, of any other its type."""
    return repr(value) if isinstance(value, (str, int, float)) and len(repr(value)) < 60 else shown(value)
