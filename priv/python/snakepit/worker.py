"""The worker process: `python -m snakepit.worker`, started by Snakepit with `SNAKEPIT_SOCKET` and `SNAKEPIT_TOKEN` set.

Standard output and error belong to the user's code; nothing of the protocol goes there.
"""

from __future__ import annotations

import os
import sys

# sysexits.h: something in the configuration is wrong. The package exits with the same where Python is too old.
EX_CONFIG = 78


def _unfit(problem: str, mend: str) -> None:
    sys.stderr.write(f"snakepit: {problem} ({sys.executable}): {mend}\n")
    sys.exit(EX_CONFIG)


def main() -> None:
    """Checks that the interpreter has what is needed, then serves. (Its version was checked by the package itself.)"""
    try:
        import msgpack  # noqa: F401
    except ImportError:
        _unfit("this Python lacks msgpack", "run `mix snakepit.setup`, or `pip install msgpack` with it")
    path = os.environ.pop("SNAKEPIT_SOCKET", None)
    token = os.environ.pop("SNAKEPIT_TOKEN", None)
    if not path or not token:
        sys.stderr.write("snakepit: workers are started by Snakepit; SNAKEPIT_SOCKET and SNAKEPIT_TOKEN are not set\n")
        sys.exit(EX_CONFIG)
    from .process import run

    run(path, token)


if __name__ == "__main__":
    main()
