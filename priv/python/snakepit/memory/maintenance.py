"""The background thread: prepares memory, gives back what is idle, returns tokens that no reply took."""

from __future__ import annotations

import atexit
import gc
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

from ..support.errors import CallError
from ..support.fork import is_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._native import Arena, Borrowed

_TICK = 0.1
# With nothing to keep it ticks slowly for a while: waking it for each call would cost the call more than the call.
_SLOW_TICK = 1.0
_QUIET_ROUNDS = 10
# Ticks after which views that nobody gave back may be garbage in a cycle.
_SUSPICIOUS = 10
# How long the end of the process waits for the thread.
_LAST_TICK = 5.0


class Maintenance:
    """Sleeps without end when there was nothing to keep for a while."""

    def __init__(
        self, arena: Arena | None, borrowed: Borrowed, idle_ms: int, send_released: Callable[[list[int]], None]
    ) -> None:
        self._arena = arena
        self._borrowed = borrowed
        self._idle = idle_ms / 1000
        self._send_released = send_released
        self._wanted: deque[int] = deque()
        self._wake = threading.Event()
        self._asleep = False
        self._held = 0
        self._unchanged = 0
        self._warned: set[int | None] = set()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="snakepit-maintenance", daemon=True)
        self._thread.start()
        # The interpreter stops daemon threads wherever they are. This one may hold the arena's lock, for which a
        # destructor that runs later would wait for ever.
        atexit.register(self.stop)

    def stop(self) -> None:
        """Ends the thread, after what it is doing. Memory is no longer prepared or given back."""
        if is_child():
            # The thread is not here, and the event may have been in use when this process was forked.
            return
        self._stopped = True
        self._wake.set()
        self._thread.join(_LAST_TICK)

    def want(self, length: int) -> None:
        """Have a slot of this length ready soon."""
        if length not in self._wanted:
            self._wanted.append(length)
        self._wake.set()

    def stir(self) -> None:
        """There is something to look after from now on. Cheap where it looks already."""
        if self._asleep:
            self._wake.set()

    def stir_now(self) -> None:
        """There is something to prepare."""
        self._wake.set()

    def give_back_after(self, seconds: float) -> None:
        """Memory that is idle for so long is given up, from now on."""
        self._idle = max(seconds, 0.0)
        self._wake.set()

    def _pause(self) -> float | None:
        if self._borrowed.outstanding or (self._arena and self._arena.leased):
            return _TICK
        if self._arena and self._arena.total:
            return max(_TICK, min(self._idle / 2, 1.0))
        return None

    def _run(self) -> None:
        quiet = 0
        while not self._stopped:
            pause = self._pause()
            quiet = 0 if pause else quiet + 1
            if quiet > _QUIET_ROUNDS:
                # Asleep is set before looking once more, so that a stir in between is not lost.
                self._asleep = True
                if self._pause() is None:
                    self._wake.wait()
                self._asleep = False
                quiet = 0
            self._wake.wait(pause or _SLOW_TICK)
            self._wake.clear()
            if not self._stopped:
                self._work()

    def _work(self) -> None:
        try:
            if self._arena:
                if not self._idle or self._arena.is_refused():
                    # Memory is scarce: what is made ahead would be given up at once.
                    self._wanted.clear()
                while self._wanted:
                    # It stays in the list while it is made: asking again meanwhile changes nothing.
                    try:
                        self._arena.prepare(self._wanted[0])
                    finally:
                        self._wanted.popleft()
                if self._idle and not self._arena.is_refused() and self._arena.wants_spare():
                    self._arena.make_spare()
                self._arena.drop_idle(self._idle)
        except (CallError, MemoryError):
            # No room within the quota: results go another way, and say so. Nobody waits for this.
            pass
        except OSError as error:
            self._warn_once(error)
        self._collect_garbage()
        tokens = self._borrowed.take_released()
        if tokens:
            self._send_released(tokens)

    def _warn_once(self, error: OSError) -> None:
        """The system refuses memory. Results go another way; why is logged once for each cause."""
        if error.errno not in self._warned:
            self._warned.add(error.errno)
            sys.stderr.write(f"snakepit: no shared memory can be made, results go another way: {error}\n")

    def _collect_garbage(self) -> None:
        """Once for each time that the same number of views is held for long: a tool's cycle may hold them."""
        held = self._borrowed.outstanding + (self._arena.leased if self._arena else 0)
        self._unchanged = self._unchanged + 1 if held and held == self._held else 0
        self._held = held
        if self._unchanged == _SUSPICIOUS:
            gc.collect()
