"""The checks of numpy's arrays, `NDArray[float64]` among them. numpy is loaded, or nobody could have written that."""

from __future__ import annotations

import sys
import types
import typing
from typing import Any

from .checks import Check, Mismatch
from .fields import Unusable

_DIMENSIONS = "{} dimensions"


def array_check(kind: Any, arguments: tuple[Any, ...]) -> Check:
    """An array whose shape and dtype are those of `ndarray[shape, dtype]`."""
    whole = Check("numpy.ndarray", {kind})
    shape = _shape(arguments[0]) if arguments else None
    scalars = _scalars(arguments[1]) if len(arguments) > 1 else ()
    if shape is None and not scalars:
        return whole
    types_of = " | ".join(scalar.__name__ for scalar in scalars)

    def slow(value: Any) -> Mismatch | None:
        if type(value) is not kind:
            return whole.refuse(value)
        if scalars and not issubclass(value.dtype.type, scalars):
            return "", f"expected an array of {types_of}, got one of {value.dtype}"
        if shape is not None and not _has_shape(value.shape, shape):
            return "", f"expected an array of shape {_written(shape)}, got one of {_written(value.shape)}"
        return None

    return Check("numpy.ndarray", (), slow)


def _shape(annotation: Any) -> tuple[tuple[int, ...] | None, ...] | None:
    """The sizes that each dimension may have, `None` for any; `None` where any number of them will do."""
    if annotation is Any or isinstance(annotation, typing.TypeVar):
        return None
    if typing.get_origin(annotation) is not tuple:
        raise Unusable("the shape of its array is no tuple")
    places = typing.get_args(annotation)
    if Ellipsis in places:
        return None
    return tuple([_sizes(place) for place in places])


def _sizes(place: Any) -> tuple[int, ...] | None:
    if typing.get_origin(place) is typing.Literal:
        return typing.get_args(place)
    return None


def _has_shape(shape: tuple[int, ...], wanted: tuple[tuple[int, ...] | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        sizes is None or size in sizes for size, sizes in zip(shape, wanted, strict=True)
    )


def _written(shape: tuple[Any, ...]) -> str:
    sizes = ["n" if size is None else "|".join(map(str, size)) if type(size) is tuple else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _scalars(annotation: Any) -> tuple[type, ...]:
    """The classes of numpy's scalars that a dtype is written by; none where any will do."""
    numpy = sys.modules["numpy"]
    if typing.get_origin(annotation) is numpy.dtype:
        annotation = typing.get_args(annotation)[0]
    if annotation is Any or annotation is numpy.dtype:
        return ()
    if isinstance(annotation, typing.TypeVar):
        annotation = annotation.__bound__ or typing.Union[annotation.__constraints__ or (numpy.generic,)]  # noqa: UP007
    members = (annotation,)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = typing.get_args(annotation)
    if not all(isinstance(member, type) and issubclass(member, numpy.generic) for member in members):
        raise Unusable("the dtype of its array is no scalar type of numpy's")
    return () if numpy.generic in members else members
