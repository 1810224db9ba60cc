"""The worker's own shared memory, where results are written for the BEAM to read in place.

Invariant: a slot is free, or somebody holds it. Holders are the Python views of it and the tokens that the BEAM got for
it. A free slot is in exactly one stack, that of its class; the last one freed is the first one used, it is warm.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from itertools import count
from typing import TYPE_CHECKING

from ..support.errors import CallError
from ..support.fork import add, is_child, lock, remove
from .leases import Leases
from .size_classes import class_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..wire.frames import Place
    from .chunk_memory import Mapping


# How often memory is made for a slot that others take, or that the BEAM cannot map.
_TRIES = 12
# How long, in seconds, after the BEAM could not map a chunk.
_PAUSE = 10.0


class Chunk:
    """A chunk of the arena, cut into slots from its start on."""

    __slots__ = ("carved", "id", "idle_since", "live", "mapping", "offsets", "refused", "slots", "view")

    def __init__(self, id: int, mapping: Mapping, view: memoryview) -> None:
        self.id = id
        self.mapping = mapping
        self.view = view
        # The BEAM could not map it.
        self.refused = False
        self.reset()

    def reset(self) -> None:
        self.carved = 0
        self.live = 0
        self.idle_since = time.monotonic()
        self.offsets: list[int] = []
        self.slots: list[Slot] = []


class Slot:
    """A part of a chunk that is handed out as a whole."""

    __slots__ = ("chunk", "holders", "lent", "offset", "size", "writable")

    def __init__(self, chunk: Chunk, offset: int, size: int) -> None:
        self.chunk = chunk
        self.offset = offset
        self.size = size
        self.holders = 0
        # If numpy made an array here: its row in the table of what is alive.
        self.lent = 0
        # Python has memory of this slot that it may write to: numpy's array, or a lease.
        self.writable = False

    def view(self, length: int) -> memoryview:
        """A writable view, to be used while the slot is held."""
        return self.chunk.view[self.offset : self.offset + length]


class Arena:
    """Allocation in O(1). `announce` sends a new chunk's (id, size, fd), `retract` the id of one that is gone."""

    def __init__(
        self,
        owner: int,
        chunk_size: int,
        quota: int,
        announce: Callable[[int, int, int], None],
        retract: Callable[[int], None],
    ) -> None:
        self.chunk_size = chunk_size
        self.quota = quota
        self._announce = announce
        self._retract = retract
        self._lock = lock()
        # Ids grow in the order of announcements, also when two threads make chunks at once.
        self._announcing = lock()
        self._ids = count(owner << 32)
        self._tokens = count(1)
        self._held: dict[int, Slot] = {}
        self._free: dict[int, list[Slot]] = {}
        self._current: Chunk | None = None
        self._spare: Chunk | None = None
        # By address, for looking up what lies here.
        self._chunks: list[Chunk] = []
        self._addresses: list[int] = []
        # By id, for reading what the BEAM sends back by reference.
        self.mappings: dict[int, Mapping] = {}
        self.total = 0
        # Until when no memory is made ahead, as the BEAM could not map some.
        self._pause_until = 0.0
        self._refused_early: set[int] = set()
        # Python's views of slots.
        self._leases = Leases()
        self.leased = 0
        # The slots in which numpy made arrays, by address; `freed_by_numpy` names those that it is done with.
        self._lent: dict[int, Slot] = {}
        self._lent_bytes = 0
        self.freed_by_numpy: Callable[[], list[int]] = list

    def allocate(self, length: int) -> Slot | None:
        """A warm slot, held once; `None` if memory would have to be made for it."""
        size = class_size(length)
        with self._lock:
            self._collect()
            stack = self._free.get(size)
            slot = stack.pop() if stack else self._carve(size)
            if slot is not None:
                slot.holders = 1
                slot.chunk.live += 1
            return slot

    def _carve(self, size: int) -> Slot | None:
        if size > self.chunk_size // 2:
            return None
        chunk = self._current
        if chunk is None or chunk.carved + size > chunk.mapping.size:
            chunk = self._spare or self._recycled()
            if chunk is None:
                return None
            self._spare = None
            self._current = chunk
        return self._cut(chunk, size)

    def _cut(self, chunk: Chunk, size: int) -> Slot:
        slot = Slot(chunk, chunk.carved, size)
        chunk.offsets.append(chunk.carved)
        chunk.slots.append(slot)
        chunk.carved += size
        return slot

    def _recycled(self) -> Chunk | None:
        """A warm chunk whose slots are all free, to be cut anew."""
        for chunk in self._chunks:
            if self._is_reusable(chunk):
                self._forget_slots(chunk)
                chunk.reset()
                return chunk
        return None

    def _forget_slots(self, chunk: Chunk) -> None:
        for size in {slot.size for slot in chunk.slots}:
            left = [slot for slot in self._free.get(size, ()) if slot.chunk is not chunk]
            if left:
                self._free[size] = left
            else:
                self._free.pop(size, None)

    def refused(self, id: int) -> None:
        """The BEAM cannot map this chunk: nothing more is put there, and what would be next is not made for a while."""
        with self._lock:
            self._pause_until = time.monotonic() + _PAUSE
            for chunk in self._chunks:
                if chunk.id == id:
                    self._refuse(chunk)
                    return
            # It was announced a moment ago, and is about to be put in.
            self._refused_early.add(id)

    def _refuse(self, chunk: Chunk) -> None:
        self._forget_slots(chunk)
        chunk.refused = True
        # It goes as soon as its last slot is free.
        chunk.idle_since = 0.0
        if chunk is self._current:
            self._current = None
        if chunk is self._spare:
            self._spare = None

    def is_refused(self) -> bool:
        """Whether memory that is made ahead would most likely be of no use."""
        return time.monotonic() < self._pause_until

    def wants_spare(self) -> bool:
        """Whether the current chunk is so full that the next one should be prepared."""
        current = self._current
        return self._spare is None and current is not None and current.carved * 4 > current.mapping.size * 3

    def prepare(self, length: int) -> None:
        """Makes memory for a slot of this length, so that the next one is warm. Slow; raises `CallError`, `OSError`."""
        self._make(class_size(length), None)

    def make_spare(self) -> None:
        """Makes a spare chunk, if none is there. Slow."""
        with self._lock:
            if self._spare is not None or any(c is not self._current and self._is_reusable(c) for c in self._chunks):
                return
        self._make(0, None)

    def _is_reusable(self, chunk: Chunk) -> bool:
        return (
            not chunk.live and not chunk.refused and chunk is not self._spare and chunk.mapping.size == self.chunk_size
        )

    def force(self, length: int) -> Slot:
        """A slot, held once, made now if none is warm. Raises `CallError` (quota) or `OSError`."""
        for _ in range(_TRIES):
            slot = self.allocate(length)
            if slot is not None:
                return slot
            made: list[Slot] = []
            self._make(class_size(length), made)
            if made:
                return made[0]
        raise CallError(
            "transfer", "no_memory", f"no shared memory for {length} bytes: it was gone as soon as it was made"
        )

    def _make(self, size: int, made: list[Slot] | None) -> None:
        """A new chunk: one slot of its own if that is large, else the next to be cut."""
        from .chunk_memory import create, whole

        large = size > self.chunk_size // 2
        total = size if large else self.chunk_size
        self._reserve(total)
        try:
            fd, mapping = create(total)
            try:
                exporter = whole(mapping)
                with self._announcing:
                    chunk = Chunk(next(self._ids), mapping, exporter)
                    self._announce(chunk.id, total, fd)
            finally:
                os.close(fd)
        except BaseException:
            with self._lock:
                self.total -= total
            raise
        with self._lock:
            at = bisect_right(self._addresses, mapping.address)
            self._addresses.insert(at, mapping.address)
            self._chunks.insert(at, chunk)
            self.mappings[chunk.id] = mapping
            if chunk.id in self._refused_early:
                self._refused_early.discard(chunk.id)
                self._refuse(chunk)
                return
            if not large:
                if self._spare is None:
                    self._spare = chunk
                return
            slot = self._cut(chunk, size)
            if made is None:
                self._free.setdefault(size, []).append(slot)
            else:
                slot.holders = 1
                chunk.live = 1
                made.append(slot)

    def _over(self, more: int) -> bool:
        return self.total + more > self.quota

    def _reserve(self, more: int) -> None:
        """Counts bytes against the quota, after giving up chunks that nobody uses if that is what it takes."""
        gone: list[Chunk] = []
        with self._lock:
            self._collect()
            for chunk in list(self._chunks):
                if not self._over(more):
                    break
                if not chunk.live:
                    self._remove(chunk)
                    gone.append(chunk)
            fits = not self._over(more)
            if fits:
                self.total += more
        for chunk in gone:
            self._retract(chunk.id)
        if not fits:
            raise CallError(
                "transfer",
                "quota",
                f"the worker's shared memory would exceed its quota: it has {self.total} of {self.quota} bytes "
                f"and needs {more} more",
                details={"quota": self.quota, "total": self.total, "needed": more},
            )

    def _remove(self, chunk: Chunk) -> None:
        self._forget_slots(chunk)
        at = self._chunks.index(chunk)
        del self._chunks[at]
        del self._addresses[at]
        del self.mappings[chunk.id]
        self.total -= chunk.mapping.size
        # Its slots refer to it: without this the mapping would stay until the cycle is collected.
        chunk.reset()
        if chunk is self._current:
            self._current = None
        if chunk is self._spare:
            self._spare = None

    def drop_idle(self, seconds: float) -> bool:
        """Gives up the chunks without a held slot for that long. Whether chunks are left."""
        oldest = time.monotonic() - seconds
        with self._lock:
            self._collect()
            idle = [chunk for chunk in self._chunks if not chunk.live and chunk.idle_since <= oldest]
            for chunk in idle:
                self._remove(chunk)
            left = bool(self._chunks)
        for chunk in idle:
            self._retract(chunk.id)
        return left

    def grant(self, slot: Slot, offset: int, length: int) -> Place:
        """The table entry for a part of a slot. The BEAM takes over the caller's hold, until it returns the token."""
        token = next(self._tokens)
        self._held[token] = slot
        return slot.chunk.id, offset, length, token

    def release(self, slot: Slot) -> None:
        """One holder less."""
        with self._lock:
            self._release(slot)

    def _release(self, slot: Slot) -> None:
        slot.holders -= 1
        if slot.holders:
            return
        if not slot.chunk.refused:
            self._free.setdefault(slot.size, []).append(slot)
        slot.chunk.live -= 1
        if not slot.chunk.live and not slot.chunk.refused:
            slot.chunk.idle_since = time.monotonic()

    def freed(self, tokens: Sequence[int]) -> None:
        """The BEAM let go of these. A token that is not known is passed over: tokens are never used twice."""
        with self._lock:
            for token in tokens:
                slot = self._held.pop(token, None)
                if slot is not None:
                    self._release(slot)

    def _collect(self) -> None:
        if self._leases.gone:
            for slot in self._leases.take():
                self.leased -= 1
                slot.writable = False
                self._release(slot)
        if self._lent:
            for address in self.freed_by_numpy():
                lent = self._lent.pop(address)
                remove(lent.lent)
                lent.lent = 0
                lent.writable = False
                self._lent_bytes -= lent.size
                self._release(lent)

    def lend_to_numpy(self, length: int) -> int | None:
        """The address of an idle slot, which numpy holds until `freed_by_numpy` names it; `None` if there is none."""
        size = class_size(length)
        # numpy may ask while this thread is in here already: in a destructor, for one.
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self._collect()
            stack = self._free.get(size)
            if not stack or 2 * (self._lent_bytes + size) > self.quota:
                return None
            slot = stack.pop()
            slot.holders = 1
            slot.chunk.live += 1
            address = slot.chunk.mapping.address + slot.offset
            slot.lent = add(address, size)
            slot.writable = True
            self._lent[address] = slot
            self._lent_bytes += size
            return address
        finally:
            self._lock.release()

    def lend(self, slot: Slot, length: int) -> memoryview:
        """A writable view for Python, which takes over the caller's hold on the slot."""
        with self._lock:
            self.leased += 1
            slot.writable = True
        mapping, offset = slot.chunk.mapping, slot.offset
        # From the view, Python can reach this slot and no other.
        return self._leases.lend(mapping, offset, length, slot, mapping.exporter_of(offset, slot.size))

    def find(self, address: int, length: int) -> tuple[Slot, int] | None:
        """The slot in which this memory lies, held once more, and its offset in the chunk."""
        if not address:
            return None
        with self._lock:
            at = bisect_right(self._addresses, address) - 1
            if at < 0:
                return None
            chunk = self._chunks[at]
            offset = address - chunk.mapping.address
            index = bisect_right(chunk.offsets, offset) - 1
            if index < 0 or offset >= chunk.mapping.size:
                return None
            slot = chunk.slots[index]
            if not slot.holders or offset + length > slot.offset + slot.size:
                return None
            slot.holders += 1
            if slot.writable:
                # The array may be gone already, and the bytes come from the BEAM again.
                self._collect()
            return slot, offset

    @staticmethod
    def is_left() -> bool:
        """Whether this is a forked child, which has these books but not the memory."""
        return is_child()

    def live_slots(self) -> int:
        """How many slots are held, for tests."""
        with self._lock:
            self._collect()
            return sum(chunk.live for chunk in self._chunks)
