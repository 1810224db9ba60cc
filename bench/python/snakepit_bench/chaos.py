"""Tools of the chaos suite: each result can be checked to its last byte. No numpy, so that workers start at once."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from snakepit import tool


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool
def checksum(x: Any) -> int:
    return zlib.crc32(x)


@tool
def repeated(pattern: bytes, times: int) -> bytes:
    return pattern * times


@tool
def copied(x: Any) -> bytes:
    return bytes(x)


@tool
def same(x: Any) -> Any:
    """The argument itself: sent back by reference where it came by memory."""
    return x


@tool
def blocks(pattern: bytes, times: int, n: int) -> Iterator[bytes]:
    for i in range(n):
        yield bytes([i]) + pattern * times
