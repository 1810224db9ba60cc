"""Imports what a worker imports, and says what cannot be: `python -m snakepit.preflight [MODULE[=OLDEST] …]`.

It must be run with the environment variables of a worker. Its last line is `preflight: fine`, or `preflight: ` and the
module that failed, the file that it comes from, and the problem, separated by tabs; the file is empty for a module that
is not there.
"""

from __future__ import annotations

import os
import sys

from .diagnosis.blame import accused, file_of, report, words


def main(wanted: list[str]) -> int:
    problem = _import("snakepit._native")
    if problem:
        return report("snakepit._native", os.path.dirname(__file__), problem)
    # Everything that a worker needs to start. It comes first because what is wrong with it fails the others, too.
    own = "snakepit.runtime.process"
    try:
        __import__(own)
    except BaseException as error:
        return report(*accused(own, error), words(error))
    for word in wanted:
        name, _, oldest = word.partition("=")
        problem = _import(name) or _too_old(name, oldest)
        if problem:
            return report(name, file_of(name), problem)
    print("preflight: fine")
    return 0


def _import(name: str) -> str:
    try:
        __import__(name)
    except BaseException as error:  # a module may raise SystemExit, too
        return words(error)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
