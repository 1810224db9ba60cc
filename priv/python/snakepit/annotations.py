"""Turns a parameter's annotation into a check of the argument, once, when the tool is registered.

A check is a pair: the exact types that pass at once, and a function for everything else, which returns `None` or
where (a path suffix) and what was wrong. An annotation that is not understood is not checked.
"""

from __future__ import annotations

import datetime
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from .adapt import is_buffer, plain
from .errors import type_name

Mismatch = tuple[str, str]


class Check:
    """How arguments of one annotation are checked."""

    __slots__ = ("kinds", "name", "slow")

    def __init__(self, name: str, kinds: set[type], slow: Callable[[Any], Mismatch | None] | None = None) -> None:
        self.name = name
        self.kinds = frozenset(kinds)
        self.slow = slow or self.refuse

    def refuse(self, value: Any) -> Mismatch | None:
        return "", f"expected {self.name}, got {_shown(value)}{self._instead(value)}"

    def _instead(self, value: Any) -> str:
        """What to send instead, where text and bytes were mixed up."""
        if type(value) is str and bytes in self.kinds:
            return ": send Snakepit.bytes/1 of the binary"
        if type(value) in _BYTES and str in self.kinds:
            return ": send the binary itself, without Snakepit.bytes/1"
        return ""

    def __call__(self, value: Any) -> Mismatch | None:
        return None if type(value) in self.kinds else self.slow(value)


# As arguments arrive; `adapt` makes of them what the annotation says.
_BYTES: set[type] = {bytes, memoryview}


def _shown(value: Any) -> str:
    return "bytes" if type(value) is memoryview else type_name(type(value))


_EXACT: dict[Any, tuple[str, set[type]]] = {
    int: ("int", {int}),
    float: ("float", {float, int}),
    str: ("str", {str}),
    bool: ("bool", {bool}),
    bytes: ("bytes", _BYTES),
    bytearray: ("bytes", _BYTES),
    memoryview: ("bytes", _BYTES),
    None: ("None", {type(None)}),
    type(None): ("None", {type(None)}),
    list: ("list", {list}),
    tuple: ("tuple", {tuple}),
    dict: ("dict", {dict}),
    set: ("set", {set}),
    datetime.date: ("datetime.date", {datetime.date, datetime.datetime}),
    datetime.time: ("datetime.time", {datetime.time}),
    datetime.datetime: ("datetime.datetime", {datetime.datetime}),
}


def check_for(annotation: Any) -> Check | None:
    """The check for an annotation; `None` where there is nothing to check."""
    annotation = plain(annotation)
    try:
        exact = _EXACT.get(annotation)
    except TypeError:
        return None
    if exact is not None:
        return Check(*exact)
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is typing.Literal:
        return _literal(arguments)
    if origin in (list, set) and len(arguments) == 1:
        return _sequence(origin, arguments[0])
    if origin is tuple:
        return _tuple(arguments)
    if origin is dict and len(arguments) == 2:
        return _dict(*arguments)
    if is_buffer(annotation):
        return _buffer()
    return _by_name(origin or annotation)


def _buffer() -> Check:
    """Bytes, or what else has a buffer: an array."""
    whole = Check("bytes or an array", _BYTES)
    without = {int, float, bool, str, type(None), list, tuple, dict, set}
    whole.slow = lambda value: whole.refuse(value) if type(value) in without else None
    return whole


def _by_name(annotation: Any) -> Check | None:
    """Classes of modules that may never be loaded are known by their names."""
    if not isinstance(annotation, type):
        return None
    known = (annotation.__module__, annotation.__qualname__)
    if known == ("numpy", "ndarray"):
        return Check("numpy.ndarray", {annotation})
    if known in (("decimal", "Decimal"), ("_decimal", "Decimal")):
        return Check("decimal.Decimal", {annotation})
    return None


def _union(members: tuple[Any, ...]) -> Check | None:
    checks = []
    for member in members:
        check = check_for(member)
        if check is None:
            return None
        checks.append(check)
    kinds = {kind for check in checks for kind in check.kinds}
    name = " | ".join(check.name for check in checks)
    whole = Check(name, kinds)

    def slow(value: Any) -> Mismatch | None:
        deepest = None
        for check in checks:
            mismatch = check(value)
            if mismatch is None:
                return None
            if mismatch[0]:
                deepest = deepest or mismatch
        return deepest or whole.refuse(value)

    whole.slow = slow
    return whole


def _literal(values: tuple[Any, ...]) -> Check:
    allowed = {(type(value), value) for value in values}
    name = " | ".join(repr(value) for value in values)

    def slow(value: Any) -> Mismatch | None:
        if type(value) is memoryview:
            value = bytes(value)
        if isinstance(value, (str, int, bytes, types.NoneType)) and (type(value), value) in allowed:
            return None
        shown = repr(value) if isinstance(value, (str, int)) and len(repr(value)) < 60 else _shown(value)
        return "", f"expected {name}, got {shown}"

    return Check(name, set(), slow)


def _sequence(origin: Any, element: Any) -> Check | None:
    inner = check_for(element)
    plain = Check(origin.__name__, {origin})
    if inner is None:
        return plain
    whole = Check(f"{origin.__name__}[{inner.name}]", set())

    def slow(value: Any) -> Mismatch | None:
        if type(value) is not origin:
            return whole.refuse(value)
        if inner.kinds and inner.kinds.issuperset(map(type, value)):
            return None
        for index, item in enumerate(value):
            mismatch = inner(item)
            if mismatch is not None:
                # A set has no order: its elements have no index.
                return (f"[{index}]{mismatch[0]}" if origin is list else "", mismatch[1])
        return None

    whole.slow = slow
    return whole


def _tuple(members: tuple[Any, ...]) -> Check | None:
    if len(members) == 2 and members[1] is Ellipsis:
        inner = check_for(members[0])
        if inner is None:
            return Check("tuple", {tuple})
        name, checks, count = f"tuple[{inner.name}, ...]", None, None
    else:
        inner = None
        checks = [check_for(member) for member in members]
        name = f"tuple[{', '.join('Any' if check is None else check.name for check in checks)}]"
        count = len(members)
    whole = Check(name, set())

    def slow(value: Any) -> Mismatch | None:
        if type(value) is not tuple:
            return whole.refuse(value)
        if count is not None and len(value) != count:
            return "", f"expected {name}, got a tuple of {len(value)}"
        for index, item in enumerate(value):
            check = inner if checks is None else checks[index]
            mismatch = check(item) if check is not None else None
            if mismatch is not None:
                return f"[{index}]{mismatch[0]}", mismatch[1]
        return None

    whole.slow = slow
    return whole


def _dict(key: Any, value: Any) -> Check | None:
    keys, values = check_for(key), check_for(value)
    if keys is None and values is None:
        return Check("dict", {dict})
    name = f"dict[{keys.name if keys else 'Any'}, {values.name if values else 'Any'}]"
    whole = Check(name, set())

    def slow(mapping: Any) -> Mismatch | None:
        if type(mapping) is not dict:
            return whole.refuse(mapping)
        for item_key, item in mapping.items():
            mismatch = keys(item_key) if keys else None
            if mismatch is not None:
                return "", f"a key: {mismatch[1]}"
            mismatch = values(item) if values else None
            if mismatch is not None:
                from .paths import step

                return step(item_key) + mismatch[0], mismatch[1]
        return None

    whole.slow = slow
    return whole


def resolve(function: Callable[..., Any], name: str, annotation: Any) -> Any:
    """An annotation given as a string, evaluated; `Any` where it cannot be (a name known to type checkers only)."""
    if not isinstance(annotation, str):
        return annotation
    module = sys.modules.get(getattr(function, "__module__", ""), None)
    names = getattr(function, "__globals__", None) or getattr(module, "__dict__", {})
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)[name]
    except Exception:
        return Any
