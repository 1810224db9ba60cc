"""numpy arrays and tensors. numpy is imported when the first tensor comes or goes, never before."""

from __future__ import annotations

import sys
from typing import Any

from ..support.errors import Refusal, a_type, text_of, type_name
from ..support.limits import MAX_DIMS

_NUMPY_NAMES = {
    "bool": "?",
    "u8": "u1",
    "u16": "<u2",
    "u32": "<u4",
    "u64": "<u8",
    "s8": "i1",
    "s16": "<i2",
    "s32": "<i4",
    "s64": "<i8",
    "f16": "<f2",
    "f32": "<f4",
    "f64": "<f8",
    "c64": "<c8",
    "c128": "<c16",
}
_SIZES = {name: int(code[-1]) for name, code in _NUMPY_NAMES.items() if name not in ("bool", "c128")}
_SIZES |= {"bool": 1, "bf16": 2, "c128": 16}
_WIRE_NAMES = {
    ("b", 1): "bool",
    ("u", 1): "u8",
    ("u", 2): "u16",
    ("u", 4): "u32",
    ("u", 8): "u64",
    ("i", 1): "s8",
    ("i", 2): "s16",
    ("i", 4): "s32",
    ("i", 8): "s64",
    ("f", 2): "f16",
    ("f", 4): "f32",
    ("f", 8): "f64",
    ("c", 8): "c64",
    ("c", 16): "c128",
}
# numpy makes arrays of this size where they are sent from.
LARGE = 128 << 10
# Their `__array__` would lose names, index or nulls: they are tables, not tensors.
_TABLES = frozenset({"pandas", "polars", "pyarrow"})

_dtypes: dict[str, Any] = {}
_wire: dict[Any, tuple[str, Any]] = {}


def install(package: str) -> str:
    """How an error message says what is missing."""
    return f": run `mix snakepit.setup --with {package}`, or install it there"


def numpy_for(what: str) -> Any:
    """numpy, or a refusal which says that it is missing."""
    try:
        import numpy
    except ImportError:
        raise Refusal(
            "missing_numpy", f"{what} needs numpy, which {sys.executable} does not have{install('numpy')}"
        ) from None
    return numpy


def dtype_of(name: Any) -> Any:
    """The numpy dtype for a dtype of the protocol."""
    found = _dtypes.get(name) if type(name) is str else None
    if found is None:
        if type(name) is not str or name not in _SIZES:
            raise Refusal("bad_tensor", f"unknown tensor type {name!r}")
        numpy = numpy_for("a tensor")
        if name == "bf16":
            try:
                import ml_dtypes
            except ImportError:
                message = f"a bf16 tensor needs ml_dtypes, which {sys.executable} does not have{install('ml_dtypes')}"
                raise Refusal("missing_ml_dtypes", message) from None
            found = numpy.dtype(ml_dtypes.bfloat16)
        else:
            found = numpy.dtype(_NUMPY_NAMES[name])
        _dtypes[name] = found
    return found


class Layout:
    """Element type and shape of an incoming tensor."""

    __slots__ = ("_dtype", "_name", "_needed", "_shape")

    def __init__(self, dtype_name: Any, shape: Any) -> None:
        self._dtype = dtype_of(dtype_name)
        if type(shape) is not list or len(shape) > MAX_DIMS:
            raise Refusal("bad_tensor", f"a tensor's shape must be a list of at most {MAX_DIMS} sizes")
        count = 1
        for size in shape:
            if type(size) is not int or size < 0:
                raise Refusal("bad_tensor", f"a tensor's sizes must be integers from 0, got {size!r}")
            count *= size
        self._name = dtype_name
        self._shape = shape
        self._needed = count * _SIZES[dtype_name]

    def parts(self) -> tuple[Any, list[int], int, Any]:
        """Its dtype and shape, the bytes that it takes, and `numpy.frombuffer`: enough to do the same as `over`."""
        return self._dtype, self._shape, self._needed, sys.modules["numpy"].frombuffer

    def over(self, data: Any) -> Any:
        """A read-only array over these bytes, without a copy.

        Nobody can make it writable: `frombuffer` keeps the view that it is given, which is read-only, where the
        constructor of `ndarray` would keep what that is a view of.
        """
        if type(data) is not memoryview and type(data) is not bytes:
            raise Refusal("bad_tensor", "a tensor's data must be bytes")
        if len(data) != self._needed:
            words = f"a {self._name} tensor of shape {self._shape} takes {self._needed} B, got {len(data)}"
            raise Refusal("bad_tensor", words)
        numpy = sys.modules["numpy"]
        try:
            flat = numpy.frombuffer(data, self._dtype) if self._needed else numpy.empty(0, self._dtype)
            array = flat.reshape(self._shape)
        except (ValueError, OverflowError) as error:
            raise Refusal("bad_tensor", f"numpy cannot hold a tensor of shape {self._shape}: {error}") from None
        if array.flags.writeable:
            array.setflags(write=False)
        return array


def wire_dtype(array: Any) -> tuple[str, Any]:
    """The protocol's name for an array's dtype, and the little-endian dtype it travels as."""
    dtype = array.dtype
    found = _wire.get(dtype)
    if found is None:
        name = _WIRE_NAMES.get((dtype.kind, dtype.itemsize))
        if dtype.name == "bfloat16":
            name = "bf16"
        if name is None or dtype.subdtype is not None:
            message = f"an array of dtype {dtype} has no counterpart"
            raise Refusal("unsupported_dtype", message, f"numpy.ndarray[{dtype}]", ("array", array))
        found = _wire[dtype] = (name, dtype.newbyteorder("<"))
    return found


def is_array(kind: type) -> bool:
    """Whether this is numpy's array itself."""
    return kind is getattr(sys.modules.get("numpy"), "ndarray", None)


def copy_into(array: Any, dtype: Any, target: memoryview) -> None:
    """Writes an array's elements to `target` in C order, as this dtype (`None`: its own)."""
    numpy = sys.modules["numpy"]
    numpy.copyto(numpy.ndarray(array.shape, dtype or array.dtype, target), array)


def flat(array: Any, dtype: Any) -> memoryview:
    """The bytes of an array's elements in C order, as this dtype (`None`: its own). Copied if they lie otherwise."""
    numpy = sys.modules["numpy"]
    if array.size == 0:
        return memoryview(b"")
    contiguous = numpy.ascontiguousarray(array, dtype or array.dtype)
    return memoryview(contiguous.reshape(-1).view(numpy.uint8))


def as_array(value: Any) -> Any:
    """The value as a numpy array if it is one or offers itself as one; else `None`."""
    numpy = sys.modules.get("numpy")
    kind = type(value)
    if numpy is not None and isinstance(value, numpy.ndarray):
        if kind is numpy.ndarray:
            return value
        if kind is numpy.memmap:
            return value.view(numpy.ndarray)
        message = f"{a_type(kind)} is more than its numbers"
        raise Refusal("unsupported_type", message, type_name(kind), ("array of another class", value))
    if isinstance(value, type) or str(kind.__module__).partition(".")[0] in _TABLES:
        return None
    offers = hasattr(kind, "__dlpack__"), hasattr(kind, "__array__")
    if not any(offers):
        return None
    numpy = numpy_for(a_type(kind))
    failure: Exception | None = None
    for convert, offered in zip((numpy.from_dlpack, numpy.asarray), offers, strict=True):
        try:
            array = convert(value) if offered else None
        except Exception as error:
            failure = error
        else:
            if type(array) is numpy.ndarray:
                return array
    words = f"{type_name(kind)} does not turn into an array: {failure and text_of(failure)}"
    raise Refusal("unsupported_type", words, type_name(kind), ("tensor", value))


def scalar(value: Any) -> Any:
    """The Python value that equals a numpy scalar; `None` if it is no numpy scalar."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return None
    if value.dtype.kind in "biufSU":
        plain = value.item()
        if type(plain) in (bool, int, float, bytes, str):
            return plain
    kind = type(value)
    raise Refusal("unsupported_type", f"{a_type(kind)} cannot cross", type_name(kind), ("scalar", value))
