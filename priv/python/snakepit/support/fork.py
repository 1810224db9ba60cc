"""The state of a process that a tool forks: private copies of shared memory, and a Snakepit that is dead.

The native library `snakepit_fork` makes the copies and closes the sockets, whoever forks. Here is the table that tells
it what is alive, in memory that it reads without the interpreter's lock: see its source for the layout. Where it cannot
be loaded, a child has nothing where its parent's shared memory was.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import threading
from _weakrefset import WeakSet
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import FrameType

# Cells of the table's header.
FORKED, _USED, _OVERFLOW = 0, 1, 2
# A row of the header, for what finds no other.
_NOWHERE, _FIRST = 6, 8
_CELLS = _FIRST + 2 * (1 << 16)
# So many cells more are used at a time. The library looks at all that ever were.
_BLOCK = 1 << 10
# In place of a length: the row is a file descriptor.
DESCRIPTOR = (1 << 64) - 1

_memory = mmap.mmap(-1, 8 * _CELLS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
table = memoryview(_memory).cast("Q")
table[_USED] = _FIRST
_free: list[int] = []
_locks: WeakSet[Any] = WeakSet()
_locks_are_free = False
library: Any = None
"""The native library, once it is there."""
# Python knows that this is a child.
_python_knows = False


def lock() -> Any:
    """A lock that a forked child finds free. Otherwise a thread that the child does not have could hold it for ever."""
    made = threading.Lock()
    _locks.add(made)
    return made


def free_locks() -> None:
    """In a child, once: nothing else runs here yet that could hold a lock of ours."""
    global _locks_are_free
    if not _locks_are_free:
        _locks_are_free = True
        for held in list(_locks):
            held._at_fork_reinit()


_growing = lock()


def add(first: int, second: int) -> int:
    """Lists the address and length of memory that Python looks at, or a descriptor and `DESCRIPTOR`. Its row."""
    try:
        row = _free.pop()
    except IndexError:
        row = _grown()
    table[row] = first
    # Last: with it, the row counts.
    table[row + 1] = second
    return row


def remove(row: int) -> None:
    """That is over: the memory may be written again, the descriptor may be closed."""
    table[row + 1] = 0
    if row != _NOWHERE:
        _free.append(row)


def _grown() -> int:
    with _growing:
        try:
            # Another thread was faster.
            return _free.pop()
        except IndexError:
            pass
        start = table[_USED]
        end = start + _BLOCK
        if end > _CELLS:
            # From now on all chunks are copied as a whole.
            table[_OVERFLOW] = 1
            return _NOWHERE
        table[_USED] = end
        # The first ones first, so that few pages are touched.
        _free.extend(range(end - 2, start, -2))
        return start


def install(path: str | None) -> None:
    """Loads the library from there. Before any module of the user's is imported: its handlers must be the first."""
    global library
    if not path:
        return
    import ctypes

    try:
        loaded = ctypes.CDLL(path)
        loaded.snakepit_fork_install.argtypes = [ctypes.c_void_p]
        loaded.snakepit_fork_map.restype = ctypes.c_ssize_t
        loaded.snakepit_fork_map.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_bool]
        loaded.snakepit_fork_unmap.restype = None
        loaded.snakepit_fork_unmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        loaded.snakepit_fork_path.restype = ctypes.c_bool
        loaded.snakepit_fork_path.argtypes = [ctypes.c_char_p]
        # An export that is never given up: the memory stays where it is.
        number = loaded.snakepit_fork_install(ctypes.addressof(ctypes.c_char.from_buffer(_memory)))
        if number:
            raise OSError(number, os.strerror(number))
    except (OSError, AttributeError) as error:
        sys.stderr.write(
            f"snakepit: processes that tools fork cannot use arguments and arrays in shared memory: {error}\n"
        )
    else:
        library = loaded


def close_in_children(path: str) -> None:
    """Sockets that listen on this path, or were accepted there, are dead in children."""
    if library is not None:
        library.snakepit_fork_path(os.fsencode(path))


def is_child() -> bool:
    """Whether this process was forked from a worker."""
    return bool(table[FORKED])


def become_child() -> None:
    """In a child that Python forked: signals do what they do in any Python, unless the user's code handles them."""
    global _python_knows, _locks_are_free
    _python_knows = True
    table[FORKED] = 1
    # The parent may have been a child itself.
    _locks_are_free = False
    free_locks()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if type(handler) in (FunctionType, MethodType) and (handler.__module__ or "").startswith("snakepit."):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def leave(error: BaseException | None = None) -> NoReturn:
    """Ends a forked child whose tool returned, or raised this: it is not the one that is waited for."""
    status = 0
    try:
        if not _python_knows:
            _inform_python()
        if isinstance(error, SystemExit):
            status = _exit_status(error.code)
        else:
            what = "returned"
            if error is not None:
                status = 1
                what = f"raised {type(error).__name__}: {error}".rstrip(": ")
            sys.stderr.write(
                f"snakepit: a forked child (process {os.getpid()}) of {_tool(sys._getframe(1))} {what}; "
                "nobody waits for that: end a child with os._exit\n"
            )
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # No exit handlers: they are the worker's.
        os._exit(status)


def _inform_python() -> None:
    """Where C forked: without this, Python waits for threads that are not here whenever it lets others run."""
    import ctypes

    ctypes.pythonapi.PyOS_AfterFork_Child()


def _exit_status(code: object) -> int:
    """As Python ends with."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _tool(frame: FrameType | None) -> str:
    """The tool that this process is in, if it is known."""
    while frame is not None:
        if (frame.f_globals.get("__package__") or "").partition(".")[0] == "snakepit":
            tool = frame.f_locals.get("tool")
            name = getattr(tool, "name", None) or getattr(frame.f_locals.get("source"), "__name__", None)
            if name is not None:
                return f"tool {name!r}"
        frame = frame.f_back
    return "a tool, or of a module that a worker imports,"
