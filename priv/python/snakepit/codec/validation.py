"""Types of values, and values that are of another type than they need be."""

from __future__ import annotations

from typing import Any


class Suspect(Exception):
    """Something in the value cannot cross; `locate` finds out what and where."""


PLAIN: frozenset[type] = frozenset({int, float, bool, type(None)})
# Values of these types hold no bytes, so `adapt` leaves them as they were read.
NOT_BYTES: frozenset[type] = PLAIN | {str}
_KEYS = frozenset({str, int})


def with_plain_keys(value: Any) -> Any:
    """A copy of containers whose keys have the value of a `str` or an `int`, and are of another type: members of an
    `IntEnum`, numpy's integers. Other keys stay as they are. Slow.
    """
    if isinstance(value, dict):
        # As the encoder reads it, whatever its class says.
        plain = dict(value)
        made = {_plain_key(key): with_plain_keys(item) for key, item in plain.items()}
        return made if len(made) == len(plain) else value
    kind = type(value)
    # Not by `map`: a StopIteration that a method of an item's class raises would end the list there.
    return kind([with_plain_keys(item) for item in value]) if kind in (list, tuple) else value


def _plain_key(key: Any) -> Any:
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int) and type(key) is not bool:
        return int.__int__(key)
    from .arrays import scalar

    try:
        plain = scalar(key)
    except Exception:
        return key
    return plain if type(plain) in _KEYS else key
