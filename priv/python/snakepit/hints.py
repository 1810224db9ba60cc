"""What to return instead of a value that cannot cross."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Classes of modules that may never have been imported; then no value is of theirs. An enum may be an int or a str too.
_OF_MODULES = [
    ("enum", "Enum", "return x.value"),
    ("uuid", "UUID", "return str(x)"),
    ("pathlib", "PurePath", "return str(x)"),
    ("datetime", "timedelta", "return x.total_seconds()"),
    ("fractions", "Fraction", "return float(x), or str(x)"),
]
_HINTS: dict[Any, str] = {
    int: "return int(x)",
    float: "return float(x)",
    str: "return str(x)",
    list: "return list(x)",
    tuple: "return tuple(x)",
    set: "return set(x)",
    frozenset: "return set(x)",
    complex: "return an array",
    range: "return list(x)",
    type({}.keys()): "return list(x)",
    type({}.values()): "return list(x)",
    type({}.items()): "return list(x)",
    map: "return list(x)",
    filter: "return list(x)",
    zip: "return list(x)",
}


def hint_for(value: Any) -> str | None:
    """`return …`, where something is known that would do."""
    if isinstance(value, type):
        return None
    for module, name, text in _OF_MODULES:
        if module in sys.modules and isinstance(value, getattr(sys.modules[module], name)):
            return text
    if hasattr(type(value), "__dataclass_fields__"):
        return "return dataclasses.asdict(x)"
    return next((text for base, text in _HINTS.items() if isinstance(value, base)), None)
