"""Log records on their way to the BEAM: from the moment on that somebody imports `logging`, which is not before.

It takes some ten milliseconds to import, and many workers never need it.
"""

from __future__ import annotations

import importlib.machinery
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    from ..tools.signature import Tool
    from .channel import LogChannel
    from .handler import LogHandler


class Logs:
    """The log records of this worker."""

    def __init__(self, channel: LogChannel, level: int) -> None:
        self._channel = channel
        self._level = level
        self._tools: dict[int, str] = {}
        self._handler: LogHandler | None = None
        self._show_warning: Any = None

    def start(self) -> None:
        """Before any module of the user's is imported."""
        if "logging" in sys.modules:
            self._install()
            return
        sys.meta_path.insert(0, _Finder(self._install))
        self._show_warning, warnings.showwarning = warnings.showwarning, self._first_warning

    def set_level(self, level: int) -> None:
        """Records below this level need not be sent."""
        self._level = level
        if self._handler is not None:
            self._handler.set_level(level)

    def tools(self, tools: Iterable[Tool]) -> None:
        """Records name those in which they are made."""
        for tool in tools:
            if tool.code is not None:
                self._tools[id(tool.code)] = tool.name

    def send_dropped(self) -> None:
        """Says how many records were dropped, if nobody has since."""
        if self._handler is not None:
            self._handler.flush()

    def _install(self) -> None:
        try:
            self._take_over()
        except Exception as error:
            # A module of the user's may have this name, for example. Its import must not fail for that.
            sys.stderr.write(f"snakepit: log records are not sent: {type(error).__name__}: {error}\n")

    def _take_over(self) -> None:
        from . import handler as log_handler

        if self._show_warning is not None and warnings.showwarning == self._first_warning:
            # That is what `captureWarnings(False)` brings back.
            warnings.showwarning = self._show_warning
        log_handler.tools = self._tools
        self._handler = log_handler.install(self._channel, self._level)

    def _first_warning(self, *args: Any, **options: Any) -> None:
        import logging

        # The import may have been in a `catch_warnings`, which has taken back what it changed.
        show = getattr(logging, "_showwarning", None) if self._handler is not None else None
        (show or self._show_warning)(*args, **options)


class _Finder:
    """Finds `logging` as it is always found, and says when it was imported."""

    def __init__(self, imported: Any) -> None:
        self._imported = imported

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "logging":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        loader: Any = spec and spec.loader
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                execute(module)
                self._imported()

            loader.exec_module = exec_module
        return spec
