"""An exception of the user's code as data: its type, its message, its traceback without Snakepit's own frames."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..support.errors import CallError, cut, text_of, type_name

if TYPE_CHECKING:
    import traceback

_HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio") + os.sep


def python_error(error: BaseException) -> CallError:
    """The error reply for what a tool raised. The exception is left without frames: they hold the arguments."""
    described = describe(error)
    advice = _advice(error)
    _forget_frames(error)
    # As the last line of a traceback has it: the text of a KeyError alone is no sentence.
    message = f"{described['type']}: {described['message']}" if described["message"] else described["type"]
    return CallError(
        "python_error", "raised", message + advice, type=described["type"], traceback=described["traceback"]
    )


def _advice(error: BaseException) -> str:
    try:
        from .advice import advice_for

        return advice_for(error)
    except (Exception, RecursionError):
        # An exception whose text raises, say: the report goes without.
        return ""


def describe(error: BaseException) -> dict[str, str]:
    """Type, message and traceback, each bounded."""
    return {"type": type_name(type(error)), "message": text_of(error), "traceback": _render(error)}


def _render(error: BaseException) -> str:
    try:
        import traceback

        described = traceback.TracebackException.from_exception(error, compact=True)
        _strip(described)
        return cut("".join(described.format()))
    except (Exception, RecursionError):
        return f"{type_name(type(error))}: <its traceback cannot be shown>"


def _strip(described: traceback.TracebackException | None) -> None:
    seen: set[int] = set()
    todo = [described]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        frames = [f for f in one.stack if not f.filename.startswith((_HERE, "<frozen importlib"))]
        while len(frames) > 1 and frames[0].filename.startswith(_ASYNCIO):
            # The loop that ran the tool; what the tool itself called comes after it.
            del frames[0]
        one.stack[:] = frames
        todo += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]


def _forget_frames(error: BaseException | None) -> None:
    import traceback

    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
        if one.__traceback__ is not None:
            traceback.clear_frames(one.__traceback__)
            one.__traceback__ = None
