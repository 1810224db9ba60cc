"""The state of a process that a tool forks: private copies of shared memory, and a Snakepit that is dead.

The native library `snakepit_fork` makes the copies and closes the sockets, whoever forks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from _weakrefset import WeakSet
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import FrameType

try:
    from .. import _native

    is_child = _native.is_child
except ImportError:
    # Modules of tools can be imported without the native part, outside of workers. A worker looks for it first.

    def is_child() -> bool:
        """Whether this process was forked from a worker."""
        return False


_locks: WeakSet[Any] = WeakSet()
_locks_are_free = False
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


def install() -> None:
    """Makes children's memory and descriptors their own. Before any module of the user's is imported."""
    try:
        _native.install_fork_handlers()
    except OSError as error:
        sys.stderr.write(
            f"snakepit: processes that tools fork cannot use arguments and arrays in shared memory: {error}\n"
        )


def become_child() -> None:
    """In a child that Python forked: signals do what they do in any Python, unless the user's code handles them."""
    global _python_knows, _locks_are_free
    _python_knows = True
    _native.become_child()
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
