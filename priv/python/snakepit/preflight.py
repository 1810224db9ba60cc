"""Imports what a worker imports, and says what cannot be: `python -m snakepit.preflight [MODULE[=OLDEST] …]`.

It must be run with the environment variables of a worker. Its last line is `preflight: fine`, or `preflight: ` and the
module that failed, the file that it comes from, and the problem, separated by tabs; the file is empty for a module that
is not there.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_LONGEST = 300


def main(wanted: list[str]) -> int:
    for word in wanted:
        name, _, oldest = word.partition("=")
        problem = _import(name) or _too_old(name, oldest)
        if problem:
            return _failed(name, _file(name), problem)
    problem = _import("snakepit._native")
    if problem:
        return _failed("snakepit._native", os.path.dirname(__file__), problem)
    # Everything that a worker needs to start.
    own = "snakepit.runtime.process"
    try:
        __import__(own)
    except BaseException as error:
        name, file = _culprit(own, error)
        return _failed(name, file, _words(error))
    print("preflight: fine")
    return 0


def _import(name: str) -> str:
    try:
        __import__(name)
    except BaseException as error:  # a module may raise SystemExit, too
        return _words(error)
    return ""


def _too_old(name: str, oldest: str) -> str:
    if not oldest:
        return ""
    found = getattr(sys.modules[name], "__version__", None) or getattr(sys.modules[name], "version", None)
    parts = found if isinstance(found, tuple) else str(found).split(".")
    try:
        version = tuple(int(part) for part in parts[:2])
    except ValueError:
        return f"it does not say its version, as {name} does; {oldest} or later is needed"
    if version < tuple(map(int, oldest.split("."))):
        return f"its version is {'.'.join(map(str, parts))}; {oldest} or later is needed"
    return ""


def _file(name: str) -> str:
    from importlib.machinery import PathFinder

    root = name.partition(".")[0]
    try:
        spec = PathFinder.find_spec(root)
    except Exception:
        return ""
    if spec is None:
        return ""
    # A package without an __init__ is a list of directories.
    return spec.origin or next(iter(spec.submodule_search_locations or []), "")


def _culprit(own: str, error: BaseException) -> tuple[str, str]:
    """The module that one of Snakepit's own could not import, and its file; else where the error was raised."""
    if isinstance(error, ImportError) and error.name and not error.name.startswith("snakepit."):
        return error.name, error.path or _file(error.name)
    if isinstance(error, SyntaxError) and error.filename:
        return own, error.filename
    return own, _deepest(error.__traceback__)


def _deepest(traceback: TracebackType | None) -> str:
    file = ""
    while traceback:
        name = traceback.tb_frame.f_code.co_filename
        file = file if name.startswith("<") else name
        traceback = traceback.tb_next
    return file


def _words(error: BaseException) -> str:
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= _LONGEST else words[:_LONGEST] + "…"


def _failed(name: str, file: str, problem: str) -> int:
    sys.stdout.flush()
    print("preflight: " + "\t".join(part.replace("\t", " ").replace("\n", " ") for part in (name, file, problem)))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
