"""A worker's handling of signals.

Those that a terminal, a service manager or a shell sends to all processes at once are for the BEAM, which shuts down in
its own order and then asks its workers to stop. Until a worker runs this, its companion has it ignore them.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

# As `FOR_THE_VM` in native/snakepit_companion/src/watchdog.rs.
FOR_THE_BEAM = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# One that neither Python nor libraries use; the one above it is `cancel.SIGNAL`.
STOP = signal.SIGRTMAX - 4

# The forking thread's signal mask from before the fork.
_forking = threading.local()


def leave_to_the_beam() -> None:
    """Makes them do nothing in this process, and what they usually do in programs and processes that tools start."""
    for number in FOR_THE_BEAM:
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)
    # Blocked meanwhile: one that is sent to a child before it has its own handlers is not lost.
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_as_usual)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Not `SIG_IGN`: programs inherit that."""


def _as_usual() -> None:
    # Python drops exceptions of a fork hook. So a SIGINT that is pending ends the child by the default action, not by a
    # KeyboardInterrupt.
    on_interrupt = signal.SIG_DFL if signal.SIGINT in signal.sigpending() else signal.default_int_handler
    for number in FOR_THE_BEAM:
        if signal.getsignal(number) is _nothing:
            signal.signal(number, on_interrupt if number == signal.SIGINT else signal.SIG_DFL)
    _unblock()


def _block() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_BEAM)


def _unblock() -> None:
    # Where C forked, nothing was blocked before.
    mask = vars(_forking).pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def listen_for_stop() -> None:
    """Makes `interrupt` work. In the main thread."""
    signal.signal(STOP, _end)


def ignore_stop() -> None:
    """The end of that."""
    signal.signal(STOP, _nothing)


def interrupt() -> None:
    """Raises `SystemExit` in the main thread, out of whatever it does: a tool's own cleanup runs on the way."""
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, STOP)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
