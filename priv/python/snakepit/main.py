"""The worker process: `python -m snakepit.main`, started by Snakepit with `SNAKEPIT_SOCKET` and `SNAKEPIT_TOKEN` set.

Standard output and error belong to the user's code; nothing of the protocol goes there.
"""

from __future__ import annotations

import os
import sys

from .runtime.signals import leave_to_the_beam

# sysexits.h: something in the configuration is wrong. The package exits with the same where Python is too old.
EX_CONFIG = 78


def _unfit(problem: str, mend: str) -> None:
    sys.stderr.write(f"snakepit: {problem} ({sys.executable}): {mend}\n")
    sys.exit(EX_CONFIG)


def _msgpack() -> None:
    try:
        import msgpack

        # A directory of that name is a package, too.
        msgpack.packb  # noqa: B018
    except ModuleNotFoundError as error:
        if error.name == "msgpack":
            _unfit(
                "this Python lacks msgpack",
                "run `mix snakepit.setup` (in a release: `bin/my_app eval 'Snakepit.setup()'`), "
                "or `pip install msgpack` with it",
            )
        _broken("msgpack", error)
    except Exception as error:
        _broken("msgpack", error)


def _native() -> None:
    try:
        from . import _native as native

        native.Decoder  # noqa: B018
    except ImportError as error:
        _unfit(
            f"this Python has no native part of Snakepit: {error}",
            f"run `mix snakepit.setup`, or `mix snakepit.setup --build-for {sys.executable}` "
            "for an interpreter of your own; for a release, before `mix release`",
        )


def _broken(name: str, error: Exception) -> None:
    """Ends the worker: says what is imported in place of the right module, and by which entry of the path."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec(name)
    file = (spec and (spec.origin or next(iter(spec.submodule_search_locations or []), None))) or "nowhere"
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    entry = next((entry for entry in given if file.startswith(os.path.join(os.path.abspath(entry), ""))), None)
    mend = f"mend or reinstall {name}"
    if entry:
        mend = f"take {entry} out of PYTHONPATH (the pool's :python_path is part of it), or mend what is there"
    _unfit(f"{name} at {file} cannot be imported: {type(error).__name__}: {error}", mend)


def main() -> None:
    """Checks that the interpreter has what is needed, then serves. (Its version was checked by the package itself.)"""
    # First of all: nothing is imported yet that could start programs.
    leave_to_the_beam()
    _msgpack()
    _native()
    path = os.environ.pop("SNAKEPIT_SOCKET", None)
    token = os.environ.pop("SNAKEPIT_TOKEN", None)
    if not path or not token:
        sys.stderr.write("snakepit: workers are started by Snakepit; SNAKEPIT_SOCKET and SNAKEPIT_TOKEN are not set\n")
        sys.exit(EX_CONFIG)
    from .runtime.process import run

    run(path, token)


if __name__ == "__main__":
    main()
