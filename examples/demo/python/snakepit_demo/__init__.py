"""The tools of `mix snakepit.demo`. Each gets a file's bytes, a view of them that it may read and not change."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import zlib
from typing import Any

from snakepit import tool

MIB = 1 << 20
# What zlib looks at of a file that is longer: so many pieces of one MiB, evenly spread.
SAMPLED_PIECES = 8


@tool
def numpy_directories() -> list[str]:
    """Where numpy and the libraries it brings lie, without importing it; none if it is not installed."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        return []
    package = os.path.dirname(spec.origin)
    return [path for path in (package, package + ".libs") if os.path.isdir(path)]


@tool
def histogram(data: memoryview) -> dict[str, Any]:
    """How often each byte value occurs, and the entropy of that in bits per byte."""
    import numpy as np

    octets = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    counts: Any = np.zeros(256, np.int64)
    # bincount makes eight bytes of each: piece by piece, so that a large file does not need eight times its size.
    for start in range(0, len(octets), MIB):
        counts += np.bincount(octets[start : start + MIB], minlength=256)
    shares = counts[counts > 0] / max(len(octets), 1)
    return {"counts": counts, "entropy": float(abs((shares * np.log2(shares)).sum()))}


@tool
def zlib_ratio(data: memoryview) -> dict[str, Any]:
    """Compressed size to size at level 1, and how many bytes that was measured on."""
    packer = zlib.compressobj(1)
    taken = packed = 0
    for piece in _pieces(data):
        taken += len(piece)
        packed += len(packer.compress(piece))
    packed += len(packer.flush())
    return {"ratio": packed / taken if taken else None, "sampled": taken}


def _pieces(view: memoryview) -> list[memoryview]:
    if len(view) <= SAMPLED_PIECES * MIB:
        return [view]
    step = (len(view) - MIB) / (SAMPLED_PIECES - 1)
    starts = [int(number * step) for number in range(SAMPLED_PIECES)]
    return [view[start : start + MIB] for start in starts]


@tool
def sha256(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


@tool
def size(data: memoryview) -> int:
    """Does nothing with the bytes: what is left of such a call is their way."""
    return len(data)
