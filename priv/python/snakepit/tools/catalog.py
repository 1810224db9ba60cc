"""The description of a pool's tools for the BEAM: bounded text, whatever the user's objects say of themselves."""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Any

from .._native import pack
from ..support.errors import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from .signature import Tool

# Bytes of all descriptions, well below a control frame; tools beyond that have name and signature alone.
_MOST = 8 << 20
# Characters of a documentation, and of anything else.
_DOC = 16 << 10
_TEXT = 1 << 10
_UNKNOWN = "…"

_KINDS: dict[Any, str] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional_only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "plain",
    inspect.Parameter.KEYWORD_ONLY: "keyword_only",
    inspect.Parameter.VAR_KEYWORD: "rest",
}


def describe(tools: dict[str, Tool]) -> list[dict[str, Any]]:
    """One map for each tool."""
    left = _MOST
    described = []
    for tool in tools.values():
        entry = _entry(tool)
        left -= len(pack(entry))
        described.append(entry if left > 0 else _brief(entry))
    return described


def _entry(tool: Tool) -> dict[str, Any]:
    function = inspect.unwrap(tool.function)
    code = getattr(function, "__code__", None)
    place = (_cut(code.co_filename), code.co_firstlineno) if isinstance(code, types.CodeType) else (None, None)
    signature = inspect.signature(tool.function)
    return {
        "name": clean(tool.name),
        "module": _cut(str(getattr(tool.function, "__module__", ""))),
        "file": place[0],
        "line": place[1],
        "kind": _kind(function),
        "signature": _cut(tool.signature),
        "parameters": [_parameter(p) for p in signature.parameters.values() if p.kind in _KINDS],
        "returns": _annotation(signature.return_annotation),
        "doc": None if tool.doc is None else _cut(tool.doc, _DOC),
        "writable": sorted(map(_cut, tool.writable)),
    }


def _brief(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"parameters": [], "doc": None, "writable": [], "returns": None}


def _kind(function: Callable[..., Any]) -> str:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "stream"
    return "async" if inspect.iscoroutinefunction(function) else "function"


def _parameter(parameter: inspect.Parameter) -> dict[str, Any]:
    return {
        "name": _cut(parameter.name),
        "kind": _KINDS[parameter.kind],
        "annotation": _annotation(parameter.annotation),
        # None: it has to be given.
        "default": None if parameter.default is parameter.empty else _shown(repr, parameter.default),
    }


def _annotation(annotation: Any) -> str | None:
    if annotation is inspect.Parameter.empty:
        return None
    # Those that a `from __future__ import annotations` keeps are text.
    return _cut(annotation) if isinstance(annotation, str) else _shown(inspect.formatannotation, annotation)


def _shown(show: Callable[[Any], str], value: Any) -> str:
    try:
        return _cut(str(show(value)))
    except Exception:
        # An object of the user's that raises when it is looked at.
        return _UNKNOWN


def _cut(text: str, limit: int = _TEXT) -> str:
    return clean(text if len(text) <= limit else text[: limit - 1] + "…")
