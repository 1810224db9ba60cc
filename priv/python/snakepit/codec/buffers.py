"""The bytes that travel out of band: they are copied once, straight to where they go."""

from __future__ import annotations

import sys
from typing import Any

from .arrays import LARGE


class Bytes:
    """A contiguous run of bytes."""

    __slots__ = ("nbytes", "source")
    is_array = False

    def __init__(self, source: Any) -> None:
        self.source = source
        self.nbytes = source.nbytes if type(source) is memoryview else len(source)

    def view(self) -> memoryview:
        """The bytes themselves."""
        view = memoryview(self.source)
        return view if view.format == "B" and view.ndim == 1 else view.cast("B")

    def copy_to(self, target: memoryview) -> None:
        numpy = sys.modules.get("numpy")
        if numpy is not None and self.nbytes >= 1 << 20:
            # numpy lets other threads run while it copies, heartbeats among them.
            numpy.copyto(numpy.frombuffer(target, numpy.uint8), numpy.frombuffer(self.view(), numpy.uint8))
        else:
            target[:] = self.view()

    def address(self) -> int:
        """Where the bytes lie, if that is cheap to know; else 0."""
        numpy = sys.modules.get("numpy")
        if numpy is None or type(self.source) is not memoryview:
            return 0
        address: int = numpy.frombuffer(self.view(), numpy.uint8).__array_interface__["data"][0]
        return address


class Array:
    """A numpy array of any layout, to be written in C order with the given little-endian dtype."""

    __slots__ = ("dtype", "nbytes", "source")
    is_array = True

    def __init__(self, array: Any, dtype: Any) -> None:
        self.source = array
        self.dtype = dtype
        self.nbytes: int = array.nbytes

    def view(self) -> memoryview:
        import numpy

        array = numpy.ascontiguousarray(self.source, self.dtype)
        if array.size == 0:
            return memoryview(b"")
        return memoryview(array.reshape(-1).view(numpy.uint8))

    def copy_to(self, target: memoryview) -> None:
        import numpy

        numpy.copyto(numpy.ndarray(self.source.shape, self.dtype, target), self.source)

    def address(self) -> int:
        array = self.source
        if array.base is None and self.nbytes < LARGE:
            # Made by numpy, in memory of its own.
            return 0
        if not array.flags.c_contiguous or not array.dtype.isnative:
            return 0
        address: int = array.__array_interface__["data"][0]
        return address
