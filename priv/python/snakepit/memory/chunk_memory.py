"""Chunks of shared memory: sealed memfds, mapped writable by their owner and read-only by everybody else.

memfds have no name, so nothing is left behind after a crash. `posix_fallocate` fails cleanly where touching a missing
page would be SIGBUS. ctypes calls mmap because it lets other threads run while pages are prepared. No child inherits
a chunk: see `fork`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
from functools import cache
from typing import Any

from ..support import fork
from .memory_room import lacking

_ADD_SEALS, _GET_SEALS = 1033, 1034
# SHRINK, GROW and FUTURE_WRITE.
SEALS = 0x2 | 0x4 | 0x10
_POPULATE = 0x8000
_DONTFORK = 10
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class BadChunk(Exception):
    """A chunk that must not be mapped."""


class Mapping:
    """Mapped memory; unmapped when nothing refers to it any more."""

    __slots__ = ("__weakref__", "_type", "_unmap", "address", "size")

    def __init__(self, fd: int, size: int, writable: bool) -> None:
        library = fork.library
        if library is not None:
            address: int = library.snakepit_fork_map(fd, size, writable)
            if address < 0:
                raise _cannot_map(size, -address)
            self._unmap = library.snakepit_fork_unmap
        else:
            address = _map(fd, size, writable)
            self._unmap = _libc.munmap
        self.address = address
        self.size = size
        self._type = _array_type(size)

    def exporter(self) -> Any:
        """A new object that shows all of it, writable, to whatever takes a buffer."""
        return self._type.from_address(self.address)

    def exporter_of(self, offset: int, size: int) -> Any:
        """As `exporter`, of a part. Makes a class for each size: only for those of which there are few."""
        return _array_type(size).from_address(self.address + offset)

    def __del__(self, table: memoryview = fork.table, forked: int = fork.FORKED) -> None:
        # In a forked child other things lie there.
        if hasattr(self, "address") and not table[forked]:
            self._unmap(self.address, self.size)


def _map(fd: int, size: int, writable: bool) -> int:
    """Maps a chunk without the library. A child has nothing there, not even what it looks at."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    address: int | None = _libc.mmap(None, size, protection, mmap.MAP_SHARED | _POPULATE, fd, 0)
    if address is None or address == _FAILED:
        raise _cannot_map(size, ctypes.get_errno())
    if _libc.madvise(address, size, _DONTFORK):
        number = ctypes.get_errno()
        _libc.munmap(address, size)
        raise _cannot_map(size, number)
    return address


def _cannot_map(size: int, number: int) -> OSError:
    return OSError(number, f"cannot map {size} bytes: {os.strerror(number)}")


def create(size: int) -> tuple[int, Mapping]:
    """A new sealed chunk: its fd, and where it is mapped writable. Raises `OSError`."""
    why = lacking(size)
    if why is not None:
        raise OSError(errno.ENOMEM, why)
    fd = os.memfd_create("snakepit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno == errno.EFBIG:
                most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
                what = f"files of this process may have at most {most} bytes (ulimit -f, RLIMIT_FSIZE)"
                raise OSError(errno.EFBIG, what) from None
            raise
        mapping = Mapping(fd, size, writable=True)
        fcntl.fcntl(fd, _ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd, mapping


def open_foreign(fd: int, size: int) -> Mapping:
    """Maps another process's chunk read-only, once its seals, size and owner are as they must be."""
    if fcntl.fcntl(fd, _GET_SEALS) & SEALS != SEALS:
        raise BadChunk("a chunk lacks seals")
    status = os.fstat(fd)
    if size <= 0 or status.st_size != size:
        raise BadChunk(f"a chunk of {size} bytes has {status.st_size}")
    if status.st_uid != os.geteuid():
        raise BadChunk(f"a chunk belongs to user {status.st_uid}")
    return Mapping(fd, size, writable=False)


@cache
def _array_type(size: int) -> Any:
    return ctypes.c_ubyte * size


def whole(mapping: Mapping) -> memoryview:
    """All of a mapping, writable. The caller keeps the mapping alive."""
    return memoryview(mapping.exporter()).cast("B")
