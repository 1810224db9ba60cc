"""`empty`: an array that can be returned without a copy."""

from __future__ import annotations

from _weakref import ref

from .context import undisturbed
from .errors import CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .arena import Arena

# Set by the worker.
arena: Arena | None = None


def empty(shape: Any, dtype: Any = float) -> Any:
    """A numpy array like `numpy.empty`, in memory that Elixir reads in place when a tool returns it, or part of it.

    Once returned, the array is read-only: its bytes are the caller's result. Make a new one for the next. A view that
    was taken before stays writable, for numpy knows of none: do not write to one that you kept.
    A process forked from the worker has a copy of its own, as of any other array.
    Outside of a worker this is `numpy.empty`. Raises `MemoryError` when the pool's quota is used up.
    """
    import numpy

    if arena is None or arena.is_left():
        return numpy.empty(shape, dtype)
    wanted = numpy.dtype(dtype)
    sizes = (shape,) if isinstance(shape, int) else tuple(map(int, shape))
    if wanted.hasobject or any(size < 0 for size in sizes):
        return numpy.empty(shape, dtype)
    length = wanted.itemsize
    for size in sizes:
        length *= size
    if not length:
        return numpy.empty(shape, dtype)
    try:
        return undisturbed(_made, arena, length, wanted, sizes)
    except (CallError, OSError) as error:
        raise MemoryError(f"snakepit.empty: {error}") from None


def _made(arena: Arena, length: int, dtype: Any, sizes: tuple[int, ...]) -> Any:
    import numpy

    slot = arena.force(length)
    array = numpy.frombuffer(arena.lend(slot, length), dtype).reshape(sizes)
    slot.array = ref(array)
    return array
