"""Classes that do not arrive, and are made of what does: what a parameter annotated with them is given.

An argument is the value that the suggestion for returning such an object names: the value of an `Enum`, the fields of a
dataclass, the text of a path. Each `Check` here says what it takes, and makes it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..support.errors import cut, did_you_mean, text_of, type_name
from ..support.paths import step
from .adapt import BYTES, adapt
from .checks import BYTES as BYTES_ARRIVING
from .checks import Check, Mismatch, Unmade, short, shown
from .fields import NothingFits, is_named_tuple

if TYPE_CHECKING:
    from .annotations import Builder


def conversion(builder: Builder, kind: type, arguments: tuple[Any, ...]) -> Check | None:
    """The check of a class of values that are made of others; `None` of any other class."""
    enum = sys.modules.get("enum")
    if enum is not None and issubclass(kind, enum.Enum):
        return _enum(builder, kind)
    if _is_model(kind):
        return _model(builder, kind)
    known = _KNOWN.get((_public(kind.__module__), kind.__qualname__))
    if known is not None:
        return known(builder, kind, arguments)
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic):
        return _numpy_scalar(builder, kind, numpy)
    return None


def _public(module: str) -> str:
    """Where a class is imported from. Python moved some into modules of their own."""
    return {"_decimal": "decimal", "pathlib._local": "pathlib", "zoneinfo._zoneinfo": "zoneinfo"}.get(module, module)


def _made(kind: Any, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """As `make`, whose exceptions are the caller's: the user's own code may check a value."""

    def convert(value: Any) -> Any:
        try:
            return make(value)
        except Unmade:
            raise
        except Exception as error:
            raise Unmade(
                "", f"no {kind.__name__} can be made of it: {type(error).__name__}: {text_of(error)}"
            ) from None

    return convert


# ---- enums -----------------------------------------------------------------------------------------------------------


def _enum(builder: Builder, kind: Any) -> Check:
    members = list(kind)
    values = {(type(member.value), _hashable(member.value)): member for member in members}
    kinds = {type(member.value) for member in members}
    if members and not kinds & _SENT:
        raise NothingFits(f"the values of {kind.__name__} cannot be sent")
    # Flags are made of others, and `_missing_` may know more values.
    open_ended = issubclass(kind, sys.modules["enum"].Flag) or "_missing_" in _own(kind)
    some = " | ".join(repr(member.value) for member in members[:8]) + (" | …" if len(members) > 8 else "")

    def member_of(value: Any) -> Any:
        value = _without_views(value)
        found = values.get((type(value), _hashable(value)))
        if found is None and (open_ended or type(value) not in _PLAIN) and type(value) in kinds:
            found = kind(value)
        if found is None:
            raise Unmade("", refused(value))
        return found

    def refused(value: Any) -> str:
        named = kind.__members__.get(value) if type(value) is str else None
        suggestion = f": that is a name, send its value {named.value!r}" if named is not None else ""
        return f"expected a value of {kind.__name__} ({some}), got {short(value)}{suggestion}"

    def slow(value: Any) -> Mismatch | None:
        try:
            member_of(value)
        except Exception:
            return "", refused(value)
        return None

    return Check(kind.__name__, (), slow, builder.converting(member_of))


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_SENT = _PLAIN | {tuple, list, dict, set}


def _own(kind: type) -> set[str]:
    """Names that a class, or one it is made of, defines, the library's own left out."""
    return {name for base in kind.__mro__ if base.__module__ != "enum" for name in vars(base)}


def _without_views(value: Any) -> Any:
    """The value with `bytes` where bytes arrive as views: these have no hash where the memory below can change."""
    if type(value) in BYTES_ARRIVING:
        return bytes(value)
    return tuple(map(_without_views, value)) if type(value) is tuple else value


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


# ---- fields ----------------------------------------------------------------------------------------------------------


def of_fields(
    builder: Builder, kind: type, whole: Check, checks: dict[str, Check | None], required: frozenset[str]
) -> Check:
    """A map with these fields; of any class but a `TypedDict`, that is made of them."""
    name = kind.__name__
    order = list(checks)

    def slow(value: Any) -> Mismatch | None:
        if type(value) is not dict:
            return "", f"expected a map with the fields {', '.join(order) or '(none)'} of {name}, got {shown(value)}"
        for field, item in value.items():
            try:
                check = checks[field]
            except KeyError:
                return step(field), f"{name} has no such field{did_you_mean(str(field), order)}"
            if check is not None and type(item) not in check.kinds:
                mismatch = check.slow(item)
                if mismatch is not None:
                    return step(field) + mismatch[0], mismatch[1]
        if not required <= value.keys():
            return "", f"{name} misses {', '.join(field for field in order if field in required - value.keys())}"
        return None

    whole.slow = slow
    makes = {field: make for field, check in checks.items() if (make := builder.later(check)) is not None}

    def made_of(value: Any) -> dict[str, Any]:
        made = dict(value)
        for field, make in makes.items():
            if field in made:
                try:
                    made[field] = make(made[field])
                except Unmade as error:
                    raise Unmade(step(field) + error.path, error.words, error.reason) from None
        return made

    if issubclass(kind, dict):
        whole.convert = made_of if makes else None
        return whole
    whole.convert = builder.converting(_made(kind, lambda value: kind(**made_of(value))))
    if not is_named_tuple(kind):
        return whole
    in_order = builder.places(list(checks.values()), name)
    make = in_order.convert
    in_order.convert = _made(kind, lambda value: kind(*(make(value) if make else value)))
    either = builder.union([whole, in_order])
    either.name = name
    # Says what is wrong with a tuple, or with a map.
    either.slow = lambda value: in_order.slow(value) if type(value) is tuple else slow(value)
    return either


# ---- pydantic --------------------------------------------------------------------------------------------------------


def _is_model(kind: Any) -> bool:
    models = [sys.modules.get(module) for module in ("pydantic.main", "pydantic.v1.main")]
    return any(issubclass(kind, model.BaseModel) for model in models if model is not None)


def _model(builder: Builder, kind: Any) -> Check:
    """A model checks its fields itself, once, when it is made."""
    validate = getattr(kind, "model_validate", None) or kind.parse_obj

    def convert(value: Any) -> Any:
        try:
            # It has no idea of views.
            return validate(adapt(value, None, False, BYTES))
        except Exception as error:
            path, words = _complaint(error)
            raise Unmade(path, words) from None

    whole = Check(kind.__name__, {dict})
    whole.convert = builder.converting(convert)
    return whole


def _complaint(error: Any) -> tuple[str, str]:
    """Where, and what, of the first that a model did not like."""
    try:
        found = error.errors()
        first = found[0]
        words = cut(first["msg"]) + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
        return "".join(map(step, first["loc"])), words
    except Exception:
        return "", f"{type(error).__name__}: {text_of(error)}"


# ---- the standard library's, and numpy's -----------------------------------------------------------------------------


def _of(name: str, kinds: set[type], make: Callable[[Any, Any], Any]) -> Callable[..., Check]:
    """A class that is made of values of these types."""

    def check(builder: Builder, kind: type, _arguments: tuple[Any, ...]) -> Check:
        whole = Check(f"{name} of {type_name(kind)}", kinds)
        whole.convert = builder.converting(_made(kind, lambda value: make(kind, value)))
        return whole

    return check


def _path(kind: Any, value: Any) -> Any:
    import os

    return kind(value if type(value) is str else os.fsdecode(bytes(value)))


def _any_path(_kind: Any, value: Any) -> Any:
    import pathlib

    return _path(pathlib.Path, value)


def _numbers(*wanted: type) -> Callable[..., Check]:
    """A class that is made of a number, or of a tuple of two of them."""

    def check(builder: Builder, kind: Any, _arguments: tuple[Any, ...]) -> Check:
        one = Check("/".join(each.__name__ for each in wanted), wanted)
        pair = builder.places([one, one])
        either = builder.union([one, pair])
        either.name = f"{pair.name}, or {one.name}, of {type_name(kind)}"
        make = _made(kind, lambda value: kind(*value) if type(value) is tuple else kind(value))
        either.convert = builder.converting(make)
        return either

    return check


def _container(sent: type, made: Callable[[Any], Any] | None = None) -> Callable[..., Check]:
    """A class that is made of a list, a set or a map, whose items are checked as those are."""

    def check(builder: Builder, kind: Any, arguments: tuple[Any, ...]) -> Check:
        if kind.__qualname__ == "Counter" and arguments:
            arguments = (*arguments, int)
        annotation = sent if not arguments else types.GenericAlias(sent, arguments)
        inner = builder.check(annotation)
        assert inner is not None
        make = builder.later(inner)
        whole = Check(inner.name, inner.kinds, inner.slow, takes=inner.taken())
        convert = _made(kind, lambda value: kind(value if make is None else make(value)))
        whole.convert = builder.converting(convert)
        return whole

    return check


def _zone(kind: Any, value: Any) -> Any:
    from ..codec.datetimes import zone_of

    return zone_of(value)


_MICROSECONDS = "int (microseconds)"
_KNOWN: dict[tuple[str, str], Callable[..., Check]] = {
    **{
        ("pathlib", name): _of("str (the text)", {str, bytes, memoryview, bytearray}, _path)
        for name in ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    },
    ("os", "PathLike"): _of("str (the text)", {str, bytes, memoryview, bytearray}, _any_path),
    ("uuid", "UUID"): _of("str (the text)", {str}, lambda kind, value: kind(value)),
    ("datetime", "timedelta"): _of(_MICROSECONDS, {int}, lambda kind, value: kind(microseconds=value)),
    ("zoneinfo", "ZoneInfo"): _of("str (the key)", {str}, _zone),
    ("builtins", "complex"): _numbers(float, int),
    ("fractions", "Fraction"): _numbers(int),
    ("builtins", "frozenset"): _container(set),
    ("collections", "deque"): _container(list),
    ("collections", "OrderedDict"): _container(dict),
    ("collections", "Counter"): _container(dict),
}


def _numpy_scalar(builder: Builder, kind: Any, numpy: Any) -> Check:
    whole = Check(type_name(kind), ())
    if issubclass(kind, numpy.bool_):
        whole.kinds = frozenset({bool})
    elif issubclass(kind, numpy.str_):
        whole.kinds = frozenset({str})
    elif issubclass(kind, numpy.floating) and kind is not numpy.floating:
        whole.kinds = frozenset({float, int})
    elif issubclass(kind, numpy.integer) and kind not in (numpy.integer, numpy.signedinteger, numpy.unsignedinteger):
        info = numpy.iinfo(kind)

        def slow(value: Any) -> Mismatch | None:
            if type(value) is not int:
                return "", f"expected int of {whole.name}, got {shown(value)}"
            if not info.min <= value <= info.max:
                return "", f"expected {info.min} to {info.max} of {whole.name}, got {short(value)}"
            return None

        whole.slow = slow
    else:
        raise NothingFits(f"nothing that Elixir sends is a {type_name(kind)}")
    whole.convert = builder.converting(_made(kind, kind))
    return whole
