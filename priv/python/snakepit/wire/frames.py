"""Replies as lanes and gRPC carry them: the native part makes their heads, and reads requests."""

from __future__ import annotations

from struct import Struct, pack, unpack_from
from typing import TYPE_CHECKING

from ..support.limits import ALIGN, ZERO_COPY

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = Struct(">I")
REPLY = Struct("<BBBBIQQII")
HEADER = 32
# Where a lane's buffer has a frame start: after its prefix, and so that tensors in it are aligned for numpy.
FRAME_START = 16
PLACE = Struct("<QQQQ")

# Chunk id, offset, length, token.
Place = tuple[int, int, int, int]


def write_head(
    kind: int,
    way: int,
    flags: int,
    call_id: int,
    nanoseconds: int,
    envelope: bytes,
    lengths: Sequence[int] = (),
    places: Sequence[Place] = (),
    released: Sequence[int] = (),
) -> bytes:
    """Everything of a reply up to its envelope's end."""
    count = len(lengths) + len(places)
    head = REPLY.pack(kind, way, flags, 0, len(envelope), call_id, nanoseconds, count, len(released))
    if count:
        head += b"".join([PLACE.pack(*place) for place in places]) if places else quads(lengths)
    return head + quads(released) + envelope


def without_released(head: bytes) -> tuple[bytes, tuple[int, ...]]:
    """The head of a reply of ours without its released tokens, and these."""
    fields = REPLY.unpack_from(head)
    way, count, tokens = fields[1], fields[7], fields[8]
    if not tokens:
        return head, ()
    start = HEADER + count * (32 if way == ZERO_COPY else 8)
    bare = REPLY.pack(*fields[:8], 0) + head[HEADER:start] + head[start + 8 * tokens :]
    return bare, unpack_from(f"<{tokens}Q", head, start)


def granted_tokens(head: bytes) -> tuple[int, ...]:
    """The tokens of the places in the head of a reply of ours."""
    fields = REPLY.unpack_from(head)
    if fields[1] != ZERO_COPY:
        return ()
    return tuple(place[3] for place in PLACE.iter_unpack(head[HEADER : HEADER + 32 * fields[7]]))


def quads(numbers: Sequence[int]) -> bytes:
    """Lengths, or tokens, as a frame has them."""
    return pack(f"<{len(numbers)}Q", *numbers) if numbers else b""


def lay_out(head: bytes, buffers: Sequence[memoryview]) -> list[bytes | memoryview]:
    """The parts of an inline frame, gaps included."""
    parts: list[bytes | memoryview] = [head]
    at = len(head)
    for buffer in buffers:
        gap = -at % ALIGN
        if gap:
            parts.append(bytes(gap))
        parts.append(buffer)
        at += gap + buffer.nbytes
    return parts
