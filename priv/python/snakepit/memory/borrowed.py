"""Chunks that this worker reads: of others, and of its own when a result comes back; the leases on parts of them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..support import fork
from ..support.errors import CallError, ProtocolError
from .leases import Leases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..wire.frames import Place
    from .chunk_memory import Mapping

# A frame may overtake the message that announces its chunk.
_ANNOUNCED_WITHIN = 5.0


class Borrowed:
    """All chunks that requests may refer to."""

    def __init__(self, own: dict[int, Mapping]) -> None:
        self._own = own
        self._chunks: dict[int, Mapping] = {}
        # Those that could not be mapped, and why.
        self._refused: dict[int, str] = {}
        self._arrival = threading.Condition(fork.lock())
        # By token. The next frame to be written gives back those that are gone.
        self.leases = Leases()
        self.outstanding = 0
        """Tokens that were not given back yet."""
        self._counting = fork.lock()

    def add(self, chunk: int, fd: int, size: int) -> None:
        """Maps a chunk that was announced. Raises `BadChunk` or `OSError`."""
        from .chunk_memory import open_foreign

        mapping = open_foreign(fd, size)
        with self._arrival:
            self._chunks[chunk] = mapping
            self._arrival.notify_all()

    def refuse(self, chunk: int, why: str) -> None:
        """A chunk that was announced could not be mapped: whoever waits for it waits in vain."""
        with self._arrival:
            self._refused[chunk] = why
            self._arrival.notify_all()

    def drop(self, chunk: int) -> None:
        """Forgets a chunk; it is unmapped when the last view of it goes."""
        self._refused.pop(chunk, None)
        self._chunks.pop(chunk, None)

    def views(self, places: list[Place]) -> list[memoryview]:
        """Read-only views of these places. Each token comes back exactly once, whatever happens."""
        with self._counting:
            self.outstanding += len(places)
        made = []
        for number, (chunk, offset, length, token) in enumerate(places):
            try:
                mapping = self._chunks.get(chunk) or self._own.get(chunk) or self._wait(chunk)
            except CallError:
                # Those made so far come back by themselves.
                self.leases.end(place[3] for place in places[number:])
                raise
            if offset + length > mapping.size:
                raise ProtocolError("a buffer lies outside of its chunk")
            made.append(self.leases.lend(mapping, offset, length, token).toreadonly())
        return made

    def _wait(self, chunk: int) -> Mapping:
        deadline = time.monotonic() + _ANNOUNCED_WITHIN
        with self._arrival:
            while chunk not in self._chunks:
                if chunk in self._refused:
                    raise CallError("transfer", "no_memory", f"shared memory is not mapped: {self._refused[chunk]}")
                left = deadline - time.monotonic()
                if left <= 0 or not self._arrival.wait(left):
                    raise CallError("transfer", "unknown_chunk", f"chunk {chunk:#x} was never announced")
            return self._chunks[chunk]

    def take_back(self, tokens: Sequence[int]) -> None:
        """Tokens of a reply that is not sent after all: the next one has them."""
        with self._counting:
            self.outstanding += len(tokens)
        self.leases.end(tokens)

    def take_released(self) -> list[int]:
        """The tokens to give back now. Each is returned by exactly one call."""
        tokens = self.leases.take()
        with self._counting:
            self.outstanding -= len(tokens)
        return tokens
