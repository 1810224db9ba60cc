"""Whether results are what a tool's `-> …` says: reported once for each place of a result, in development."""

from __future__ import annotations

import collections.abc
import re
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..support.errors import type_name
from ..support.paths import step
from .adapt import plain
from .fields import resolve, unaliased

if TYPE_CHECKING:
    from .signature import Tool

# The types that most tools return.
_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})
_INDEX = re.compile(r"\[\d+\]")
# At most so many places are reported of one tool: keys of maps may differ from call to call.
_MOST_REPORTED = 20
# So many items of a container are looked at.
_ITEMS = 100
_LATE = (types.GeneratorType, types.AsyncGeneratorType)
_YIELDING = frozenset(
    {
        collections.abc.Iterator,
        collections.abc.Iterable,
        collections.abc.Generator,
        collections.abc.AsyncIterator,
        collections.abc.AsyncIterable,
        collections.abc.AsyncGenerator,
    }
)
_TOWER: dict[type, tuple[type, ...]] = {float: (int,), complex: (int, float)}
# The path to what does not fit, what was expected, and what is there.
Misfit = tuple[str, str, str]


def watch(tool: Tool, report: Callable[[str], None]) -> None:
    """Has the results of a tool looked at from now on, if its annotation says anything."""
    try:
        annotation = resolve(tool._unwrapped, "return", tool._unwrapped.__annotations__["return"])
    except Exception:
        # It has none, or one for type checkers alone.
        return
    if annotation is Any or annotation is object:
        return
    reported: set[tuple[str, str]] = set()

    def look(value: Any, annotation: Any, what: str) -> None:
        if type(value) is annotation and annotation in _PLAIN:
            return
        try:
            found = misfit(value, annotation)
        except Exception:
            # An annotation, or a value, that raises when it is looked at.
            return
        if found is None:
            return
        path, expected, got = found
        # One place is reported once, whichever item or value it is.
        place = (_INDEX.sub("[]", path), expected)
        if place not in reported and len(reported) < _MOST_REPORTED:
            reported.add(place)
            report(f"tool {tool.name} {what} {got}{path and f' at result{path}'}; its annotation says {expected}")

    function = tool.call
    item = _item(annotation)

    def call(**arguments: Any) -> Any:
        value = function(**arguments)
        kind = type(value)
        if kind is types.CoroutineType:
            return _awaited(value, lambda result: look(result, annotation, "returned"))
        if kind in _LATE:
            # The value that a generator returns at its end is not looked at.
            if item is None:
                return value
            each = _items if kind is types.GeneratorType else _async_items
            return each(value, lambda one: look(one, item, "yielded"))
        look(value, annotation, "returned")
        return value

    tool.call = call


async def _awaited(coroutine: Any, look: Callable[[Any], None]) -> Any:
    value = await coroutine
    look(value)
    return value


def _items(source: Any, look: Callable[[Any], None]) -> Any:
    # No name here holds an item while it is under way: it may be sent without a copy.
    holder: list[Any] = []
    try:
        while True:
            try:
                holder.append(next(source))
            except StopIteration as stop:
                return stop.value
            look(holder[0])
            yield holder.pop()
    finally:
        source.close()


async def _async_items(source: Any, look: Callable[[Any], None]) -> Any:
    holder: list[Any] = []
    try:
        async for item in source:
            holder.append(item)
            del item
            look(holder[0])
            yield holder.pop()
    finally:
        await source.aclose()


def _item(annotation: Any) -> Any:
    if typing.get_origin(annotation) in _YIELDING:
        return (typing.get_args(annotation) or (None,))[0]
    return None


def misfit(value: Any, annotation: Any) -> Misfit | None:
    """Where a value is not what an annotation says; `None` where it is, or where that is unknown."""
    alias = unaliased(annotation)
    annotation = plain(annotation) if alias is None else alias
    if annotation is None:
        annotation = type(None)
    if annotation is Any or annotation is object or isinstance(annotation, (str, typing.TypeVar, typing.ForwardRef)):
        return None
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        found = [misfit(value, member) for member in arguments]
        if None in found:
            return None
        deep = next((one for one in found if one is not None and one[0]), None)
        return deep or ("", " | ".join(map(_name, arguments)), type_name(type(value)))
    if origin is typing.Literal:
        fits = any(type(value) is type(one) and value == one for one in arguments)
        return None if fits else ("", _name(annotation), repr(value)[:60])
    kind = origin or annotation
    if not isinstance(kind, type):
        return None
    if hasattr(kind, "__required_keys__"):
        return _typed_dict(value, kind)
    if not _is(value, kind):
        return "", _name(annotation), type_name(type(value))
    return _inside(value, kind, arguments)


def _is(value: Any, kind: type) -> bool:
    from ..codec.arrays import scalar

    try:
        if isinstance(value, (kind, *_TOWER.get(kind, ()))):
            return True
        # Elixir gets the number that a scalar of numpy's is.
        plain_value = scalar(value)
        return plain_value is not None and isinstance(plain_value, (kind, *_TOWER.get(kind, ())))
    except Exception:
        # A protocol that cannot be looked at, or a scalar that does not cross.
        return True


def _inside(value: Any, kind: type, arguments: tuple[Any, ...]) -> Misfit | None:
    from itertools import islice

    if not arguments:
        return None
    if isinstance(value, dict) and len(arguments) == 2:
        for key, item in islice(value.items(), _ITEMS):
            found = misfit(key, arguments[0])
            if found is not None:
                return "", f"a key that is {found[1]}", found[2]
            found = misfit(item, arguments[1])
            if found is not None:
                return step(key) + found[0], found[1], found[2]
    elif kind is tuple and Ellipsis not in arguments:
        if len(value) != len(arguments):
            return "", f"a tuple of {len(arguments)}", f"one of {len(value)}"
        for index, (item, annotation) in enumerate(zip(value, arguments, strict=True)):
            found = misfit(item, annotation)
            if found is not None:
                return f"[{index}]{found[0]}", found[1], found[2]
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(islice(value, _ITEMS)):
            found = misfit(item, arguments[0])
            if found is not None:
                return ("" if isinstance(value, (set, frozenset)) else f"[{index}]") + found[0], found[1], found[2]
    elif (kind.__module__, kind.__qualname__) == ("numpy", "ndarray"):
        from .array_checks import array_check

        wrong = array_check(kind, arguments)(value)
        if wrong is not None:
            expected, _, got = wrong[1].removeprefix("expected ").partition(", got ")
            return "", expected, got
    return None


def _typed_dict(value: Any, kind: Any) -> Misfit | None:
    if not isinstance(value, dict):
        return "", kind.__name__, type_name(type(value))
    hints = typing.get_type_hints(kind)
    missing = sorted(kind.__required_keys__ - value.keys()) or sorted(value.keys() - hints.keys())
    if missing:
        return "", kind.__name__, f"a dict that {'misses' if missing[0] in hints else 'has besides'} {missing[0]!r}"
    for name, item in value.items():
        found = misfit(item, hints[name])
        if found is not None:
            return step(name) + found[0], found[1], found[2]
    return None


def _name(annotation: Any) -> str:
    return (
        type_name(annotation) if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    )
