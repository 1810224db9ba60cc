"""A tool's signature, prepared so that a call's arguments are checked without looking at the function again."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from . import advice
from .adapt import BYTES, Plan, adapt, plan_for
from .annotations import Check, check_for, resolve
from .errors import CallError, did_you_mean
from .paths import step
from .survey import NOT_BYTES

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD


class Tool:
    """A function that callers may name, with the checks of its arguments."""

    def __init__(self, name: str, function: Callable[..., Any], writable: frozenset[str] = frozenset()) -> None:
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        self.name = name
        self.function = function
        self.signature = _text(signature)
        self.doc = inspect.getdoc(function)
        self.writable = writable
        self._unwrapped = inspect.unwrap(function)
        rest = next((p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        self.open = rest is not None
        named = [p for p in parameters if p.kind in (_POSITIONAL_ONLY, _PLAIN, _KEYWORD_ONLY)]
        self.required = frozenset(p.name for p in named if p.default is p.empty)
        annotations = {p.name: self._annotation(p) for p in named}
        self.checks: dict[str, Check | None] = {p.name: _check(p, annotations[p.name]) for p in named}
        self._plans = {name: _plan(annotation) for name, annotation in annotations.items()}
        # Of arguments that have no parameter of their own.
        self._plan_of_rest = _plan(self._annotation(rest)) if rest else None
        # What a call looks at: the types that pass at once, or None for an argument that is not checked.
        self.kinds = {name: None if check is None else check.kinds for name, check in self.checks.items()}
        # Of these, what is given to the function as it arrived, and has nothing inside to look at.
        self.simple = {name: self._simple(name, kinds) for name, kinds in self.kinds.items()}
        # With this many known arguments none is missing.
        self.complete = -1 if self.open else len(named)
        self.call = function
        leading = [p for p in named if p.kind is _POSITIONAL_ONLY]
        if leading:
            self.call = _with_positions(function, [p.name for p in leading])
        self._refuse_writable()
        code = getattr(self._unwrapped, "__code__", None)
        self.code = code if isinstance(code, types.CodeType) else None
        if self.code is not None:
            advice.tools[self.code] = self

    def _annotation(self, parameter: inspect.Parameter) -> Any:
        """A parameter's annotation; `Any` where there is none."""
        if parameter.annotation is parameter.empty:
            return Any
        return resolve(self._unwrapped, parameter.name, parameter.annotation)

    def _simple(self, name: str, kinds: frozenset[type] | None) -> frozenset[type]:
        plain: frozenset[type] = NOT_BYTES if kinds is None else kinds & NOT_BYTES
        plan = self._plans[name]
        # Small bytes are that already.
        as_they_are = plan is not None and plan.kind is BYTES and kinds is not None and bytes in kinds
        return plain | {bytes} if as_they_are else plain

    def _refuse_writable(self) -> None:
        for name in sorted(self.writable):
            where = f"@tool(writable=…) of {self.name}{self.signature}"
            if name not in self.checks and not self.open:
                raise TypeError(f"{where}: there is no parameter {name!r}{did_you_mean(name, list(self.checks))}")
            plan = self._plans.get(name)
            if plan is not None and plan.kind is BYTES:
                raise TypeError(
                    f"{where}: {name} is annotated with bytes, which nobody can write to: use bytearray or memoryview"
                )

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

    def _look_closer(self, name: str, value: Any) -> None:
        check = self.checks[name]
        mismatch = check and check(value)
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


def _text(signature: inspect.Signature) -> str:
    """The signature as it is written; a default that cannot be shown is left out."""
    try:
        return str(signature)
    except Exception:
        given = [p if p.default is p.empty else p.replace(default=...) for p in signature.parameters.values()]
        return str(signature.replace(parameters=given))


def _check(parameter: inspect.Parameter, annotation: Any) -> Check | None:
    try:
        check = check_for(annotation)
    except Exception:
        # An object of the user's that is no annotation, and raises when it is looked at.
        return None
    if check is not None and parameter.default is None and check(None) is not None:
        # `x: int = None` is common, and means an optional argument.
        return Check(f"{check.name} | None", {*check.kinds, type(None)}, check.slow)
    return check


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
