"""Tools of the faults suite: by each way and of each kind, with results that can be checked to their last byte."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

from snakepit import tool


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool
def copied(x: Any) -> bytes:
    return bytes(x)


@tool
def doubled(x: Any) -> Any:
    return x * 2


@tool
def blocks(pattern: bytes, times: int, n: int) -> Iterator[bytes]:
    for i in range(n):
        yield bytes([i]) + bytes(pattern) * times


@tool
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
