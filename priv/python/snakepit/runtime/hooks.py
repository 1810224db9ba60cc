"""`on_start` and `on_stop`: functions that a worker runs once, before its first call and after its last."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any, TypeVar

from ..support import fork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

    from .calls import Calls

    F = TypeVar("F", bound=Callable[[], Any])


class Hook:
    """A function, and the module that made it a hook."""

    __slots__ = ("function", "kind", "module", "name")

    def __init__(self, kind: str, function: Any, module: str) -> None:
        self.kind = kind
        self.function = function
        self.module = module
        self.name = f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"

    def run(self, calls: Calls) -> None:
        """Runs it, in this lane's loop if it is asynchronous: what it opens there is of use to the lane's tools."""
        value = self.function()
        if type(value) is types.CoroutineType:
            calls.complete(value)
        if fork.is_child():
            fork.leave()


# In order of definition.
_registered: list[Hook] = []


def on_start(function: F, /) -> F:
    """Makes a worker run this function once, when all modules are imported and before its first call.

    Several run in the order in which they are defined, and count in the pool's `startup_timeout`. One that raises is
    a start that failed, as a failing import is. `async def` runs in the loop of the worker's first lane, where `async`
    tools run as well. Hooks are what the pool's modules define, or import by name; they take no arguments.
    """
    return _hook("on_start", function)


def on_stop(function: F, /) -> F:
    """Makes a worker run this function once, after its last call, when it ends in order.

    That is when its pool stops or shrinks, when it is recycled, and when the VM shuts down; not when it crashes, is
    killed, or its start fails. Several run in reverse order of definition, before exit handlers, for at most the pool's
    `shutdown_timeout`. If one raises, the exception is logged, and the others run all the same.
    """
    return _hook("on_stop", function)


def _hook(kind: str, function: F) -> F:
    _check(kind, function)
    # Named after the module that decorates: the function may come from another one.
    _registered.append(Hook(kind, function, sys._getframe(2).f_globals.get("__name__", "?")))
    return function


def _check(kind: str, function: Any) -> None:
    import inspect

    name = getattr(function, "__qualname__", repr(function))
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"@{kind} needs a function, got {name}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"@{kind}: {name} yields, so that a call of it would do nothing: decorate a plain function")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise TypeError(f"@{kind}: {name} is called without arguments: {error}") from None
    except ValueError:
        # A function of C that does not say what it takes.
        pass


def collect(modules: Iterable[ModuleType]) -> tuple[list[Hook], list[Hook]]:
    """The hooks of these modules, `on_start` and `on_stop`, each in the order in which they run."""
    modules = list(modules)
    names = {module.__name__ for module in modules}
    bound = {id(value) for module in modules for value in list(vars(module).values())}
    found = []
    for hook in _registered:
        if hook.module in names or id(hook.function) in bound:
            found.append(hook)
        else:
            sys.stderr.write(
                f"snakepit: @{hook.kind} {hook.name} does not run: it is not in a module of the pool "
                f"({', '.join(sorted(names))}): import the function there by name\n"
            )
    return (
        [hook for hook in found if hook.kind == "on_start"],
        [hook for hook in reversed(found) if hook.kind == "on_stop"],
    )
