"""A tool's signature, prepared so that a call's arguments are checked without looking at the function again."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

from ..codec.validation import NOT_BYTES
from ..support.errors import CallError, did_you_mean
from ..support.paths import step
from .adapt import BYTES, Plan, adapt, plan_for
from .annotations import check_for
from .checks import Check, Unmade, seen
from .fields import Unresolved, Unusable, resolve

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD


# By the code of its function: a traceback has no more than that.
by_code: dict[types.CodeType, Tool] = {}


class BadAnnotation(TypeError):
    """A tool has a parameter whose annotation no argument can be checked by."""


class Tool:
    """A function that callers may name, with the checks of its arguments."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        writable: frozenset[str] = frozenset(),
        unchecked: frozenset[str] = frozenset(),
    ) -> None:
        signature = _signature_of(function)
        parameters = signature.parameters.values()
        self.name = name
        self.function = function
        self.signature = _text(signature)
        self.doc = inspect.getdoc(function)
        self.writable = writable
        self.unchecked = unchecked
        self._unwrapped = inspect.unwrap(function)
        rest = next((p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        self.open = rest is not None
        named = [p for p in parameters if p.kind in (_POSITIONAL_ONLY, _PLAIN, _KEYWORD_ONLY)]
        self._refuse_unknown("writable", writable, [p.name for p in named])
        self._refuse_unknown("unchecked", unchecked, [p.name for p in named])
        self.required = frozenset(p.name for p in named if p.default is p.empty)
        self.checks: dict[str, Check | None] = {}
        self._plans: dict[str, Plan | None] = {}
        for parameter in named:
            self.checks[parameter.name], self._plans[parameter.name] = self._understood(parameter)
        # The check and the plan of arguments that have no parameter of their own.
        self._check_of_rest, self._plan_of_rest = self._understood(rest) if rest else (None, None)
        # The functions that convert arguments which passed.
        self.conversions = {
            name: check.convert for name, check in self.checks.items() if check is not None and check.convert
        }
        of_rest = self._check_of_rest and self._check_of_rest.convert
        self.converts = bool(self.conversions or of_rest)
        # The types that pass at once, by argument; None for an argument that is not checked.
        self.kinds = {name: None if check is None else check.kinds for name, check in self.checks.items()}
        # The types whose values the function is given as they arrived, and that have nothing inside to look at.
        self.simple = {name: self._simple(name, kinds) for name, kinds in self.kinds.items()}
        # With this many known arguments none is missing. A tool that converts has no short way (`Calls.quick`).
        self.complete = -1 if self.open or self.converts else len(named)
        self.call = function
        leading = [p for p in named if p.kind is _POSITIONAL_ONLY]
        if leading:
            self.call = _with_positions(function, [p.name for p in leading])
        self._refuse_writable()
        code = getattr(self._unwrapped, "__code__", None)
        self.code = code if isinstance(code, types.CodeType) else None
        if self.code is not None:
            by_code[self.code] = self

    def _understood(self, parameter: inspect.Parameter) -> tuple[Check | None, Plan | None]:
        """The check and the plan that a parameter's annotation asks for. Raises `BadAnnotation`."""
        if parameter.annotation is parameter.empty or parameter.name in self.unchecked:
            return None, None
        try:
            annotation = resolve(self._unwrapped, parameter.name, parameter.annotation)
            check = check_for(annotation)
        except Unresolved as error:
            raise self._refused(parameter, f"{error}: import it there, not under TYPE_CHECKING,") from None
        except Unusable as error:
            if parameter.default is parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                advice = "annotate it with what is sent (dict, list, numpy.ndarray …) and make one of that in the tool,"
                raise self._refused(parameter, f"{error}: {advice}") from None
            return Check(f"to be left out ({error})", {type(None)} if parameter.default is None else ()), None
        except Exception as error:
            words = f"it cannot be looked at ({type(error).__name__}: {error}): write another,"
            raise self._refused(parameter, words) from None
        if check is not None and parameter.default is None and check(None) is not None:
            # `x: int = None` is common, and means an optional argument.
            check = Check(f"{check.name} | None", {*check.kinds, type(None)}, check.slow, _unless_none(check.convert))
        return check, _plan(annotation)

    def _refused(self, parameter: inspect.Parameter, words: str) -> BadAnnotation:
        name = parameter.name
        return BadAnnotation(
            f"tool {self.name}: {_written(parameter)} cannot be checked: {words} "
            f"or have it given as it arrives with @tool(unchecked=[{name!r}])"
        )

    def _simple(self, name: str, kinds: frozenset[type] | None) -> frozenset[type]:
        plain: frozenset[type] = NOT_BYTES if kinds is None else kinds & NOT_BYTES
        plan = self._plans[name]
        # Small bytes are that already.
        as_they_are = plan is not None and plan.kind is BYTES and kinds is not None and bytes in kinds
        return plain | {bytes} if as_they_are else plain

    def _refuse_writable(self) -> None:
        where = f"@tool(writable=…) of {self.name}{self.signature}"
        for name in sorted(self.writable):
            plan = self._plans.get(name)
            if plan is not None and plan.kind is BYTES:
                raise TypeError(
                    f"{where}: {name} is annotated with bytes, which nobody can write to: use bytearray or memoryview"
                )

    def _refuse_unknown(self, what: str, names: frozenset[str], known: list[str]) -> None:
        for name in sorted(names):
            if name not in known and not self.open:
                where = f"@tool({what}=…) of {self.name}{self.signature}"
                raise TypeError(f"{where}: there is no parameter {name!r}{did_you_mean(name, known)}")

    def check(self, arguments: dict[str, Any]) -> None:
        """Raises `CallError` unless the function can be called with these arguments."""
        all_kinds = self.kinds
        try:
            for name, value in arguments.items():
                kinds = all_kinds[name]
                if kinds is not None and type(value) not in kinds:
                    self._look_closer(name, value)
        except KeyError:
            self._check_open(arguments)
        if len(arguments) != self.complete and not self.required <= arguments.keys():
            missing = [name for name in all_kinds if name in self.required and name not in arguments]
            raise CallError(
                "validation",
                "missing_argument",
                f"{self.name}{self.signature} misses {', '.join(missing)}",
                path=f"args{step(missing[0])}",
                details={"missing": missing},
            )

    def adapt(self, arguments: dict[str, Any]) -> None:
        """Makes of the arguments' bytes what the annotations say, and private copies of what may be written to.

        For arguments that were checked. Raises `CallError` where there is no memory for a copy.
        """
        plans, writable = self._plans, self.writable
        for name, value in arguments.items():
            try:
                arguments[name] = adapt(value, plans.get(name, self._plan_of_rest), name in writable)
            except MemoryError:
                message = (
                    f"{self.name}: args{step(name)}: there is no memory for a copy of it: annotate it with memoryview"
                )
                raise CallError("transfer", "no_memory", message, path=f"args{step(name)}") from None

    def convert(self, arguments: dict[str, Any]) -> None:
        """Makes what the annotations say of arguments that passed, and that Elixir has no values of."""
        of_rest = self._check_of_rest and self._check_of_rest.convert
        for name, value in arguments.items():
            convert = self.conversions.get(name) if name in self.checks else of_rest
            if convert is not None:
                try:
                    arguments[name] = convert(value)
                except Unmade as error:
                    path = f"args{step(name)}{error.path}"
                    message = f"{self.name}: {path}: {error.words}"
                    raise CallError("validation", error.reason, message, path=path) from None

    def prepare(self, arguments: dict[str, Any], adapts: bool) -> None:
        """All that there is to do before a tool that converts is called."""
        try:
            self.check(arguments)
            if adapts:
                self.adapt(arguments)
            self.convert(arguments)
        finally:
            if seen.found:
                seen.forget()

    def _look_closer(self, name: str, value: Any) -> None:
        check = self.checks.get(name, self._check_of_rest)
        try:
            mismatch = check and check(value)
        finally:
            if seen.found:
                seen.forget()
        if mismatch:
            path = f"args{step(name)}{mismatch[0]}"
            raise CallError("validation", "wrong_type", f"{self.name}: {path}: {mismatch[1]}", path=path)

    def _check_open(self, arguments: dict[str, Any]) -> None:
        for name, value in arguments.items():
            if name in self.checks:
                self._look_closer(name, value)
            elif not self.open or type(name) is not str:
                raise CallError(
                    "validation",
                    "unknown_argument",
                    f"{self.name}{self.signature} takes no argument {name}{did_you_mean(str(name), list(self.checks))}",
                    path=f"args{step(name)}",
                    details={"known": list(self.checks)},
                )
            elif self._check_of_rest is not None:
                self._look_closer(name, value)


def _text(signature: inspect.Signature) -> str:
    """The signature as it is written; a default that cannot be shown is left out."""
    try:
        return str(signature)
    except Exception:
        given = [p if p.default is p.empty else p.replace(default=...) for p in signature.parameters.values()]
        return str(signature.replace(parameters=given))


def _unless_none(convert: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    return None if convert is None else lambda value: None if value is None else convert(value)


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        # Names that do not exist are told apart later, with words of ours.
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


def _written(parameter: inspect.Parameter) -> str:
    """A parameter as it is written, without its default."""
    try:
        return str(parameter.replace(default=parameter.empty))
    except Exception:
        return parameter.name


def _plan(annotation: Any) -> Plan | None:
    try:
        return plan_for(annotation)
    except Exception:
        return None


def _with_positions(function: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """Calls a function whose first parameters cannot be given by name."""

    def call(**arguments: Any) -> Any:
        given = [name for name in names if name in arguments]
        if given != names[: len(given)]:
            skipped = next(name for name in names if name not in arguments)
            raise TypeError(f"{skipped} is positional-only: give it, or leave out what follows it")
        return function(*[arguments.pop(name) for name in given], **arguments)

    return call
