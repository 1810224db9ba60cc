"""The fields of classes that are made of a map: `TypedDict`, dataclasses, attrs, `NamedTuple`."""

from __future__ import annotations

import typing
from typing import Any, NamedTuple


class Unusable(Exception):
    """An annotation by which no argument can be checked. Its text says why."""


class NothingFits(Unusable):
    """An annotation of a class of which nothing that Elixir sends is one."""


class Unresolved(Unusable):
    """An annotation with a name that does not exist when the module runs."""


class Field(NamedTuple):
    annotation: Any
    required: bool


def fields_of(kind: Any) -> dict[str, Field] | None:
    """By the names that a caller gives them; `None` of a class that is no such class. Raises `Unusable`."""
    if not isinstance(kind, type):
        return None
    if issubclass(kind, dict) and hasattr(kind, "__required_keys__"):
        # Also of `typing_extensions`, whose class is another.
        required = kind.__required_keys__
        said = {name: _said(hint) for name, hint in _hints(kind, include_extras=True).items()}
        return {
            name: Field(hint, name in required if said[name] is None else bool(said[name]))
            for name, hint in _hints(kind).items()
        }
    if is_named_tuple(kind):
        hints, defaults = _hints(kind), kind._field_defaults  # type: ignore[attr-defined]
        return {name: Field(hints.get(name, Any), name not in defaults) for name in kind._fields}  # type: ignore[attr-defined]
    if "__dataclass_fields__" in vars(kind):
        return _of_dataclass(kind)
    if "__attrs_attrs__" in vars(kind):
        return _of_attrs(kind)
    return None


def is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and isinstance(getattr(kind, "_field_defaults", None), dict)


def _of_dataclass(kind: Any) -> dict[str, Field]:
    import dataclasses

    if not kind.__dataclass_params__.init:
        raise Unusable(f"{kind.__qualname__} has an __init__ of its own, so that its fields are not what it is made of")
    hints = _hints(kind)
    found = {}
    for name, field in kind.__dataclass_fields__.items():
        hint = hints.get(name, Any)
        if field._field_type is dataclasses._FIELD_CLASSVAR or not field.init:  # type: ignore[attr-defined]
            continue
        if isinstance(hint, dataclasses.InitVar):
            hint = hint.type
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        found[name] = Field(hint, required)
    return found


def _of_attrs(kind: Any) -> dict[str, Field]:
    hints = _hints(kind)
    found = {}
    for attribute in kind.__attrs_attrs__:
        if attribute.init:
            # The annotation is that of the converter's result, not of the argument.
            hint = Any if attribute.converter is not None else hints.get(attribute.name, Any)
            name = getattr(attribute, "alias", None) or attribute.name.lstrip("_")
            found[name] = Field(hint, getattr(attribute.default, "name", None) == "NOTHING")
    return found


def _said(hint: Any) -> bool | None:
    """Whether a field of a `TypedDict` must be there, if it says so. The class itself does not see what is quoted."""
    while True:
        origin = typing.get_origin(hint)
        if origin is typing.Required or origin is typing.NotRequired:
            return origin is typing.Required
        if origin is typing.Annotated:
            hint = hint.__origin__
        elif getattr(origin, "_name", None) == "ReadOnly":
            hint = typing.get_args(hint)[0]
        else:
            return None


def _hints(kind: type, include_extras: bool = False) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=include_extras)
    except NameError as error:
        raise Unresolved(f"{_missing(error)}, of which {kind.__qualname__} has a field") from None
    except Exception as error:
        words = f"the annotations of {kind.__qualname__} cannot be read: {type(error).__name__}: {error}"
        raise Unusable(words) from None


def _missing(error: NameError) -> str:
    return f"the name {error.name!r} is not defined when the module runs"


def substituted(annotation: Any, given: dict[Any, Any]) -> Any:
    """The annotation with types in the place of its type variables."""
    if not given:
        return annotation
    if isinstance(annotation, typing.TypeVar):
        return given.get(annotation, annotation)
    free = getattr(annotation, "__parameters__", None)
    if isinstance(annotation, type) or not free or not isinstance(free, tuple):
        return annotation
    return annotation[tuple(given.get(variable, variable) for variable in free)]


def parameters_of(generic: Any, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """The arguments that a generic class's or alias's type variables stand for."""
    free = getattr(generic, "__parameters__", None) or getattr(generic, "__type_params__", None) or ()
    return dict(zip(free, arguments, strict=False))


def unaliased(annotation: Any) -> Any:
    """The value of a name that `type X = …` gave, in which it may be again; `None` of everything else."""
    if type(annotation).__name__ == "TypeAliasType":
        return _value_of(annotation)
    origin = typing.get_origin(annotation)
    if type(origin).__name__ == "TypeAliasType":
        return substituted(_value_of(origin), parameters_of(origin, typing.get_args(annotation)))
    return None


def _value_of(alias: Any) -> Any:
    return resolve(alias, alias.__name__, alias.__value__)


def alias_key(annotation: Any) -> Any:
    return id(typing.get_origin(annotation) or annotation), str(typing.get_args(annotation))


def resolve(function: Any, name: str, annotation: Any) -> Any:
    """An annotation whose names, and those inside of it, are evaluated. Raises `Unresolved`."""
    import sys
    import types

    module = sys.modules.get(getattr(function, "__module__", ""), None)
    names = getattr(function, "__globals__", None) or getattr(module, "__dict__", {})
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)[name]
    except NameError as error:
        raise Unresolved(_missing(error)) from None
    except Exception as error:
        raise Unusable(f"it cannot be read: {type(error).__name__}: {error}") from None
