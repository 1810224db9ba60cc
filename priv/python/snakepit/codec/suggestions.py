"""The expression to return instead of a value that cannot cross.

A suggestion is "return" and an expression of the value `x`. A caller that knows the value's type can make all of the
value again from the result. A suggestion that loses something says what, after ", which".
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .library_suggestions import library_suggestion, suggestion_for_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from .library_suggestions import Crosses

_FIELDS = "return {name: x[name] for name in x.dtype.names}"


def suggestion(about: tuple[str, Any], crosses: Crosses) -> str | None:
    """`return …`, where something is known that would do. `about`: what a value is, and the value (`Refusal`)."""
    what, value = about
    if what == "tensor":
        return suggestion_for_tensor(value, crosses)
    if what == "value":
        return _for_value(value, crosses)
    return {"array": _for_array, "array of another class": _for_subclass, "scalar": _for_scalar}[what](value)


def _for_value(value: Any, crosses: Crosses) -> str | None:
    if isinstance(value, type):
        return None
    known, found = library_suggestion(value, crosses)
    if known:
        return found
    for module, name, choice in _OF_MODULES:
        if module in sys.modules and isinstance(value, getattr(sys.modules[module], name)):
            return choice if isinstance(choice, str) else choice(value)
    if hasattr(type(value), "__dataclass_fields__"):
        return "return dataclasses.asdict(x)"
    if isinstance(value, complex):
        return "return (x.real, x.imag)"
    if isinstance(value, tuple):
        return _of_tuple(value)
    if isinstance(value, BaseException):
        return "return repr(x), which makes text of it"
    return _of_abstract(value)


def _of_abstract(value: Any) -> str | None:
    """The suggestion for a container of any kind, or for an iterator."""
    import collections.abc as abstract

    if isinstance(value, abstract.Set):
        return "return set(x)" if isinstance(value, (set, frozenset)) else "return list(x)"
    if isinstance(value, abstract.Mapping):
        return "return dict(x)"
    if isinstance(value, abstract.Iterator):
        # These have no end.
        endless = type(value).__module__ == "itertools" and type(value).__name__ in ("count", "cycle", "repeat")
        return None if endless or type(value).__module__ in ("_io", "io") else "return list(x)"
    return "return list(x)" if isinstance(value, (abstract.Sequence, abstract.ValuesView)) else None


def _of_tuple(value: Any) -> str:
    kind = type(value)
    if isinstance(getattr(kind, "_fields", None), tuple) and hasattr(kind, "_asdict"):
        return "return x._asdict()"
    if getattr(kind, "n_fields", 0) > getattr(kind, "n_sequence_fields", 0):
        # As the results of `os.stat` and `time.localtime`.
        return "return tuple(x), which leaves out the fields that are attributes only"
    return "return tuple(x)"


def _of_path(value: Any) -> str:
    try:
        str(value).encode("utf-8")
    except UnicodeEncodeError:
        return "return os.fsencode(x)"
    return "return str(x)"


# Classes of modules that may never have been imported; then no value is of theirs.
_OF_MODULES: list[tuple[str, str, str | Callable[[Any], str]]] = [
    ("enum", "Enum", "return x.value"),
    ("uuid", "UUID", "return str(x)"),
    ("pathlib", "PurePath", _of_path),
    ("datetime", "timedelta", "return x // datetime.timedelta(microseconds=1)"),
    ("fractions", "Fraction", "return x.as_integer_ratio()"),
    # Their subclasses: what is one itself crosses.
    ("datetime", "datetime", "return datetime.datetime(*x.timetuple()[:6], x.microsecond, x.tzinfo, fold=x.fold)"),
    ("datetime", "date", "return datetime.date(x.year, x.month, x.day)"),
    ("datetime", "time", "return datetime.time(x.hour, x.minute, x.second, x.microsecond)"),
    ("decimal", "Decimal", "return decimal.Decimal(x)"),
    ("io", "BytesIO", "return x.getvalue()"),
    ("io", "StringIO", "return x.getvalue()"),
    ("array", "array", "return (x.typecode, x.tolist())"),
    ("mmap", "mmap", "return x[:]"),
    ("ctypes", "Array", "return list(x)"),
    ("collections", "UserString", "return str(x)"),
    ("ipaddress", "_IPAddressBase", "return str(x)"),
    ("re", "Pattern", "return x.pattern, which leaves out its flags"),
    ("types", "SimpleNamespace", "return vars(x)"),
    ("argparse", "Namespace", "return vars(x)"),
    ("zoneinfo", "ZoneInfo", "return str(x)"),
]


def _for_array(array: Any) -> str | None:
    """The suggestion for a numpy array whose type of elements has no counterpart."""
    dtype = array.dtype
    if dtype.names is not None:
        return _FIELDS
    if dtype.type.__module__ == "ml_dtypes":
        # Each fits whole into a larger type of its family.
        return next((f'return x.astype("{to}")' for name, to in _LARGER.items() if dtype.name.startswith(name)), None)
    if dtype.kind in "mM":
        return 'return (x.astype("int64"), str(x.dtype))'
    if dtype.kind in "OSUTV":
        return "return x.tolist()" if array.size else "return (x.tolist(), x.shape)"
    return {"f": 'return x.astype("float64"), which rounds', "c": 'return x.astype("complex128"), which rounds'}.get(
        dtype.kind
    )


_LARGER = {"float": "float32", "complex": "complex64", "bcomplex": "complex64", "int": "int8", "uint": "int8"}


def _for_scalar(value: Any) -> str | None:
    """The suggestion for a numpy scalar."""
    dtype = value.dtype
    if dtype.names is not None:
        return _FIELDS
    if dtype.type.__module__ == "ml_dtypes":
        if "complex" in dtype.name:
            return 'return numpy.asarray(x, "complex64")'
        return "return float(x)" if "float" in dtype.name else "return int(x)"
    return {
        "m": 'return (x.astype("int64"), str(x.dtype))',
        "M": 'return (x.astype("int64"), str(x.dtype))',
        "f": "return float(x), which rounds",
        "c": "return numpy.asarray(x)"
        if dtype.itemsize <= 16
        else 'return numpy.asarray(x, "complex128"), which rounds',
        "V": "return x.tobytes()",
    }.get(dtype.kind)


def _for_subclass(array: Any) -> str:
    """The suggestion for an array whose class adds something to its numbers."""
    numpy = sys.modules["numpy"]
    if isinstance(array, numpy.ma.MaskedArray):
        return 'return {"data": x.data, "mask": numpy.ma.getmaskarray(x), "fill_value": numpy.asarray(x.fill_value)}'
    if array.dtype.names is not None:
        return _FIELDS
    if isinstance(array, numpy.matrix):
        return "return numpy.asarray(x)"
    return "return numpy.asarray(x), which leaves out what its type adds to the numbers"
