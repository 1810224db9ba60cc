"""Turns a parameter's annotation into a check of the argument, once, when the tool is registered.

A check has the exact types that pass at once, and a function for everything else, which returns `None` or where (a path
suffix) and what was wrong. Where the annotation is a class of another kind than what arrives (`conversions`), it has a
function as well which makes the tool's value of one that passed. An annotation by which nothing can be checked is
`Unusable`.
"""

from __future__ import annotations

import datetime
import types
import typing
from collections.abc import Callable
from typing import Any

from ..support.errors import type_name
from ..support.paths import step
from .adapt import is_buffer, plain
from .checks import BYTES, Check, Mismatch, Unmade, seen, short
from .fields import NothingFits, Unusable, alias_key, fields_of, parameters_of, substituted, unaliased

_EXACT: dict[Any, tuple[str, set[type]]] = {
    int: ("int", {int}),
    float: ("float", {float, int}),
    str: ("str", {str}),
    typing.LiteralString: ("str", {str}),
    bool: ("bool", {bool}),
    bytes: ("bytes", BYTES),
    bytearray: ("bytes", BYTES),
    memoryview: ("bytes", BYTES),
    None: ("None", {type(None)}),
    type(None): ("None", {type(None)}),
    list: ("list", {list}),
    tuple: ("tuple", {tuple}),
    dict: ("dict", {dict}),
    set: ("set", {set}),
    datetime.date: ("datetime.date", {datetime.date, datetime.datetime}),
    datetime.time: ("datetime.time", {datetime.time}),
    datetime.datetime: ("datetime.datetime", {datetime.datetime}),
}
# The types that arrive from Elixir without another module.
_ARRIVING = frozenset(
    {
        *(type(None), bool, int, float, str, bytes, memoryview, list, tuple, dict, set),
        *(datetime.date, datetime.time, datetime.datetime),
    }
)


# The types with values inside: a union that may be inside of itself remembers its verdicts on them.
_WITH_ITEMS = frozenset({list, tuple, dict, set})
_WITHOUT_HASH = frozenset({list, dict, set})


def check_for(annotation: Any) -> Check | None:
    """The check for an annotation; `None` where it allows everything. Raises `Unusable`."""
    builder = Builder()
    check = builder.check(annotation)
    if check is not None and not builder.converts:
        # One that is inside of itself cannot know it earlier.
        check.convert = None
    return check


class Builder:
    """Makes the checks of one annotation and of what is inside of it."""

    def __init__(self) -> None:
        # Annotations that may be inside of themselves.
        self._above: dict[Any, Check] = {}
        # Whether anything is made of values, anywhere inside.
        self.converts = False
        # Whether anything is inside of itself.
        self.recursive = False

    def check(self, annotation: Any) -> Check | None:
        if _is_array_like(annotation):
            return None
        alias = unaliased(annotation)
        if alias is not None:
            return self._named(annotation, alias)
        annotation = plain(annotation)
        if annotation is Any or annotation is object:
            return None
        if type(annotation).__name__ == "_TupleType":
            # `typing.Tuple` alone; `tuple[()]` is an empty one.
            return Check("tuple", {tuple})
        if isinstance(annotation, typing.TypeVar):
            return self._variable(annotation)
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        try:
            exact = _EXACT.get(annotation if origin is None or arguments or origin is tuple else origin)
        except TypeError:
            raise Unusable("it is no type") from None
        if exact is not None:
            return Check(*exact)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments)
        if origin is typing.Literal:
            return _literal(arguments)
        if origin in (list, set):
            return self._sequence(origin, arguments[0])
        if origin is tuple:
            return self._tuple(arguments)
        if origin is dict:
            return self._dict(dict, *arguments)
        if is_buffer(annotation):
            return _buffer()
        return self._class(origin or annotation, arguments)

    def converting(self, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
        self.converts = True
        return convert

    def _named(self, annotation: Any, value: Any) -> Check | None:
        """A name that `type X = …` gave, which may be in its own value."""
        key = alias_key(annotation)
        known = self._above.get(key)
        if known is not None:
            self.recursive = True
            return known
        check = self._above[key] = Check(str(annotation), ())
        check.slow = lambda value: None
        inner = self.check(value)
        del self._above[key]
        if inner is None:
            check.slow = lambda value: None
        else:
            check.name, check.kinds, check.slow = inner.name, inner.kinds, inner.slow
            check.takes = inner.taken()
            # Set for those who have it already.
            check.convert = inner.convert
        return inner

    def later(self, check: Check | None) -> Callable[[Any], Any] | None:
        """How values of a check are converted, which may not be known yet."""
        if check is None:
            return None
        if check.convert is None and check not in self._above.values():
            return None
        return lambda value: check.convert(value) if check.convert is not None else value

    def _variable(self, variable: Any) -> Check | None:
        if variable.__constraints__:
            return self._union(variable.__constraints__)
        return None if variable.__bound__ is None else self.check(variable.__bound__)

    def _union(self, members: tuple[Any, ...]) -> Check | None:
        checks, why = [], None
        for member in members:
            try:
                check = self.check(member)
            except NothingFits as error:
                why = error
                continue
            if check is None:
                return None
            checks.append(check)
        if why and not any(check.kinds != {type(None)} for check in checks):
            raise why
        return self.union(checks)

    def union(self, checks: list[Check]) -> Check:
        """The first that a value fits is what it is taken for."""
        kinds = {kind for check in checks for kind in check.kinds}
        taken = [check.taken() for check in checks]
        takes = None if None in taken else frozenset[type]().union(*(types or () for types in taken))
        whole = Check(" | ".join(check.name for check in checks), kinds, takes=takes)
        # The places of those that a value of a type may fit.
        by_type: dict[type, list[int]] = {}

        def candidates(value: Any) -> list[int]:
            kind = type(value)
            try:
                return by_type[kind]
            except KeyError:
                taken = [check.taken() for check in checks]
                by_type[kind] = [n for n, types in enumerate(taken) if types is None or kind in types]
                return by_type[kind]

        def slow(value: Any) -> Mismatch | None:
            places = candidates(value)
            remembers = self.recursive and len(places) > 1 and type(value) in _WITH_ITEMS
            if remembers:
                known = seen.found.get((id(whole), id(value)))
                if known is not None:
                    of_value: Mismatch | None = known[1]
                    return of_value
            deepest = None
            for place in places:
                mismatch = checks[place](value)
                if mismatch is None:
                    deepest = None
                    break
                if mismatch[0]:
                    deepest = deepest or mismatch
            else:
                deepest = deepest or whole.refuse(value)
            if remembers:
                seen.found[id(whole), id(value)] = value, deepest
            return deepest

        whole.slow = slow
        makes = [self.later(check) for check in checks]
        if any(makes):

            def convert(value: Any) -> Any:
                places = candidates(value)
                for place in places:
                    # It passed: where one alone is left, that is the one.
                    if len(places) == 1 or checks[place](value) is None:
                        make = makes[place]
                        return value if make is None else make(value)
                return value

            whole.convert = convert
        return whole

    def _sequence(self, origin: type, element: Any) -> Check:
        inner = self.check(element)
        if inner is None:
            return Check(origin.__name__, {origin})
        if origin is set:
            _refuse_without_hash("set", inner)
        whole = Check(f"{origin.__name__}[{inner.name}]", (), takes={origin})
        whole.slow = lambda value: items_of(value, inner) if type(value) is origin else whole.refuse(value)
        make = self.later(inner)
        if make is not None:
            whole.convert = (
                (lambda value: each(make, value)) if origin is list else (lambda value: set_of([*map(make, value)]))
            )
        return whole

    def _tuple(self, members: tuple[Any, ...]) -> Check:
        if len(members) == 2 and members[1] is Ellipsis:
            inner = self.check(members[0])
            if inner is None:
                return Check("tuple", {tuple})
            whole = Check(f"tuple[{inner.name}, ...]", (), takes={tuple})
            whole.slow = lambda value: items_of(value, inner) if type(value) is tuple else whole.refuse(value)
            make = self.later(inner)
            if make is not None:
                whole.convert = lambda value: tuple(each(make, value))
            return whole
        if any(typing.get_origin(member) is typing.Unpack or _is_unpacked(member) for member in members):
            raise Unusable("a tuple with an unpacked part is not checked")
        return self.places([self.check(member) for member in members])

    def places(self, checks: list[Check | None], made: str | None = None) -> Check:
        """A tuple with a check for each place."""
        name = made or f"tuple[{', '.join('Any' if check is None else check.name for check in checks)}]"
        whole = Check(name, (), takes={tuple})
        makes = [self.later(check) for check in checks]

        def slow(value: Any) -> Mismatch | None:
            if type(value) is not tuple:
                return whole.refuse(value)
            if len(value) != len(checks):
                return "", f"expected {name}, got a tuple of {len(value)}"
            for index, (check, item) in enumerate(zip(checks, value, strict=True)):
                mismatch = check(item) if check is not None else None
                if mismatch is not None:
                    return f"[{index}]{mismatch[0]}", mismatch[1]
            return None

        whole.slow = slow
        if any(makes):
            whole.convert = lambda value: tuple(
                [
                    item if make is None else made_at(f"[{index}]", make, item)
                    for index, (make, item) in enumerate(zip(makes, value, strict=True))
                ]
            )
        return whole

    def _dict(self, origin: type, key: Any, value: Any) -> Check:
        keys, values = self.check(key), self.check(value)
        _refuse_without_hash("dict's key", keys)
        if keys is None and values is None:
            return Check("dict", {dict})
        name = f"dict[{keys.name if keys else 'Any'}, {values.name if values else 'Any'}]"
        whole = Check(name, (), takes={dict})

        def slow(mapping: Any) -> Mismatch | None:
            if type(mapping) is not dict:
                return whole.refuse(mapping)
            if keys is not None and not keys.kinds.issuperset(map(type, mapping)):
                for item_key in mapping:
                    mismatch = keys(item_key)
                    if mismatch is not None:
                        return "", f"a key: {mismatch[1]}"
            if values is not None and not values.kinds.issuperset(map(type, mapping.values())):
                for item_key, item in mapping.items():
                    mismatch = values(item)
                    if mismatch is not None:
                        return step(item_key) + mismatch[0], mismatch[1]
            return None

        whole.slow = slow
        of_keys, of_values = self.later(keys), self.later(values)
        if of_keys or of_values:

            def convert(mapping: Any) -> Any:
                made = [made_at(step(key), of_keys, key) for key in mapping] if of_keys else list(mapping)
                items = mapping.items()
                new = [made_at(step(key), of_values, item) for key, item in items] if of_values else mapping.values()
                try:
                    found = dict(zip(made, new, strict=True))
                except TypeError as error:
                    raise Unmade("", f"no dict can be made of it: {error}") from None
                if len(found) != len(made):
                    raise _collision("two keys", made)
                return found

            whole.convert = convert
        return whole

    def _class(self, kind: Any, arguments: tuple[Any, ...]) -> Check | None:
        from .conversions import conversion

        if not isinstance(kind, type):
            raise Unusable(
                "it is no type" if typing.get_origin(kind) is None and not arguments else "it is not checked"
            )
        by_name = (kind.__module__, kind.__qualname__)
        if by_name == ("numpy", "ndarray"):
            from .array_checks import array_check

            return array_check(kind, arguments)
        if by_name in (("decimal", "Decimal"), ("_decimal", "Decimal")):
            return Check("decimal.Decimal", {kind})
        fields = fields_of(kind)
        if fields is not None:
            given = parameters_of(kind, arguments)
            return self._fields(
                kind, {name: (substituted(field.annotation, given), field.required) for name, field in fields.items()}
            )
        made = conversion(self, kind, arguments)
        if made is not None:
            return made
        return self._abstract(kind, arguments)

    def _fields(self, kind: type, fields: dict[str, tuple[Any, bool]]) -> Check:
        from .conversions import of_fields

        known = self._above.get((kind, str(fields)))
        if known is not None:
            self.recursive = True
            return known
        check = self._above[kind, str(fields)] = Check(kind.__name__, (), takes={dict})
        try:
            checks = {name: self.check(annotation) for name, (annotation, _) in fields.items()}
        finally:
            del self._above[kind, str(fields)]
        return of_fields(self, kind, check, checks, frozenset(name for name, (_, must) in fields.items() if must))

    def _abstract(self, kind: type, arguments: tuple[Any, ...]) -> Check | None:
        """An abstract class, or a protocol that can be looked at: what arrives may be one of it."""
        try:
            kinds = {arriving for arriving in _ARRIVING if issubclass(arriving, kind)}
        except Exception:
            kinds = set()
        if not kinds:
            raise NothingFits(f"nothing that Elixir sends is a {type_name(kind)}")
        name = type_name(kind)
        whole = Check(name, kinds)
        whole.slow = lambda value: None if isinstance(value, kind) else whole.refuse(value)
        inner = [self.check(argument) for argument in arguments if argument is not Ellipsis]
        if not any(inner):
            return whole
        if dict in kinds and list not in kinds and len(inner) == 2:
            return self._dict(dict, *arguments)
        if len(inner) != 1 or inner[0] is None:
            return whole
        return self._of_items(whole, inner[0])

    def _of_items(self, whole: Check, inner: Check) -> Check:
        """The check of a container with items of one kind. A text's or an array's are not looked at one by one."""
        if whole.kinds == {set}:
            _refuse_without_hash("set", inner)
        outer = Check(f"{whole.name}[{inner.name}]", ())

        def slow(value: Any) -> Mismatch | None:
            if whole(value) is not None:
                return outer.refuse(value)
            if type(value) in (list, tuple, set, dict):
                return items_of(value, inner)
            one = "" if type(value) is str else 0 if type(value) in BYTES else None
            return None if one is None or inner(one) is None else outer.refuse(value)

        outer.slow = slow
        make = self.later(inner)
        if make is not None:
            of_kind: dict[type, Callable[[list[Any]], Any]] = {list: list, tuple: tuple, set: set_of}
            outer.convert = lambda value: of_kind[type(value)](each(make, value)) if type(value) in of_kind else value
        return outer


def items_of(value: Any, inner: Check) -> Mismatch | None:
    """The first item that does not fit. Many of one type are looked at at the speed of C."""
    if inner.kinds and inner.kinds.issuperset(map(type, value)):
        return None
    for index, item in enumerate(value):
        mismatch = inner(item)
        if mismatch is not None:
            # A set has no order: its elements have no index.
            return (f"[{index}]{mismatch[0]}" if type(value) in (list, tuple) else "", mismatch[1])
    return None


def each(make: Callable[[Any], Any], items: Any) -> list[Any]:
    return [made_at(f"[{index}]", make, item) for index, item in enumerate(items)]


def made_at(path: str, make: Callable[[Any], Any], value: Any) -> Any:
    try:
        return make(value)
    except Unmade as error:
        raise Unmade(path + error.path, error.words, error.reason) from None


def set_of(made: list[Any]) -> set[Any]:
    """The set of what was made of a set's members: of two that became equal, one would be lost."""
    try:
        found = set(made)
    except TypeError as error:
        raise Unmade("", f"no set can be made of it: {error}") from None
    if len(found) != len(made):
        raise _collision("two members", made)
    return found


def _collision(what: str, made: list[Any]) -> Unmade:
    counts: dict[Any, int] = {}
    for one in made:
        counts[one] = counts.get(one, 0) + 1
    same = next((one for one, count in counts.items() if count > 1), None)
    return Unmade("", f"{what} of it would be the same {type_name(type(same))}", "key_collision")


def _refuse_without_hash(whole: str, inner: Check | None) -> None:
    """Members of a set, and keys, must have a hash as they arrive."""
    types = inner and inner.taken()
    if types and types <= _WITHOUT_HASH:
        raise NothingFits(f"a {' or '.join(sorted(kind.__name__ for kind in types))} cannot be in a {whole}")


def _is_unpacked(member: Any) -> bool:
    return bool(getattr(member, "__unpacked__", False)) or isinstance(member, typing.TypeVarTuple)


def _is_array_like(annotation: Any) -> bool:
    """numpy's own word for whatever an array can be made of, which is a union of many protocols."""
    import sys

    known = sys.modules.get("numpy.typing")
    return known is not None and annotation is getattr(known, "ArrayLike", known)


def _buffer() -> Check:
    """Bytes, or what else has a buffer: an array."""
    whole = Check("bytes or an array", BYTES)
    without = {int, float, bool, str, type(None), list, tuple, dict, set}
    whole.slow = lambda value: whole.refuse(value) if type(value) in without else None
    return whole


def _literal(values: tuple[Any, ...]) -> Check:
    import enum

    given = {value.name: value for value in values if isinstance(value, enum.Enum)}
    if given:
        raise Unusable("members of an Enum do not arrive: annotate it with the Enum, or with the values")
    for value in values:
        if not isinstance(value, (str, int, bytes, types.NoneType)):
            raise Unusable(f"a Literal has text, int, bool, bytes or None, {value!r} is none of these")
    allowed = {(type(value), value) for value in values}
    name = " | ".join(repr(value) for value in values)

    def slow(value: Any) -> Mismatch | None:
        if type(value) is memoryview:
            value = bytes(value)
        if isinstance(value, (str, int, bytes, types.NoneType)) and (type(value), value) in allowed:
            return None
        return "", f"expected {name}, got {short(value)}"

    return Check(name, (), slow)
