"""Looks over a value before it is packed, or after it was read, at the speed of C where there is nothing to find.

MessagePack would carry keys of any type and nest deeper than the protocol allows, and it copies what it packs: so
containers are looked at first. `map(type, …)` visits a million plain elements in some 20 ms.
"""

from __future__ import annotations

from typing import Any

from msgpack import ExtType, Timestamp

from ..support.limits import MAX_DEPTH


class Suspect(Exception):
    """Something in the value cannot cross; `locate` finds out what and where."""


PLAIN: frozenset[type] = frozenset({int, float, bool, type(None)})
SIZED = frozenset({str, bytes, bytearray, memoryview})
LEAVES = PLAIN | SIZED
# What a tool is given as it was read, without a look at the tool's annotations.
NOT_BYTES: frozenset[type] = PLAIN | {str}
KEYS = frozenset({str, int})
# What msgpack would pass through as it is.
_RAW = frozenset({ExtType, Timestamp})
# Integer keys must be plain MessagePack integers.
FIRST, LAST = -(1 << 63), (1 << 64) - 1
_SEQUENCES = frozenset({list, tuple, set, frozenset})


def apart(value: Any, limit: int) -> bool:
    """Whether a sized value cannot stay in the envelope as it is. A str counts by characters, which is close enough."""
    if type(value) is memoryview:
        return value.nbytes >= limit or not value.c_contiguous
    return len(value) >= limit


def look_inside(arguments: dict[str, Any]) -> bool:
    """Whether there are bytes anywhere in what was read. Raises `Suspect` for its keys and depth."""
    return survey(arguments, 0, 1, NOT_BYTES)


def survey(value: Any, limit: int, depth: int = 1, plain: frozenset[type] = PLAIN) -> bool:
    """Whether anything of at least `limit` bytes is inside. Raises `Suspect` for keys, depth and raw extensions.

    `plain` are the types that do not count, whatever their size.
    """
    kind = type(value)
    if kind is dict:
        kinds = set(map(type, value))
        if not KEYS.issuperset(kinds):
            raise Suspect
        if int in kinds and not all(type(key) is str or FIRST <= key <= LAST for key in value):
            raise Suspect
        items = value.values()
    elif kind in _SEQUENCES:
        items = value
        if kind is not list:
            depth += 1  # an extension with an array in it
    elif kind in plain:
        return False
    elif kind in SIZED:
        return apart(value, limit)
    elif isinstance(value, dict):
        return survey(dict(value), limit, depth, plain)
    else:
        if kind in _RAW or depth + 2 > MAX_DEPTH:
            raise Suspect
        return False
    if depth > MAX_DEPTH:
        raise Suspect
    kinds = set(map(type, items))
    if plain.issuperset(kinds):
        return False
    if len(kinds) == 1 and (str in kinds or bytes in kinds):
        return max(map(len, items)) >= limit
    large = False
    for item in items:
        kind = type(item)
        if kind in plain:
            continue
        if kind in SIZED:
            if apart(item, limit):
                large = True
        elif survey(item, limit, depth + 1, plain):
            large = True
    return large


def with_plain_keys(value: Any) -> Any:
    """A copy of containers whose keys have the value of a `str` or an `int`, and are of another type: members of an
    `IntEnum`, numpy's integers. Other keys stay as they are. Slow.
    """
    if isinstance(value, dict):
        made = {_plain_key(key): with_plain_keys(item) for key, item in value.items()}
        return made if len(made) == len(value) else value
    kind = type(value)
    return kind(map(with_plain_keys, value)) if kind in (list, tuple) else value


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
    return plain if type(plain) in KEYS else key


def count_values(value: Any) -> int:
    """How many values there are, containers, keys and the arrays of extensions included. Slow."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(count_values, value.values()))
    if type(value) in _SEQUENCES:
        own = 1 if type(value) is list else 2
        if LEAVES.issuperset(map(type, value)):
            return own + len(value)
        return own + sum(map(count_values, value))
    return 1
