"""Gives a tool the bytes in its arguments: as one type for one annotation, whatever their size.

Small bytes arrive in the envelope, large ones as a view of shared memory or of the frame. A parameter annotated `bytes`
gets `bytes` of both, one annotated `bytearray` a `bytearray`; everything else gets a read-only `memoryview`. Members of
a set are `bytes`, because they are looked up. A parameter that the tool may write to gets private copies.
"""

from __future__ import annotations

import types
import typing
from typing import Any

from ..codec.arrays import is_array
from ..codec.validation import PLAIN
from .fields import Field, alias_key, fields_of, parameters_of, substituted, unaliased

VIEW, BYTES, BYTEARRAY = "memoryview", "bytes", "bytearray"
# Neither bytes, nor anything that could have some inside.
_NOTHING = PLAIN | {str}
_CHUNKS = frozenset({bytes, memoryview})


class Plan:
    """The types that one annotation asks for: of a value that is bytes, and of the values inside of a container."""

    __slots__ = ("fields", "items", "kind", "places", "values")

    def __init__(self, kind: str | None = None) -> None:
        self.kind = kind
        self.items: Plan | None = None
        self.places: tuple[Plan | None, ...] | None = None
        self.values: Plan | None = None
        self.fields: dict[str, Plan] = {}


def adapt(value: Any, plan: Plan | None, private: bool = False, usual: str = VIEW) -> Any:
    """The value as the tool is given it. `private`: as a copy that it may write to."""
    kind = type(value)
    if kind in _CHUNKS:
        return _chunk(value, (plan and plan.kind) or usual, private)
    if kind is list:
        if _NOTHING.issuperset(map(type, value)):
            return value
        inner = plan and plan.items
        return [adapt(item, inner, private, usual) for item in value]
    if kind is dict:
        if _NOTHING.issuperset(map(type, value.values())):
            return value
        if plan is not None and plan.fields:
            return {key: adapt(item, plan.fields.get(key), private, usual) for key, item in value.items()}
        inner = plan and plan.values
        return {key: adapt(item, inner, private, usual) for key, item in value.items()}
    if kind is tuple:
        if _NOTHING.issuperset(map(type, value)):
            return value
        inner = plan and plan.items
        places = plan and plan.places
        if places and len(places) == len(value):
            return tuple([adapt(item, place, private, usual) for item, place in zip(value, places, strict=True)])
        return tuple([adapt(item, inner, private, usual) for item in value])
    if kind is set:
        # The decoder made them `bytes`; members that can be written to have no hash.
        return (
            value if plan is None or plan.items is None else {adapt(item, plan.items, False, BYTES) for item in value}
        )
    return value.copy() if private and is_array(kind) else value


def _chunk(value: bytes | memoryview, wanted: str, private: bool) -> Any:
    if wanted is BYTES:
        return value if type(value) is bytes else bytes(value)
    if wanted is BYTEARRAY:
        return bytearray(value)
    if private:
        return memoryview(bytearray(value))
    return value if type(value) is memoryview else memoryview(value)


def plan_for(annotation: Any) -> Plan | None:
    """The plan of an annotation; `None` where it asks for nothing in particular."""
    return _plan(annotation, {})


def _plan(annotation: Any, above: dict[Any, Plan]) -> Plan | None:
    alias = unaliased(annotation)
    if alias is not None:
        return _within(alias_key(annotation), above, lambda: _plan(alias, above))
    annotation = plain(annotation)
    if isinstance(annotation, typing.TypeVar):
        return _merged([_plan(member, above) for member in annotation.__constraints__ or [annotation.__bound__]])
    if annotation is bytes:
        return Plan(BYTES)
    if annotation is bytearray:
        return Plan(BYTEARRAY)
    if annotation is memoryview or is_buffer(annotation):
        return Plan(VIEW)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _merged([_plan(member, above) for member in arguments])
    if origin is typing.Literal:
        return Plan(BYTES) if any(type(value) is bytes for value in arguments) else None
    fields = fields_of(origin or annotation)
    if fields is not None:
        given = parameters_of(origin, arguments)
        key = origin or annotation, str(given)
        return _within(key, above, lambda: _of_fields(fields, given, above))
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        places = tuple(_plan(member, above) for member in arguments)
        return _with(places=places) if any(places) else None
    if isinstance(origin, type) and arguments:
        # The items of a sequence or a set, the values of a mapping. Keys are never bytes.
        inner = _plan(arguments[1] if _is_mapping(origin) else arguments[0], above)
        return inner and (_with(values=inner) if _is_mapping(origin) else _with(items=inner))
    return None


def _with(**inside: Any) -> Plan:
    plan = Plan()
    for name, value in inside.items():
        setattr(plan, name, value)
    return plan


def _within(key: Any, above: dict[Any, Plan], make: Any) -> Plan | None:
    """The plan of what may be inside of itself again."""
    if key in above:
        return above[key]
    plan = above[key] = Plan()
    made = make()
    if made is None:
        return None
    for name in Plan.__slots__:
        setattr(plan, name, getattr(made, name))
    return plan


def _of_fields(fields: dict[str, Field], given: dict[Any, Any], above: dict[Any, Plan]) -> Plan | None:
    plans = [_plan(substituted(field.annotation, given), above) for field in fields.values()]
    if not any(plans):
        return None
    plan = Plan()
    plan.fields = {name: inner for name, inner in zip(fields, plans, strict=True) if inner is not None}
    # A `NamedTuple` may be given as a tuple.
    plan.places = tuple(plans)
    return plan


def _merged(plans: list[Plan | None]) -> Plan | None:
    """One plan for several that a union allows: the view, which copies nothing, else `bytes`."""
    some = [plan for plan in plans if plan is not None]
    if len(some) < 2:
        return some[0] if some else None
    kinds = {plan.kind for plan in some}
    merged = Plan(next((kind for kind in (VIEW, BYTES, BYTEARRAY) if kind in kinds), None))
    merged.items = _merged([plan.items for plan in some])
    merged.values = _merged([plan.values for plan in some])
    merged.places = next((plan.places for plan in some if plan.places), None)
    for plan in some:
        merged.fields = plan.fields | merged.fields
    return merged


def _is_mapping(origin: type) -> bool:
    import collections.abc

    return issubclass(origin, collections.abc.Mapping)


def plain(annotation: Any) -> Any:
    """The annotation without `Annotated`, and without the names that `NewType` and `type` give."""
    for _ in range(16):
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            break
    return annotation


def is_buffer(annotation: Any) -> bool:
    """`Buffer`, which 3.12 and `typing_extensions` have, and `ByteString`, which came before it."""
    kind = typing.get_origin(annotation) or annotation
    if not isinstance(kind, type):
        return False
    return (kind.__module__, kind.__qualname__) in _BUFFERS


_BUFFERS = frozenset(
    {("collections.abc", "Buffer"), ("typing_extensions", "Buffer"), ("collections.abc", "ByteString")}
)
