"""Advice to a tool's author on an exception that comes from how arguments are given to tools.

Arrays and bytes are given as read-only views. Neither numpy's nor Python's own message says what would help. Advice
on a missing module is in `missing.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..codec.arrays import is_array
from ..tools.signature import by_code

if TYPE_CHECKING:
    from types import FrameType

    from ..tools.signature import Tool

_READ_ONLY = re.compile(r"read-?only|read-write bytes-like|not writ(e)?able|WRITEABLE", re.IGNORECASE)
# So deep, and among so many items of each container, an argument is looked into.
_DEPTH, _ITEMS = 4, 100


def advice_for(error: BaseException) -> str:
    """A sentence to end the message with, or nothing. Must be asked while the exception has its traceback."""
    if isinstance(error, ImportError):
        from .missing import advice_on

        return advice_on(error)
    if not isinstance(error, (ValueError, TypeError, AttributeError, BufferError)):
        return ""
    text = str(error)
    if "memoryview" in text and isinstance(error, (TypeError, AttributeError)) and not _READ_ONLY.search(text):
        names = _parameters(error, _is_view)
        if names:
            return f"; {_listed(names)} given as a memoryview: annotate it with `bytes` to get bytes"
    elif isinstance(error, (ValueError, TypeError, BufferError)) and _READ_ONLY.search(text):
        names = _parameters(error, _is_read_only)
        if names:
            return f"; {_listed(names)} read-only: @tool(writable={names!r}) gives the tool a private copy"
    return ""


def _listed(names: list[str]) -> str:
    return f"argument {names[0]} is" if len(names) == 1 else f"arguments {', '.join(names)} are"


def _parameters(error: BaseException, wanted: Any) -> list[str]:
    """The parameters of the called tool that hold such a value now."""
    trace = error.__traceback__
    while trace is not None:
        tool = by_code.get(trace.tb_frame.f_code)
        if tool is not None:
            return _among(trace.tb_frame, tool, wanted)
        trace = trace.tb_next
    return []


def _among(frame: FrameType, tool: Tool, wanted: Any) -> list[str]:
    found = frame.f_locals
    return [name for name in tool.checks if name not in tool.writable and _holds(found.get(name), wanted, _DEPTH)]


def _is_view(value: Any) -> bool:
    return type(value) is memoryview


def _is_read_only(value: Any) -> bool:
    if type(value) is memoryview:
        return value.readonly
    return is_array(type(value)) and not value.flags.writeable


def _holds(value: Any, wanted: Any, depth: int) -> bool:
    if wanted(value):
        return True
    kind = type(value)
    if not depth or kind not in (list, tuple, dict):
        return False
    from itertools import islice

    return any(_holds(item, wanted, depth - 1) for item in islice(value.values() if kind is dict else value, _ITEMS))
