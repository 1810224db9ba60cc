"""Tools the bench calls. Importing them imports nothing large."""

from __future__ import annotations

import os
import time
from typing import Any

import snakepit
from snakepit import tool


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool
def shape(x: Any) -> tuple[int, ...]:
    """Looks at no item: what is left is the transfer."""
    return tuple(x.shape)


@tool
def fresh(x: Any) -> Any:
    """A new array, as numpy makes them."""
    return x.copy()


@tool
def copied(x: Any) -> bytes:
    return bytes(x)


@tool
def in_place(n: int, value: int) -> Any:
    """An array in shared memory, with marks to know it by.

    It is not filled: that is the tool's own time, and a caller that slept meanwhile pays for waking up.
    """
    array = snakepit.empty((n,), "uint8")
    array[0] = array[n // 2] = array[-1] = value
    return array


@tool
def ends(x: Any) -> tuple[int, int, int]:
    return int(x[0]), int(x[-1]), len(x)


@tool
def echo(x: Any) -> Any:
    return x


_kept: list[Any] = []


@tool
def keep_term(x: Any) -> int:
    """Keeps a value for the tools below."""
    _kept[:] = [x]
    return len(x)


@tool
def size_of(x: Any) -> int:
    return len(x)


@tool
def kept_term() -> Any:
    return _kept[0]


@tool
def msgpack_floor() -> tuple[int, int]:
    """Nanoseconds that msgpack's C code takes to pack what is kept, and to unpack that."""
    import msgpack

    started = time.perf_counter_ns()
    packed = msgpack.packb(_kept[0])
    packed_at = time.perf_counter_ns()
    msgpack.unpackb(packed, strict_map_key=False)
    return packed_at - started, time.perf_counter_ns() - packed_at


@tool
def count(n: int) -> Any:
    yield from range(n)


@tool
def hold(x: Any, started: str, go_on: str) -> int:
    """Reads every byte, then keeps all of it until asked to go on."""
    total = int(x.sum())
    open(started, "w").close()
    while not os.path.exists(go_on):
        time.sleep(0.005)
    return total


_blocks: dict[int, bytes] = {}


@tool
def block(n: int) -> bytes:
    """The same bytes every time: making them is not what is measured."""
    if n not in _blocks:
        _blocks.clear()
        _blocks[n] = b"\x07" * n
    return _blocks[n]


@tool
def numbers(n: int) -> Any:
    yield from range(n)


@tool
def nap(seconds: float) -> None:
    time.sleep(seconds)
