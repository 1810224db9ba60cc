"""The `tool` decorator, and the collection of a pool's tools."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any, TypeVar

    from .signature import Tool

    F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__snakepit_tool__"


def _tool(function: Any = None, /, *, name: str | None = None) -> Any:
    """Marks a function as one that Elixir may call: `@tool`, or `@tool(name="…")`.

    The function itself is returned unchanged. Plain functions, `async def` and generators, whose items are streamed.
    """
    if function is None:
        return lambda decorated: _mark(decorated, name)
    return _mark(function, name)


if TYPE_CHECKING:
    from typing import overload

    @overload
    def tool(function: F, /) -> F: ...
    @overload
    def tool(*, name: str | None = None) -> Callable[[F], F]: ...
    def tool(function: Any = None, /, *, name: str | None = None) -> Any:
        """As above."""
else:
    # Without an import of typing at run time.
    tool = _tool
    tool.__name__ = tool.__qualname__ = "tool"


def _mark(function: Any, name: str | None) -> Any:
    if not callable(function):
        raise TypeError(f"@tool needs a function, got {type(function).__name__}")
    if name is not None and (not isinstance(name, str) or not name):
        raise TypeError("@tool(name=…) needs a string that is not empty")
    try:
        setattr(function, _MARK, name or function.__name__)
    except AttributeError:
        raise TypeError(f"@tool cannot mark {function!r}: decorate a Python function that calls it") from None
    return function


class DuplicateTool(Exception):
    """Two different tools have the same name."""


class NoTools(Exception):
    """A module has nothing that could be called."""


def collect(modules: Iterable[ModuleType]) -> dict[str, Tool]:
    """The tools of these modules by name, those they import included."""
    from .signature import Tool

    found: dict[str, Tool] = {}
    origin: dict[str, str] = {}
    for module in modules:
        marked = False
        for value in list(vars(module).values()):
            # Read from the dict: modules hold objects that answer any getattr, mocks for example.
            name = getattr(value, "__dict__", {}).get(_MARK) if callable(value) else None
            if not isinstance(name, str):
                continue
            marked = True
            known = found.get(name)
            if known is None:
                found[name] = Tool(name, value)
                origin[name] = module.__name__
            elif known.function is not value:
                raise DuplicateTool(
                    f"two tools are named {name!r}: {_where(known.function, origin[name])} "
                    f"and {_where(value, module.__name__)}; rename one with @tool(name=…)"
                )
        if not marked:
            raise NoTools(f"{module.__name__} has no function with @tool")
    return found


def _where(function: Any, module: str) -> str:
    return f"{getattr(function, '__module__', module)}.{getattr(function, '__qualname__', '?')}"


def describe(tools: dict[str, Tool]) -> list[dict[str, Any]]:
    """What the BEAM is told about the tools."""
    return [
        {"name": t.name, "module": str(getattr(t.function, "__module__", "")), "signature": t.signature, "doc": t.doc}
        for t in tools.values()
    ]
