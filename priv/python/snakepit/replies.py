"""Chooses the way of a reply's buffers and brings them there."""

from __future__ import annotations

from .arrays import LARGE, freeze
from .errors import CallError
from .limits import GRPC, IN_PLACE, INLINE, MAX_FRAME, STARVED, ZERO_COPY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .arena import Arena, Slot
    from .buffers import Array, Bytes
    from .frames import Place
    from .keeper import Keeper

    Buffers = list[Bytes | Array]

_HEADROOM = 1 << 20
# Of the BEAM's table: bins of one kind of value, and the kinds.
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

    def __init__(self, arena: Arena | None, keeper: Keeper, lend_to_numpy: Callable[[], None] | None) -> None:
        self._arena = arena
        self._keeper = keeper
        self._lend_to_numpy = lend_to_numpy
        # Until the BEAM sends one, shared memory comes first.
        self.table = b""

    def place(self, buffers: Buffers, mask: int, forced: bool) -> Placement:
        """Raises `CallError` (transfer) where no allowed way can take them."""
        total = buffers[0].nbytes if len(buffers) == 1 else sum(buffer.nbytes for buffer in buffers)
        fits_frame = total <= MAX_FRAME - _HEADROOM
        may_frame = bool(mask & 1 << INLINE) and fits_frame
        may_grpc = bool(mask & 1 << GRPC)
        flags = 0
        if mask & 1 << ZERO_COPY:
            # Nothing else may take it: then memory is made, warm or not.
            must = forced or not (may_frame or may_grpc)
            dearer = not must and self._is_dearer(buffers, total)
            if self._arena is not None:
                slots = self._slots(self._arena, buffers, must, dearer)
                if slots is not None:
                    return self._fill(self._arena, buffers, slots)
            elif must:
                raise CallError("transfer", "unavailable", "this worker has no shared memory")
            flags = 0 if dearer else STARVED
        if may_frame:
            return self._beside(buffers, INLINE, flags)
        if may_grpc:
            return self._beside(buffers, GRPC, flags)
        if not fits_frame:
            raise CallError("transfer", "too_large", f"a result of {total} bytes does not fit in a frame")
        raise CallError("transfer", "no_way", f"the reply may take none of this worker's ways (mask {mask})")

    def _is_dearer(self, buffers: Buffers, total: int) -> bool:
        """Whether copying these into shared memory costs more than the frame, as the BEAM has measured it.

        Or more than gRPC, where the frame is not allowed.
        """
        table = self.table
        if not table:
            return False
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
        try:
            for buffer in buffers:
                there = arena.find(buffer.address(), buffer.nbytes)
                if there is not None and there[0].lent and not buffer.is_ours():
                    # Somebody may still write to it.
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
                        self._keeper.want(buffer.nbytes)
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
        self._keeper.stir()
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
                else:
                    buffer.freeze()
                    array = slot.array and slot.array()
                    if array is not None:
                        freeze(array)
                places.append(arena.grant(slot, offset, buffer.nbytes))
        except BaseException:
            # What was granted is held by its token, which nobody will hear of.
            arena.freed([place[3] for place in places])
            self._give_back(arena, slots[len(places) :])
            raise
        if arena.wants_spare():
            self._keeper.stir_now()
        return placement
