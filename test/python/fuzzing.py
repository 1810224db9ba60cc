"""What the tests with random inputs share: the loop, damage to bytes, and a reader that knows none of the package.

A second for each target by default; `SNAKEPIT_FUZZ_SECONDS=600` for a long run (`bin/fuzz`). What fails names its seed
and its number: `SNAKEPIT_FUZZ_SEED=SEED SNAKEPIT_FUZZ_INPUT=NUMBER` runs that input alone.
"""

import datetime
import decimal
import fcntl
import math
import mmap
import os
import random
import resource
import struct
import sys
import time
import unittest

import numpy as np
from msgpack import unpackb

from beam import REQUEST, SEALS, Beam
from snakepit._native import Arena, Borrowed
from snakepit.runtime.calls import Service
from snakepit.tools.registry import collect

SECONDS = os.environ.get("SNAKEPIT_FUZZ_SECONDS")
SEED = os.environ.get("SNAKEPIT_FUZZ_SEED", "1")
INPUT = os.environ.get("SNAKEPIT_FUZZ_INPUT")
# By so much may the process grow, whatever its inputs claim.
GROWTH = 256 << 20
MIB = 1 << 20

# Numbers that decoders stumble over.
EDGES = [0, 1, 31, 32, 63, 64, 127, 255, 65_535, 2**31 - 1, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1]


class Fuzzed(unittest.TestCase):
    def fuzz(self, target, check):
        """Calls `check` with one source of randomness after the other. It keeps its input in `self.input`."""
        began, until = _resident(), time.monotonic() + float(SECONDS or 1)
        number = int(INPUT or 0)
        while True:
            self.input = None
            try:
                check(random.Random(f"{target} {SEED} {number}"))
            except BaseException as error:
                error.add_note(
                    f"{target}: SNAKEPIT_FUZZ_SEED={SEED} SNAKEPIT_FUZZ_INPUT={number}: {_shown(self.input)[:20_000]}"
                )
                raise
            number += 1
            if INPUT or time.monotonic() > until:
                break
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - began
        self.assertLess(grown, GROWTH, f"{target}: {number} inputs")
        if SECONDS:
            sys.stderr.write(f"{target}: {number} inputs\n")


def _resident():
    """Bytes of this process in memory. Its peak so far may be of other tests and hide growth, so it is reset."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def _shown(value):
    """As `repr`, though a part of it may raise."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return f"{kind.__name__}({', '.join(map(_shown, value))})"
    if kind is dict:
        return f"{{{', '.join(f'{_shown(key)}: {_shown(item)}' for key, item in value.items())}}}"
    try:
        return repr(value)
    except Exception as error:
        return f"<a {kind.__name__} whose repr raises {type(error).__name__}>"


def damaged(rng, data, corpus):
    """The bytes after up to five changes: to a byte, a bit or a number, cut out, repeated, or spliced with others."""
    data = bytearray(data)
    for _ in range(rng.randrange(6)):
        if not data:
            break
        # Often where the header and the table are, which tell most.
        at = rng.randrange(min(len(data), rng.choice([32, 100, 1 << 30])))
        match rng.randrange(6):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                width, order = rng.choice([1, 2, 4, 8]), rng.choice(["big", "little"])
                number = (rng.choice(EDGES) % (1 << 8 * width)).to_bytes(width, order)
                data[at : at + width] = number[: len(data) - at]
            case 3:
                del data[at : at + rng.choice([1, 4, 32, len(data)])]
            case 4:
                data[at:at] = data[at : at + rng.randrange(1, 200)]
            case 5:
                other = rng.choice(corpus)
                data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


class End:
    """The BEAM's end of lanes that live in this process, as `beam.Reply` needs it."""

    frame = Beam.frame

    def __init__(self):
        self.calls, self.chunks, self.tokens_back = 0, {}, []

    def announced(self, chunk, size, fd):
        self.chunks[chunk] = memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))

    def retracted(self, chunk):
        del self.chunks[chunk]

    def await_chunks(self, ids):
        assert ids <= self.chunks.keys(), "a place in a chunk that was never announced"


class Worker:
    """What the lanes of a worker share, and a chunk of the BEAM's, 1, of one MiB."""

    class Upkeep:
        """No thread takes tokens while they are counted."""

        def want(self, length): ...
        def stir(self): ...
        def stir_now(self): ...

    def __init__(self, module, inline_limit=256):
        self.end = End()
        self.arena = Arena(7, MIB, 16 * MIB, self.end.announced, self.end.retracted)
        self.borrowed = Borrowed(self.arena)
        fd = os.memfd_create("out", os.MFD_ALLOW_SEALING)
        os.posix_fallocate(fd, 0, MIB)
        os.pwrite(fd, bytes(range(256)) * 4096, 0)
        fcntl.fcntl(fd, 1033, SEALS)
        self.borrowed.add(1, fd, MIB)
        os.close(fd)
        self.service = Service(collect([module]), self.arena, self.borrowed, self.Upkeep(), inline_limit, 0)


def places(frame):
    """The table of a request that goes by shared memory, as far as it is there."""
    if len(frame) < REQUEST.size:
        return []
    _, way, _, _, _, _, _, count, _, _ = REQUEST.unpack_from(frame)
    table = frame[REQUEST.size :][: 32 * count] if way == 1 else b""
    return list(struct.iter_unpack("<QQQQ", table[: len(table) // 32 * 32]))


def value_of(envelope, buffers=()):
    """A value, read as `native/PROTOCOL.md` says; a set as a `frozenset`, which may be a member of another."""

    def inner(payload):
        return unpackb(payload, ext_hook=extension, strict_map_key=False)

    def extension(code, payload):
        match code:
            case 1:
                sign, magnitude = payload[0], payload[1:]
                assert sign in (0, 1) and magnitude[-1] != 0
                number = int.from_bytes(magnitude, "little") * (-1) ** sign
                assert not -(2**63) <= number < 2**64
                return number
            case 2:
                return tuple(_list(inner(payload)))
            case 3:
                members = _list(inner(payload))
                assert len(frozenset(members)) == len(members)
                return frozenset(members)
            case 4:
                return bytes(buffers[int.from_bytes(payload, "little")])
            case 5:
                return bytes(buffers[int.from_bytes(payload, "little")]).decode()
            case 6:
                name, shape, data = inner(payload)
                dtype = np.dtype({"bool": "?", "bf16": "V2"}.get(name) or f"<{_KINDS[name[0]]}{int(name[1:]) // 8}")
                assert len(data) == math.prod(shape) * dtype.itemsize
                return np.frombuffer(data, dtype).reshape(shape) if data else np.empty(shape, dtype)
            case 7:
                return datetime.date(*inner(payload))
            case 8:
                return datetime.time(*inner(payload))
            case 9:
                return datetime.datetime(*inner(payload))
            case 10:
                *parts, _zone, _abbreviation, offset, summer = inner(payload)
                zone = datetime.timezone(datetime.timedelta(seconds=offset + summer))
                return datetime.datetime(*parts, tzinfo=zone)
            case 11:
                return decimal.Decimal(inner(payload))
        raise AssertionError(f"an unknown extension: {code}")

    return inner(envelope)


_KINDS = {"u": "u", "s": "i", "f": "f", "c": "c"}


def _list(value):
    assert type(value) is list
    return value


def canonical(value):
    """The same for values that are one and the same to a caller, whatever Python's types for them."""
    if isinstance(value, np.generic):
        return canonical(value.item())
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        return "int", int.__int__(value)
    if isinstance(value, float):
        number = float.__float__(value)
        return "float", "nan" if number != number else struct.pack("<d", number)
    if isinstance(value, str):
        return "str", str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return "bytes", bytes(value)
    if isinstance(value, memoryview):
        return "bytes", value.tobytes()
    if isinstance(value, dict):
        return "dict", [(canonical(key), canonical(item)) for key, item in dict.items(value)]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [canonical(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return "set", sorted(map(repr, map(canonical, value)))
    if isinstance(value, np.ndarray):
        dtype = value.dtype.newbyteorder("<")
        name = "V2" if dtype.name == "bfloat16" else dtype.str.replace("|", "<")
        return "array", name.replace("|", "<"), value.shape, value.astype(dtype).tobytes()
    if isinstance(value, datetime.datetime):
        return "datetime", value.replace(tzinfo=None, fold=0).isoformat(), value.utcoffset()
    if isinstance(value, (datetime.date, datetime.time)):
        return type(value).__name__, value.isoformat()
    if isinstance(value, decimal.Decimal):
        return "decimal", str(value)
    return canonical(np.asarray(value))
