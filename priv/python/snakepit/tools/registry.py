"""The `tool` decorator, and the collection of a pool's tools."""

from __future__ import annotations

import functools
import sys
import types
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

    from .signature import Tool

    F = TypeVar("F", bound=Callable[..., Any])

# The attribute that has a function's `Mark`. `functools.wraps` copies it, so a decorator above `@tool` hands it on.
_MARK = "__snakepit_tool__"
# Types whose `__dict__` is their own: reading it runs no code of the user's.
_WRAPPERS = frozenset(
    {types.FunctionType, staticmethod, functools.partial, type(functools.lru_cache(maxsize=0)(lambda: None))}
)


class Mark:
    """The options that `tool` was given for a function."""

    __slots__ = ("name", "unchecked", "writable")

    def __init__(self, name: str, writable: frozenset[str], unchecked: frozenset[str]) -> None:
        self.name = name
        self.writable = writable
        self.unchecked = unchecked


# The objects that `tool` was given, by `id`. Each is held, so that no other object gets its id.
_registered: dict[int, tuple[Any, Mark]] = {}


def _tool(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    writable: Iterable[str] = (),
    unchecked: Iterable[str] = (),
) -> Any:
    """Marks a function as one that Elixir may call: `@tool`, or `@tool(name="…")`.

    The function itself is returned unchanged. Plain functions, `async def` and generators, whose items are streamed.

    Arrays and bytes are given to it as read-only views of the caller's memory. A parameter annotated with `bytes` or
    `bytearray` gets a copy of that type; any other gets a `memoryview`, however small. `writable=["x"]` makes
    private copies of the arrays and views in argument `x`, which the function may write to.

    Arguments are checked by the annotations, and made into an `Enum`, a dataclass, a `Path` … where a parameter is
    annotated so. A parameter whose annotation no value of Elixir's can fit is an error when the module is imported;
    `unchecked=["x"]` gives the function argument `x` as it arrives, whatever its annotation.
    """
    if function is None:
        return lambda decorated: _mark(decorated, name, writable, unchecked)
    return _mark(function, name, writable, unchecked)


if TYPE_CHECKING:
    from typing import overload

    @overload
    def tool(function: F, /) -> F: ...
    @overload
    def tool(
        *, name: str | None = None, writable: Iterable[str] = (), unchecked: Iterable[str] = ()
    ) -> Callable[[F], F]: ...
    def tool(
        function: Any = None,
        /,
        *,
        name: str | None = None,
        writable: Iterable[str] = (),
        unchecked: Iterable[str] = (),
    ) -> Any:
        """As above."""
else:
    # Without an import of typing at run time.
    tool = _tool
    tool.__name__ = tool.__qualname__ = "tool"


def _mark(function: Any, name: str | None, writable: Iterable[str], unchecked: Iterable[str]) -> Any:
    if not callable(function):
        raise TypeError(f"@tool needs a function, got {type(function).__name__}")
    if name is not None and (not isinstance(name, str) or not name):
        raise TypeError("@tool(name=…) needs a string that is not empty")
    writable, unchecked = _names("writable", writable), _names("unchecked", unchecked)
    try:
        mark = Mark(name or function.__name__, writable, unchecked)
        setattr(function, _MARK, mark)
    except AttributeError:
        raise TypeError(f"@tool cannot mark {function!r}: decorate a Python function that calls it") from None
    _registered[id(function)] = function, mark
    return function


def _names(what: str, given: Iterable[str]) -> frozenset[str]:
    names = [] if isinstance(given, str) else list(given)
    if isinstance(given, str) or not all(isinstance(parameter, str) for parameter in names):
        raise TypeError(f'@tool({what}=…) needs the names of parameters, as in ["x"], got {given!r}')
    return frozenset(names)


class DuplicateTool(Exception):
    """Two different tools have the same name."""


class NoTools(Exception):
    """A module has nothing that could be called."""


def collect(modules: Iterable[ModuleType]) -> dict[str, Tool]:
    """The tools of these modules by name, those they import included.

    A module holds objects of all kinds, some of which raise, or act, when anything of theirs is looked at. So its
    values are compared with what `tool` was given by identity, and nothing else of them is touched.
    """
    from .signature import Tool

    found: dict[str, Tool] = {}
    origin: dict[str, str] = {}
    for module in modules:
        marked = False
        hidden = _decorated_again(module.__name__)
        for bound, value in list(vars(module).items()):
            mark = _mark_of(value)
            if mark is None and bound in hidden and _may_be_decorated(value):
                mark = hidden[bound]
            if mark is None:
                continue
            marked = True
            name = mark.name
            known = found.get(name)
            if known is None:
                found[name] = Tool(name, value, mark.writable, mark.unchecked)
                origin[name] = module.__name__
            elif known.function is not value:
                raise DuplicateTool(
                    f"two tools are named {name!r}: {_where(known.function, origin[name])} "
                    f"and {_where(value, module.__name__)}; rename one with @tool(name=…)"
                )
        if not marked:
            raise NoTools(f"{_named(module)} has no function with @tool")
    return found


def _named(module: ModuleType) -> str:
    inline = sys.modules.get("snakepit.tools.inline")
    if inline and module.__name__ == inline.NAME:
        return "its source"
    return module.__name__


def _mark_of(value: Any) -> Mark | None:
    """The mark of this object, or of what it is a plain wrapper of."""
    registered = _registered.get(id(value))
    if registered is not None:
        return registered[1]
    if type(value) is types.MethodType:
        return _mark_of(value.__func__)
    mark = value.__dict__.get(_MARK) if type(value) in _WRAPPERS else None
    return mark if type(mark) is Mark else None


def _decorated_again(module: str) -> dict[str, Mark]:
    """Tools that were defined at the top of a module, by what they are called there.

    A decorator above `@tool` may put an object of any type in such a function's place: a compiled function, say.
    """
    return {
        function.__name__: mark
        for function, mark in _registered.values()
        if type(function) is types.FunctionType
        and function.__module__ == module
        and function.__qualname__ == function.__name__
    }


def _may_be_decorated(value: Any) -> bool:
    """Whether it can be called, but is neither a class nor another function, which would be a new definition."""
    kind = type(value)
    return callable(value) and kind is not types.FunctionType and not issubclass(kind, type)


def _where(function: Any, module: str) -> str:
    return f"{getattr(function, '__module__', module)}.{getattr(function, '__qualname__', '?')}"
