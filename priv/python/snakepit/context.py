"""What a tool can learn about the call it serves."""

from __future__ import annotations

import collections
import contextvars
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_SESSIONS = 1024

# The session of the call that runs in this thread or task; set by the worker.
session_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("snakepit_session", default=None)

_sessions: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()
_lock = threading.Lock()
_gone = threading.Event()


def session() -> dict[str, Any]:
    """The dict of this call's session.

    It lives in this worker only, as long as the session is among the 1024 used last.
    Raises `LookupError` when the call has no session: what was put in a dict of its own would be lost.
    """
    name = session_id.get()
    if name is None:
        raise LookupError("this call has no session: pass session_id, or use execute_in_session")
    with _lock:
        state = _sessions.get(name)
        if state is None:
            state = _sessions[name] = {}
            if len(_sessions) > MAX_SESSIONS:
                _sessions.popitem(last=False)
        else:
            _sessions.move_to_end(name)
        return state


def cancelled() -> bool:
    """True when nobody waits for this call's result any more. Long loops may ask now and then, and return."""
    return _gone.is_set()


def caller_gone() -> None:
    """Makes `cancelled` true: the other side of this worker went away."""
    _gone.set()
