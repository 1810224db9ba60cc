"""A tool's signature, prepared so that a call's arguments are checked without looking at the function again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .annotations import Check, check_for, resolve
from .errors import CallError, did_you_mean
from .paths import step

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD


class Tool:
    """A function that callers may name, with the checks of its arguments."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        self.name = name
        self.function = function
        self.signature = str(signature)
        self.doc = inspect.getdoc(function)
        self.open = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (_POSITIONAL_ONLY, _PLAIN, _KEYWORD_ONLY)]
        self.required = frozenset(p.name for p in named if p.default is p.empty)
        self.checks: dict[str, Check | None] = {p.name: self._check(p) for p in named}
        # What a call looks at: the types that pass at once, or None for an argument that is not checked.
        self.kinds = {name: None if check is None else check.kinds for name, check in self.checks.items()}
        # With this many known arguments none is missing.
        self.complete = -1 if self.open else len(named)
        self.call = function
        leading = [p for p in named if p.kind is _POSITIONAL_ONLY]
        if leading:
            self.call = _with_positions(function, [p.name for p in leading])

    def _check(self, parameter: inspect.Parameter) -> Check | None:
        if parameter.annotation is parameter.empty:
            return None
        function = inspect.unwrap(self.function)
        check = check_for(resolve(function, parameter.name, parameter.annotation))
        if check is not None and parameter.default is None and check(None) is not None:
            # `x: int = None` is common, and means an optional argument.
            return Check(f"{check.name} | None", {*check.kinds, type(None)}, check.slow)
        return check

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


def _with_positions(function: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """Calls a function whose first parameters cannot be given by name."""

    def call(**arguments: Any) -> Any:
        given = [name for name in names if name in arguments]
        if given != names[: len(given)]:
            skipped = next(name for name in names if name not in arguments)
            raise TypeError(f"{skipped} is positional-only: give it, or leave out what follows it")
        return function(*[arguments.pop(name) for name in given], **arguments)

    return call
