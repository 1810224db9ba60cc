"""The worker process: `python -m snakepit.main`, started by Snakepit with `SNAKEPIT_SOCKET` and `SNAKEPIT_TOKEN` set.

Standard output and error belong to the user's code; nothing of the protocol goes there.
"""

from __future__ import annotations

import os
import sys

from .runtime.signals import leave_to_the_beam


def _native() -> None:
    try:
        from . import _native as native

        native.Decoder  # noqa: B018
    except ImportError as error:
        from .diagnosis.blame import unfit

        unfit(
            f"this Python has no native part of Snakepit: {error}",
            f"run `mix snakepit.setup`, or `mix snakepit.setup --build-for {sys.executable}` "
            "for an interpreter of your own; for a release, before `mix release`",
        )


def main() -> None:
    """Checks that the interpreter has what is needed, then serves. (Its version was checked by the package itself.)"""
    # First of all: nothing is imported yet that could start programs.
    leave_to_the_beam()
    _native()
    path = os.environ.pop("SNAKEPIT_SOCKET", None)
    token = os.environ.pop("SNAKEPIT_TOKEN", None)
    if not path or not token:
        from .diagnosis.blame import EX_CONFIG

        sys.stderr.write("snakepit: workers are started by Snakepit; SNAKEPIT_SOCKET and SNAKEPIT_TOKEN are not set\n")
        sys.exit(EX_CONFIG)
    try:
        from .runtime.process import run
    except Exception as error:
        from .diagnosis.blame import end_worker

        end_worker(error)
        raise
    run(path, token)


if __name__ == "__main__":
    main()
