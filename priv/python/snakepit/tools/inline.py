"""A pool's own source, `python: "…"`: a module without a file. Tracebacks and `inspect` show its lines all the same."""

from __future__ import annotations

import io
import linecache
import sys
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType, ModuleType

# The module's name, which no file has.
NAME = "snakepit_inline"


class _Loader(InspectLoader):
    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file

    def get_source(self, fullname: str) -> str:
        return self.text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.file, "exec", dont_inherit=True)


def load(text: str, file: str) -> ModuleType:
    """Runs the source as a module. `file` is what tracebacks call it."""
    # As in a file, where Python leaves it out.
    text = text.removeprefix("\ufeff")
    # Where the compiler ends a line, which is not where `splitlines` does. Without a time, the cache keeps it whatever
    # the file system says.
    linecache.cache[file] = (len(text), None, io.StringIO(text, newline=None).readlines(), file)
    loader = _Loader(text, file)
    spec = ModuleSpec(NAME, loader, origin=file)
    module = module_from_spec(spec)
    # Where a decorator or a data class looks for it.
    sys.modules[NAME] = module
    loader.exec_module(module)
    return module


def line_of(error: BaseException, file: str) -> int | None:
    """The line of the source at which it failed."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
