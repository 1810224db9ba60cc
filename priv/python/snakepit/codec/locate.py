"""Finds what in a value cannot cross, and where. Only runs after the fast path failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..support.errors import CallError, Refusal, a_type, text_of, type_name
from ..support.limits import MAX_DEPTH
from ..support.paths import step

if TYPE_CHECKING:
    from collections.abc import Callable


def explain(
    value: Any,
    root: str,
    leaf: Callable[[Any], object],
    category: str,
    suggestion: Callable[[tuple[str, Any]], str | None],
) -> CallError | None:
    """The first thing that cannot cross, as an error; `None` if there is nothing.

    `leaf` is called with everything that is no container of the fast path; it raises `Refusal`. `category` says whose
    mistake the value is: the caller's, or the tool's that returned it. `suggestion` says what to return instead.
    """

    def looked_at(value: Any) -> None:
        try:
            leaf(value)
        except Refusal as refusal:
            try:
                words = suggestion(refusal.about) if refusal.about else None
            except Exception:
                # A method of the value's class raised. What is wrong with the value is known without it.
                words = None
            if words:
                refusal.message += f": {words}"
            raise

    try:
        _walk(value, root, 1, {}, looked_at)
    except CallError as error:
        error.category = category
        return error
    return None


def _fail(path: str, reason: str, message: str, kind: str | None = None) -> CallError:
    return Refusal(reason, message, kind).at(path)


def _walk(value: Any, path: str, depth: int, above: dict[int, str], leaf: Callable[[Any], object]) -> None:
    # By its type, as the encoder sees it: `__class__` may say something else, or raise.
    mapping = issubclass(type(value), dict)
    if mapping:
        children = [(path + step(key), key, item) for key, item in value.items()]
    elif type(value) in (list, tuple):
        children = [(f"{path}[{index}]", None, item) for index, item in enumerate(value)]
    elif type(value) in (set, frozenset):
        children = [(path, None, item) for item in value]
    else:
        _leaf(value, path, depth, leaf)
        return
    if type(value) in (tuple, set, frozenset):
        depth += 1
    if id(value) in above:
        raise _fail(path, "cycle", f"a cycle: this is {above[id(value)]} again", type_name(type(value)))
    above[id(value)] = path
    for child_path, key, item in children:
        if mapping:
            _key(key, child_path)
        if depth >= MAX_DEPTH and (depth > MAX_DEPTH or isinstance(item, (dict, list, tuple, set, frozenset))):
            # A cycle shows itself within its own length; follow it before calling it deep.
            cycle = _find_cycle(item, child_path, above)
            raise cycle or _fail(path, "too_deep", f"values are nested deeper than {MAX_DEPTH}")
        _walk(item, child_path, depth + 1, above, leaf)
    del above[id(value)]


def _find_cycle(value: Any, path: str, above: dict[int, str]) -> CallError | None:
    """Looks for a way from here back to a container on the path so far, without recursion."""
    seen: set[int] = set()
    todo = [(value, path)]
    while todo:
        item, at = todo.pop()
        if id(item) in above:
            return _fail(at, "cycle", f"a cycle: this is {above[id(item)]} again", type_name(type(item)))
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            todo.extend((child, at + step(key)) for key, child in item.items())
        elif isinstance(item, (list, tuple)):
            todo.extend((child, f"{at}[{index}]") for index, child in enumerate(item))
    return None


def _key(key: Any, path: str) -> None:
    if isinstance(key, str):
        _text(key, path)
    elif type(key) is bool or not isinstance(key, int):
        kind = type_name(type(key))
        shown = "NaN" if key != key else kind
        words = f"keys must be str or int, this one is {shown}: return list(x.items()), or str of the keys"
        raise _fail(path, "unsupported_key", words, kind)
    elif not -(1 << 63) <= key < 1 << 64:
        raise _fail(path, "unsupported_key", "an int key must fit in 64 bits", "int")


def _text(text: str, path: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _fail(path, "not_utf8", f"a str with a lone surrogate at index {error.start}", "str") from None


def _leaf(value: Any, path: str, depth: int, leaf: Callable[[Any], object]) -> None:
    kind = type(value)
    if issubclass(kind, str):
        _text(value, path)
        return
    if kind in (int, float, bool, type(None), bytes, bytearray, memoryview):
        return
    if depth + 2 > MAX_DEPTH:
        raise _fail(path, "too_deep", f"values are nested deeper than {MAX_DEPTH}")
    try:
        leaf(value)
    except Refusal as refusal:
        raise refusal.at(path) from None
    except Exception as error:
        # A method of the value's class raised: one that was called to read it, or to see what it is.
        words = f"{a_type(kind)} cannot be read: {type(error).__name__}: {text_of(error)}"
        raise _fail(path, "unsupported_type", words[:2000], type_name(kind)) from None
