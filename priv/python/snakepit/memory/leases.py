"""The views that Python still has of shared memory."""

from __future__ import annotations

from _weakref import ref
from collections import deque
from typing import TYPE_CHECKING, Any

from ..support.fork import add, remove

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .chunk_memory import Mapping


class Leases:
    """Views of mapped memory that report their end, each by a token of its owner's.

    Every object that shows a view's bytes (memoryview, slice, ndarray, reshape) keeps it alive. The last may go in
    any thread, in the middle of anything: so a function in C takes note of it, and no line of Python runs in which a
    tool that is being cancelled could be hit.
    """

    def __init__(self) -> None:
        # The leases whose views are gone and that `take` has not returned yet.
        self.gone: deque[_Lease | _Returned] = deque()
        # The leases of living views, by id: a lease that nothing held would not report the end of its view.
        self._alive: dict[int, _Lease] = {}

    def lend(self, mapping: Mapping, offset: int, length: int, token: Any, exporter: Any = None) -> memoryview:
        """A writable view of a part of `mapping`, through an exporter of that part if one is given."""
        at = 0
        if exporter is None:
            at, exporter = offset, mapping.exporter()
        lease = _Lease(exporter, self.gone.append)
        lease.token = token
        lease.mapping = mapping
        # Before anybody has the view: whoever forks with it must find it listed.
        lease.row = add(mapping.address + offset, length)
        self._alive[id(lease)] = lease
        return memoryview(exporter).cast("B")[at : at + length]

    def end(self, tokens: Iterable[Any]) -> None:
        """As if the views of these tokens had gone."""
        self.gone.extend(map(_Returned, tokens))

    def take(self) -> list[Any]:
        """The tokens of views that are gone; each is named once."""
        tokens: list[Any] = []
        while self.gone:
            try:
                lease = self.gone.popleft()
            except IndexError:
                break
            listed = self._alive.pop(id(lease), None)
            if listed is not None:
                remove(listed.row)
            tokens.append(lease.token)
        return tokens


class _Lease(ref):  # type: ignore[type-arg]
    __slots__ = ("mapping", "row", "token")

    mapping: Mapping
    row: int
    token: Any


class _Returned:
    __slots__ = ("token",)

    def __init__(self, token: Any) -> None:
        self.token = token
