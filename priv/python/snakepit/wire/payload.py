"""The protobuf message `Payload { bytes frame = 1; repeated bytes buffers = 2; }`, read and written by hand.

Two fields of one kind do not need the protobuf package, whose pinned versions often conflict among a user's libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..support.errors import ProtocolError
from ..support.limits import MAX_BUFFERS

if TYPE_CHECKING:
    from collections.abc import Sequence

_FRAME, _BUFFER = 0x0A, 0x12


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def payload_size(frame: bytes, buffers: Sequence[memoryview]) -> int:
    """An upper bound of the size of the message."""
    return len(frame) + sum(view.nbytes for view in buffers) + 11 * (1 + len(buffers))


def write_payload(frame: bytes, buffers: Sequence[memoryview]) -> bytes:
    parts: list[bytes | memoryview] = [bytes((_FRAME,)), _varint(len(frame)), frame]
    for view in buffers:
        parts += (bytes((_BUFFER,)), _varint(view.nbytes), view)
    return b"".join(parts)


def read_payload(message: bytes) -> tuple[memoryview, list[memoryview]]:
    """Frame and buffers, as read-only parts of the message."""
    view = memoryview(message)
    end = len(view)
    frame = view[:0]
    buffers: list[memoryview] = []
    at = 0
    while at < end:
        tag, at = _read_varint(view, at)
        kind = tag & 7
        if kind == 2:
            length, at = _read_varint(view, at)
            if length > end - at:
                raise ProtocolError("a field is longer than its message")
            if tag == _FRAME:
                frame = view[at : at + length]
            elif tag == _BUFFER:
                if len(buffers) == MAX_BUFFERS:
                    raise ProtocolError("too many buffers")
                buffers.append(view[at : at + length])
            at += length
        elif kind == 0:
            _, at = _read_varint(view, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            if at > end:
                raise ProtocolError("a field is longer than its message")
        else:
            raise ProtocolError("a field of unknown kind")
    return frame, buffers


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise ProtocolError("a malformed varint")
        byte = view[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
