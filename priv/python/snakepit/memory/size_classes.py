"""Size classes of slots: eight per doubling from 64 bytes, every class a multiple of 64."""

from ..support.limits import ALIGN


def class_size(length: int) -> int:
    """The size of the slot that serves this many bytes."""
    size = max(length, ALIGN)
    step = max((1 << (size.bit_length() - 1)) >> 3, ALIGN)
    return -(-size // step) * step
