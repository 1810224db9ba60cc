"""Chooses the way of a reply's buffers and brings them there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec.arrays import LARGE
from ..support.errors import CallError
from ..support.limits import ALIGN, GRPC, IN_PLACE, INLINE, MAX_FRAME, MAX_GRPC_MESSAGE, STARVED, ZERO_COPY
from ..wire.frames import HEADER, PLACE
from .holders import sole_holder_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..codec.buffers import Array, Bytes
    from ..wire.frames import Place
    from .arena import Arena, Slot
    from .maintenance import Maintenance

    Buffers = list[Bytes | Array]

# Left for the tokens that a reply gives back: how many is known only after its buffers were copied.
TOKENS = 1 << 20
# The most that a buffer takes beside its bytes: in a frame, its length and the gap before it; in a gRPC message, its
# length in the frame, and the field's tag and length.
_IN_FRAME = 8 + ALIGN - 1
_IN_MESSAGE = 8 + 11
# The size of the BEAM's table: the bins of one kind of value, and the kinds.
BINS = 160
BINARY, TENSOR, MIXED = 0, 2, 4
KINDS = 5


def bin_of(size: int) -> int:
    """The bin of a size: four to a doubling."""
    if size < 4:
        return size
    k = size.bit_length() - 1
    return min(((k - 1) << 2) + ((size >> (k - 2)) & 3), BINS - 1)


def bare_way(mask: int) -> int:
    """The way that a reply without buffers names."""
    if mask & 1 << INLINE:
        return INLINE
    return ZERO_COPY if mask & 1 << ZERO_COPY else GRPC


class Placement:
    """Where the buffers of one reply went."""

    __slots__ = ("flags", "places", "views", "way")

    def __init__(self, way: int, flags: int = 0) -> None:
        self.way = way
        self.flags = flags
        self.places: list[Place] = []
        self.views: list[memoryview] = []


class Placer:
    """Shared memory where it is warm, the frame itself where it is not, gRPC where nothing else is allowed."""

    def __init__(
        self,
        arena: Arena | None,
        maintenance: Maintenance,
        lend_to_numpy: Callable[[], None] | None,
        max_frame: int = MAX_FRAME,
        max_message: int = MAX_GRPC_MESSAGE,
    ) -> None:
        self._arena = arena
        self._maintenance = maintenance
        self._lend_to_numpy = lend_to_numpy
        self.max_frame = max_frame
        self.max_message = max_message
        # Until the BEAM sends one, shared memory comes first.
        self.table = b""

    def max_envelope(self) -> int:
        """The largest envelope that a reply without buffers can have."""
        return self.max_frame - HEADER - TOKENS

    def open_ways(self, buffers: Buffers, mask: int, envelope: int) -> int:
        """The ways of the mask whose limits this reply keeps."""
        count = len(buffers)
        total = buffers[0].nbytes if count == 1 else sum(buffer.nbytes for buffer in buffers)
        bare = HEADER + envelope + TOKENS
        if bare + total + _IN_FRAME * count > self.max_frame:
            mask &= ~(1 << INLINE)
        if bare + total + _IN_MESSAGE * count + 11 > self.max_message:
            mask &= ~(1 << GRPC)
        if bare + PLACE.size * count > self.max_frame:
            mask &= ~(1 << ZERO_COPY)
        return mask

    def place(self, buffers: Buffers, mask: int, forced: bool, envelope: int = 0) -> Placement:
        """Raises `CallError` (transfer) where no allowed way can take them, beside an envelope of this size."""
        able = self.open_ways(buffers, mask, envelope)
        may_frame = bool(able & 1 << INLINE)
        may_grpc = bool(able & 1 << GRPC)
        flags = 0
        if able & 1 << ZERO_COPY:
            # Nothing else may take it: then memory is made, warm or not.
            must = forced or not (may_frame or may_grpc)
            dearer = not must and self._is_dearer(buffers)
            if self._arena is not None:
                try:
                    slots = self._slots(self._arena, buffers, must, dearer)
                except CallError as error:
                    if able != mask:
                        error.message += (
                            f"; {self._too_large(buffers, envelope)} other ways: raise memory_quota of the pool"
                        )
                    raise
                if slots is not None:
                    return self._fill(self._arena, buffers, slots)
            elif must:
                others = "" if able == mask else f"; {self._too_large(buffers, envelope)} other ways"
                raise CallError("transfer", "unavailable", f"this worker has no shared memory{others}")
            flags = 0 if dearer else STARVED
        if may_frame:
            return self._beside(buffers, INLINE, flags)
        if may_grpc:
            return self._beside(buffers, GRPC, flags)
        if able == mask:
            raise CallError("transfer", "no_way", f"the reply may take none of this worker's ways (mask {mask})")
        details = {"bytes": sum(buffer.nbytes for buffer in buffers), "envelope": envelope, "buffers": len(buffers)}
        words = f"{self._too_large(buffers, envelope)} the ways that this call allows its reply"
        raise CallError("transfer", "too_large", words, details=details)

    def _too_large(self, buffers: Buffers, envelope: int) -> str:
        total = sum(buffer.nbytes for buffer in buffers)
        beside = f" in {len(buffers)} buffers and {envelope} beside them" if len(buffers) > 1 or envelope > 1024 else ""
        return (
            f"a result of {total} bytes{beside} is too large for a frame (at most {self.max_frame}) "
            f"or a gRPC message (at most {self.max_message}), and so for"
        )

    def _is_dearer(self, buffers: Buffers) -> bool:
        """Whether copying these into shared memory costs more than the frame, as the BEAM has measured it.

        Or more than gRPC, where the frame is not allowed.
        """
        table = self.table
        if not table:
            return False
        total = sum(buffer.nbytes for buffer in buffers)
        kinds = {buffer.is_array for buffer in buffers}
        kind = MIXED if len(kinds) > 1 else TENSOR if kinds.pop() else BINARY
        return not table[kind * BINS + bin_of(total // len(buffers))]

    @staticmethod
    def _beside(buffers: Buffers, way: int, flags: int) -> Placement:
        placement = Placement(way, flags)
        placement.views = [buffer.view() for buffer in buffers]
        return placement

    def _slots(self, arena: Arena, buffers: Buffers, must: bool, only_there: bool) -> list[tuple[Slot, int]] | None:
        """For each buffer a slot, held once, and the offset where it lies already (-1: to be copied).

        `only_there`: none if anything would have to be copied.
        """
        found: list[tuple[Slot, int]] = []
        ours: list[bool] | None = None
        try:
            for at, buffer in enumerate(buffers):
                there = arena.find(buffer.address(), buffer.nbytes)
                if there is not None and there[0].writable:
                    ours = ours or sole_holder_of(buffers)
                    if not ours[at]:
                        # Somebody else may still write to it.
                        arena.release(there[0])
                        there = None
                if there is None and only_there:
                    self._give_back(arena, found)
                    return None
                if there is None:
                    slot = arena.allocate(buffer.nbytes)
                    if slot is None and must:
                        slot = self._make(arena, buffer.nbytes)
                    if slot is None:
                        self._maintenance.want(buffer.nbytes)
                        self._give_back(arena, found)
                        return None
                    there = slot, -1
                found.append(there)
        except BaseException:
            self._give_back(arena, found)
            raise
        return found

    def _make(self, arena: Arena, length: int) -> Slot:
        try:
            slot = arena.force(length)
        except (OSError, MemoryError) as error:
            raise CallError("transfer", "no_memory", f"no shared memory for {length} bytes: {error}") from None
        self._maintenance.stir()
        return slot

    @staticmethod
    def _give_back(arena: Arena, found: list[tuple[Slot, int]]) -> None:
        for slot, _ in found:
            arena.release(slot)

    def _fill(self, arena: Arena, buffers: Buffers, slots: list[tuple[Slot, int]]) -> Placement:
        placement = Placement(ZERO_COPY, IN_PLACE)
        places = placement.places
        try:
            for buffer, (slot, offset) in zip(buffers, slots, strict=True):
                if offset < 0:
                    placement.flags = 0
                    offset = slot.offset
                    buffer.copy_to(slot.view(buffer.nbytes))
                    if self._lend_to_numpy is not None and buffer.nbytes >= LARGE and buffer.is_array:
                        self._lend_to_numpy()
                places.append(arena.grant(slot, offset, buffer.nbytes))
        except BaseException:
            # The slots granted so far are held by their tokens, which are not sent now.
            arena.freed([place[3] for place in places])
            self._give_back(arena, slots[len(places) :])
            raise
        if arena.wants_spare():
            self._maintenance.stir_now()
        return placement
