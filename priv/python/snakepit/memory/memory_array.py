"""`empty`: an array that can be returned without a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..support.context import undisturbed
from ..support.errors import CallError
from ..support.fork import is_child

if TYPE_CHECKING:
    from .._native import Arena

# Set by the worker.
arena: Arena | None = None


def empty(shape: Any, dtype: Any = float) -> Any:
    """A numpy array like `numpy.empty`, in memory that Elixir reads in place when a tool returns it, or part of it.

    It is copied after all if the tool keeps it, or a view of it: the tool may write to that later, and the caller's
    result must not change. So make a new array for each result, and keep none; a generator does so by `yield make()`,
    while the variable in `x = make(); yield x` keeps the array until the next item.
    A process forked from the worker has a copy of its own, as of any other array.
    Outside of a worker this is `numpy.empty`. Raises `MemoryError` when the pool's quota is used up.
    """
    import numpy

    if arena is None or is_child():
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

    # Its base is the exporter itself: as few objects as can be between the array and its memory.
    return numpy.ndarray(sizes, dtype, arena.made(length))
