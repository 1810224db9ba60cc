"""The facts that a tool can learn about the call it serves."""

from __future__ import annotations

import collections
import contextvars
import threading
from typing import TYPE_CHECKING, Any

from .fork import free_locks, is_child, lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from .cancel import Cancellation

MAX_SESSIONS = 1024

# The session of the call that runs in this thread or task, as it came; or a list of that and its correlation id.
caller: contextvars.ContextVar[str | list[str | None] | None] = contextvars.ContextVar("snakepit_caller", default=None)

# The state of cancellation of the lane that this thread or task serves; set by the worker.
cancellation: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar("snakepit_cancel", default=None)

_sessions: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()
_lock = lock()
_gone = threading.Event()


def undisturbed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls what a tool calls of this package: cancelled in the middle of it, it might leave its books in disorder."""
    lane = cancellation.get()
    if lane is None or not lane.running:
        return function(*arguments)
    running, lane.running = lane.running, 0
    try:
        return function(*arguments)
    finally:
        lane.running = running


def session() -> dict[str, Any]:
    """The dict of this call's session.

    It lives in this worker only, as long as the session is among the 1024 used last.
    Raises `LookupError` when the call has no session: what was put in a dict of its own would be lost.
    """
    name = caller.get()
    if isinstance(name, list):
        name = name[0]
    if name is None:
        raise LookupError("this call has no session: pass session_id, or use execute_in_session")
    state: dict[str, Any] = undisturbed(_state, name)
    return state


def _state(name: str) -> dict[str, Any]:
    if is_child():
        # Python may not know yet that this is a child.
        free_locks()
    with _lock:
        state = _sessions.get(name)
        if state is None:
            state = _sessions[name] = {}
            if len(_sessions) > MAX_SESSIONS:
                _sessions.popitem(last=False)
        else:
            _sessions.move_to_end(name)
        return state


def correlation_id() -> str | None:
    """The `correlation_id:` that the caller gave this call, to be named in what it logs."""
    given = caller.get()
    return given[1] if isinstance(given, list) else None


def cancelled() -> bool:
    """True when nobody waits for this call's result any more. Long loops may ask now and then, and return."""
    lane = cancellation.get()
    return _gone.is_set() or (lane is not None and lane.cancelled)


def caller_gone() -> None:
    """Makes `cancelled` true: the other side of this worker went away."""
    _gone.set()
