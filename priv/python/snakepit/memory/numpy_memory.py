"""numpy's large arrays in the worker's shared memory: an ordinary result is then sent without a copy.

numpy asks its memory handler (NEP 49) for the data of every array. Ours is the small native library `snakepit_numpy`,
which asks the arena for large arrays only. The rules that keep it harmless:

- It is installed in a lane once a large array had to be copied out: a worker that returns none never has it.
- It lends only slots that lie idle and warm, never more than half of the arena; else numpy's own memory is used.
- A lent array is sent in place only if nobody else holds it (`holders.rs`): a tool may change what it keeps.
"""

from __future__ import annotations

import ctypes
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..codec.arrays import LARGE

if TYPE_CHECKING:
    from .._native import Arena

# Their places in numpy's table of C functions (numpy/__multiarray_api.h), since numpy 1.22.
_SET_HANDLER, _GET_HANDLER = 304, 305
_CAPSULE = b"mem_handler"

# numpy keeps its handler for each context, and a new thread has a new one.
_installed: ContextVar[bool] = ContextVar("snakepit_numpy_memory", default=False)


class NumpyMemory:
    """Lends an arena's slots to numpy."""

    def __init__(self, arena: Arena, library: str) -> None:
        self._arena = arena
        self._path = library
        self._library: Any = None
        self._capsule: Any = None
        self._set: Any = None

    def install(self) -> None:
        """Arrays that this thread makes from now on may lie in the arena. Does nothing where that cannot be."""
        if not self._path or _installed.get():
            return
        _installed.set(True)
        try:
            table = _numpy_functions()
            before = _pointer(ctypes.PYFUNCTYPE(ctypes.py_object)(table[_GET_HANDLER])(), _CAPSULE)
            if not before or ctypes.string_at(before) != b"default_allocator":
                # Somebody else's: it has its reasons.
                return
            if self._capsule is None:
                self._load(table, before)
            self._set(self._capsule)
        except (OSError, AttributeError, ValueError) as error:
            self._path = ""
            sys.stderr.write(f"snakepit: arrays are copied, numpy's memory cannot be lent: {error}\n")

    def _load(self, table: Any, before: int) -> None:
        library = ctypes.CDLL(self._path)
        library.snakepit_numpy_handler.restype = ctypes.c_void_p
        library.snakepit_numpy_handler.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
        handler = library.snakepit_numpy_handler(before, LARGE, self._arena.numpy_takes())
        if not handler:
            raise ValueError("this numpy's handlers are of another version")
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self._set = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER])
        self._library = library
        self._arena.numpy_frees(ctypes.cast(library.snakepit_numpy_freed, ctypes.c_void_p).value or 0)
        # Last: with it, this is complete.
        self._capsule = make(handler, _CAPSULE, None)


def _numpy_functions() -> Any:
    """numpy's table of C functions."""
    umath = sys.modules.get("numpy._core._multiarray_umath") or sys.modules["numpy.core._multiarray_umath"]
    return ctypes.cast(_pointer(umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))


def _pointer(capsule: Any, name: bytes | None) -> int:
    """The pointer that a capsule holds."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    pointer: int = get(capsule, name)
    return pointer
