"""The holders of a result's memory: it is sent in place only if the reply is its sole holder.

Another holder may write to it later, and so change what the caller was given. Python's own counts of
references tell: every way to reach memory that is lent to Python holds a reference to one of the objects between the
result and that memory. So each of these must have exactly the references that the reply accounts for.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from _weakref import getweakrefcount
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..codec.buffers import Array, Bytes

# All memoryviews of one export share an object of this type, which holds the exporter.
_SHARED_EXPORT = type(gc.get_referents(memoryview(b""))[0])


class _Link:
    """An object between a result and its memory."""

    __slots__ = ("alone", "expected", "next", "value", "weak")

    def __init__(self, value: Any) -> None:
        self.value = value
        # References from the reply itself, and from other links.
        self.expected = 0
        # Weak references that are known: anybody else's could become a strong one.
        self.weak = 0
        self.next: _Link | None = None
        self.alone: bool | None = None

    def references(self) -> int:
        return sys.getrefcount(self.value)


# The count of references to an object that only its link holds; Pythons differ. Without the GIL a count is no proof.
_NONE = _Link(object()).references() if getattr(sys, "_is_gil_enabled", lambda: True)() else 1 << 62


def sole_holder_of(buffers: Sequence[Bytes | Array]) -> list[bool]:
    """For each buffer, whether nothing but these buffers refers to its memory."""
    links: dict[int, _Link] = {}
    first = [_linked(buffer, links) for buffer in buffers]
    return [_is_alone(link) for link in first]


def _linked(buffer: Bytes | Array, links: dict[int, _Link]) -> _Link:
    value = buffer.source
    first = link = links.get(id(value)) or _Link(value)
    link.expected += 1
    while id(value) not in links:
        links[id(value)] = link
        value = _holds(link)
        if value is None:
            break
        link.next = links.get(id(value)) or _Link(value)
        link = link.next
        link.expected += 1
    return first


def _holds(link: _Link) -> Any:
    """The object that the object of this link holds in turn; `None` at the end of the chain."""
    value = link.value
    kind = type(value)
    if kind is memoryview or kind is _SHARED_EXPORT:
        return gc.get_referents(value)[0]
    if kind is getattr(sys.modules.get("numpy"), "ndarray", None):
        if value.base is None and not value.flags.owndata:
            link.alone = False
        return value.base
    if isinstance(value, ctypes.Array):
        # A lease of ours, which has a weak reference to its exporter.
        link.weak = 1
    else:
        link.alone = False
    return None


def _is_alone(link: _Link) -> bool:
    if link.alone is None:
        link.alone = (
            link.references() == _NONE + link.expected
            and getweakrefcount(link.value) == link.weak
            and (link.next is None or _is_alone(link.next))
        )
    return link.alone
