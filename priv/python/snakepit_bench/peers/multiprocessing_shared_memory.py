"""`multiprocessing.shared_memory` for the bytes, a pipe to say where they are."""

from __future__ import annotations

import multiprocessing
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .driver import RoundTrip


def _echo(pipe: Any) -> None:
    blocks: dict[str, SharedMemory] = {}
    while True:
        there, back, size = pipe.recv()
        for gone in set(blocks) - {there, back}:
            blocks.pop(gone).close()
        for name in (there, back):
            if name not in blocks:
                blocks[name] = SharedMemory(name)
        data = bytes(blocks[there].buf[:size])
        blocks[back].buf[:size] = data
        pipe.send(size)


def start() -> RoundTrip:
    """A process that echoes from one block to another; blocks are used again as long as they are large enough."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    context.Process(target=_echo, args=(other,), daemon=True).start()
    blocks: list[SharedMemory] = []

    def round_trip(data: bytes) -> Any:
        size = len(data)
        if not blocks or blocks[0].size < size:
            for block in blocks:
                block.close()
                block.unlink()
            blocks[:] = [SharedMemory(create=True, size=max(size, 1)) for _ in range(2)]
        there, back = blocks
        there.buf[:size] = data
        pipe.send((there.name, back.name, size))
        pipe.recv()
        return bytes(back.buf[:size])

    return round_trip
