"""Turns a result into an envelope and the buffers that travel beside it.

The native encoder does it. It asks Python for values of types that it does not know, and for what is wrong with a value
that cannot cross.
"""

from __future__ import annotations

import datetime
import sys
from functools import partial
from typing import Any

from .._native import Buffers
from .._native import Encoder as _Encoder
from ..support.errors import CallError, Refusal, a_type, text_of, type_name
from ..support.limits import MAX_BUFFERS, MAX_VALUES
from .arrays import as_array, scalar, wire_dtype
from .validation import Suspect, with_plain_keys

_DATETIMES = frozenset({datetime.date, datetime.time, datetime.datetime})


class Encoder:
    """Encodes one value at a time; belongs to one lane."""

    def __init__(self, inline_limit: int) -> None:
        limit = max(1, inline_limit)
        self.buffers: Buffers | None = None
        self.native = _Encoder(limit, convert, wire_dtype, Suspect)
        self._encode = self.native.encode

    def encode(self, value: Any, root: str = "result") -> bytes:
        """The envelope. `take_buffers` has what travels beside it."""
        try:
            return self._any(value)
        except CallError:
            raise
        except Exception as error:
            raise _explained(value, root, error) from None

    def _any(self, value: Any) -> bytes:
        try:
            packed, self.buffers = self._encode(value)
        except Suspect as suspect:
            if suspect.args != ("key",):
                raise
            # Keys that are an `int` or a `str` of another type.
            packed, self.buffers = self._encode(with_plain_keys(value))
        return packed

    def crosses(self, value: Any) -> bool:
        """Whether it can be encoded."""
        try:
            self._any(value)
        except Exception:
            return False
        finally:
            self.buffers = None
        return True

    def take_buffers(self) -> Buffers | None:
        buffers, self.buffers = self.buffers, None
        return buffers


def convert(value: Any) -> Any:
    """Converts a value whose type the native encoder does not know.

    The result is the code and parts of an extension; a tuple of one array; or a plain value that equals it. Raises
    `Refusal`.
    """
    kind = type(value)
    if kind in _DATETIMES or ("decimal" in sys.modules and kind is sys.modules["decimal"].Decimal):
        from .datetimes import parts_of

        return parts_of(value)
    plain = scalar(value)
    if plain is not None:
        return plain
    # Members of an `IntEnum`, for example. The base class converts: a conversion of their own is ignored.
    for base, of in _BASES:
        if isinstance(value, base):
            return of(value)
    array = as_array(value)
    if array is not None:
        # Refuses element types that cannot cross.
        wire_dtype(array)
        return (array,)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise Refusal("unsupported_type", f"{a_type(kind)} cannot cross", type_name(kind), ("value", value))


_BASES: list[tuple[type, Any]] = [(str, str.__str__), (float, float.__float__), (int, int.__int__)]


def _explained(value: Any, root: str, error: Exception) -> CallError:
    """The error of a value that cannot cross, with the place in it."""
    from .locate import explain
    from .suggestions import suggestion

    why = error.args[0] if isinstance(error, Suspect) and error.args else None
    if why == "too_many_values":
        return CallError("python_error", why, f"{root} has more than {MAX_VALUES} values", path=root)
    if why == "too_many_buffers":
        return CallError("python_error", why, f"a value has more than {MAX_BUFFERS} large buffers")
    try:
        found = explain(value, root, convert, "python_error", partial(suggestion, crosses=Encoder(1 << 14).crosses))
    except Exception:
        # A method of a container's or a key's class raised, or the value changed on the way.
        found = None
    if found is not None:
        return found
    if isinstance(error, Suspect):
        error = Refusal("unsupported_type", "the value changed while it was read")
    reason = error.reason if isinstance(error, Refusal) else "unsupported_type"
    return CallError("python_error", reason, f"{root}: {type(error).__name__}: {text_of(error)}"[:2000], path=root)
