"""A worker's steps between its imports and its first call, and after its last call."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .._native import Requests, unpack
from ..support import identity
from ..support.limits import ERROR
from . import hooks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from ..wire.control import Control
    from .lane import Lane


class WarmUpFailed(Exception):
    """A call of the pool's `warm_up` had an error, which is the argument, as in a reply."""


class Life:
    """One worker's start and end, as the user's code takes part in them. In the main thread."""

    def __init__(self, control: Control, lane: Lane, warm_up: Sequence[tuple[str, bytes]]) -> None:
        self._control = control
        # The lane that the main thread serves.
        self._lane = lane
        self._calls = lane.calls
        # Commands, and the envelopes of their requests.
        self._warm_up = warm_up
        self._on_stop: list[hooks.Hook] = []
        # The kind and the name of the step that runs.
        self._doing: tuple[str, str] | None = None

    def begin(self, modules: Sequence[ModuleType]) -> bool:
        """Runs what comes before the first call. Whether anything is to be done after the last."""
        on_start, on_stop = hooks.collect(modules)
        for hook in on_start:
            self._do("on_start", hook.name)
            hook.run(self._calls)
        if self._warm_up:
            self._lane.here()
        for command, envelope in self._warm_up:
            self._do("warm_up", command)
            self._call(envelope)
        self._doing = None
        # A worker that never was ready has nothing to stop.
        self._on_stop = on_stop
        return bool(on_stop)

    def end(self) -> None:
        """Runs the hooks of the end, whatever each of them does."""
        self._calls.abandon()
        identity.lane.set(None)
        for hook in self._on_stop:
            try:
                hook.run(self._calls)
            except BaseException as error:
                self._say(hook, error)

    def failure(self, error: BaseException, source: dict[str, Any] | None) -> dict[str, Any]:
        """The report to the BEAM of a start that failed; `source` is the pool's own."""
        from ..diagnosis.start_failure import described

        words: dict[str, Any] = error.args[0] if isinstance(error, WarmUpFailed) else described(error, source)
        if self._doing:
            words["during"] = list(self._doing)
        return words

    def _do(self, kind: str, name: str) -> None:
        # Should it take too long, the BEAM knows what.
        self._doing = kind, name
        self._control.send(["doing", kind, name])

    def _call(self, envelope: bytes) -> None:
        """A call like any other, but for the lane: nobody else has one before the worker is ready."""
        reply = self._calls.answer(memoryview(Requests.plain(envelope)))
        if reply.kind == ERROR:
            raise WarmUpFailed(unpack(reply.envelope))

    def _say(self, hook: hooks.Hook, error: BaseException) -> None:
        from ..diagnosis.failures import describe

        described = describe(error)
        try:
            self._control.send(["hook_failed", hook.name, described])
        except OSError:
            sys.stderr.write(f"snakepit: @on_stop {hook.name} failed:\n{described['traceback']}\n")
