"""Turns the envelope of a request and the buffers beside it into a command and its arguments.

The native decoder does it. It asks Python for layouts of tensors, datetimes with a zone, decimals and errors.
"""

from __future__ import annotations

from typing import Any

from .._native import Decoder as _Decoder
from ..support.errors import CallError, Refusal
from ..support.paths import step
from .arrays import Layout


class Decoder:
    """Decodes requests; belongs to one lane."""

    __slots__ = ("native", "remembered", "request")

    def __init__(self) -> None:
        self.native = native = _Decoder(_make, Layout, _as_call_error, step)
        # Command, arguments, caller, and whether there are bytes anywhere in the arguments, of an envelope and the
        # buffers beside it. Raises `CallError` (validation) for anything it does not like.
        self.request = native.request
        # How many kinds of tensors are known again by their bytes.
        self.remembered = native.remembered


def _make(code: int, parts: Any) -> Any:
    from .datetimes import makers

    return makers[code](parts)


def _as_call_error(failure: Exception | tuple[str, str], path: str | None) -> CallError:
    if isinstance(failure, Refusal):
        failure = failure.reason, failure.message
    if isinstance(failure, Exception):
        failure = "bad_envelope", f"the request cannot be read: {type(failure).__name__}: {failure}"[:2000]
    reason, message = failure
    return CallError("validation", reason, f"{path}: {message}" if path else message, path=path)
