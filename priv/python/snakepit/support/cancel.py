"""Ends a tool whose caller no longer waits.

A tool learns it by `cancelled()`, and by `Cancelled`, which is raised in the middle of it: in the main thread by a
signal, which also ends waiting in the kernel (a sleep, a read); in another thread by the interpreter, before its next
bytecode; in a coroutine as asyncio's own `CancelledError`. It must hit the tool and nothing else: not this package
around it, and not the next call's tool.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any

from .._native import Progress
from . import fork
from .cancelled import Cancelled

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable
    from types import FrameType

# One that neither Python nor libraries use.
SIGNAL = signal.SIGRTMAX - 3
# A tool may be cleaning up: it is not disturbed again before this many seconds.
_AGAIN = 0.5
# Between two times that the BEAM says so no more than this counts: what lasts longer is time in which this process or
# all of the machine stood still, and the tool as well. It says so every 0.1 s.
_STEP = 0.15


class Cancellation(Progress):
    """Which of a lane's calls runs, and whether it is being cancelled.

    The lane sets `running` to a call's id right before the user's code, to 0 right after it, and then calls `over` if
    `cancelling` is set, or this process is a forked child. All three may be interrupted by `Cancelled`.
    """

    __slots__ = ("_asked", "_asynchronous", "_left", "_lock", "stream", "task", "thread")

    def __init__(self) -> None:
        # The call that yields items; between two of them none of its code runs.
        self.stream = 0
        # Where the tool runs.
        self.thread = threading.get_ident()
        self.task: tuple[AbstractEventLoop, Task[Any]] | None = None
        self._lock = fork.lock()
        # When it was raised last, and how long the tool is still left alone.
        self._asked = self._left = 0.0
        self._asynchronous = False

    def cancel(self, call_id: int) -> None:
        """Cancels this call, or an earlier one, if its tool runs now. From any other thread; may be repeated."""
        with self._lock:
            now = time.monotonic()
            running = self.running
            if not running:
                if self.stream and self.stream <= call_id and not self.cancelling:
                    # Looked at before the next item; then it cleans up.
                    self.cancelling, self._asked, self._left = self.stream, now, _AGAIN
                return
            if running > call_id:
                return
            since, self._asked = now - self._asked, now
            if self.cancelling == running:
                self._left -= min(since, _STEP)
                if self._left > 0:
                    return
            self.cancelling = running
            self._left = 0.0
            # It may have ended, and looked at `cancelling`, before the line above.
            if self.running != running:
                self.cancelling = 0
                return
            # A module that was imported by half cannot be imported again, and the worker would be of no more use.
            if not _imports(sys._current_frames().get(self.thread)):
                self._left = _AGAIN
                self._raise(running)

    def _raise(self, running: int) -> None:
        task = self.task
        if task is not None:
            try:
                task[0].call_soon_threadsafe(task[1].cancel)
            except RuntimeError:
                # Its loop was closed a moment ago.
                pass
        elif self.thread == threading.main_thread().ident:
            signal.pthread_kill(self.thread, SIGNAL)
        else:
            self._asynchronous = True
            raise_in, thread, error = _asynchronously(), self.thread, id(Cancelled)
            # The interpreter switches threads before neither of these: if the tool runs here, it runs there.
            if self.running == running:
                raise_in(thread, error)

    def over(self) -> None:
        """The tool ended: what was raised in its thread and did not arrive must not arrive any more.

        In a forked child this does not return: nobody waits for what the tool did there.
        """
        if fork.is_child():
            fork.leave(sys.exception())
        while True:
            try:
                with self._lock:
                    self.cancelling = 0
                    if self._asynchronous:
                        _asynchronously()(self.thread, None)
                        self._asynchronous = False
                return
            except Cancelled:
                continue

    @property
    def cancelled(self) -> bool:
        """Whether the call that runs is being cancelled."""
        return self.cancelling != 0 and self.cancelling == self.running

    def listen(self) -> None:
        """Makes the signal end the main thread's tool. In the main thread."""
        signal.signal(SIGNAL, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # This runs in the main thread, so that what it sees cannot change before it raises.
        if self.cancelled and self.task is None and not _imports(frame):
            raise Cancelled


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


@cache
def _asynchronously() -> Callable[[int, int | None], int]:
    """`PyThreadState_SetAsyncExc` of a thread and the address of an exception, or of none to take one back."""
    import ctypes

    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    set_exception.restype, set_exception.argtypes = ctypes.c_int, [ctypes.c_ulong, ctypes.c_void_p]
    return set_exception
