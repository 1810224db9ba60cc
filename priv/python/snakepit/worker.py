"""The worker process: `python -m snakepit.worker`, started by Snakepit with `SNAKEPIT_SOCKET` and `SNAKEPIT_TOKEN` set.

Standard output and error belong to the user's code; nothing of the protocol goes there.
"""

from __future__ import annotations

import os
import sys

# sysexits.h: something in the configuration is wrong.
EX_CONFIG = 78


def _unfit(problem: str, mend: str) -> None:
    sys.stderr.write("snakepit: %s (%s): %s\n" % (problem, sys.executable, mend))  # noqa: UP031
    sys.exit(EX_CONFIG)


def main() -> None:
    """Checks the interpreter before anything that needs a new one is loaded."""
    if sys.version_info < (3, 11):  # noqa: UP036
        version = "%d.%d" % sys.version_info[:2]  # noqa: UP031
        _unfit("Python 3.11 or newer is needed, this is " + version, "set `config :snakepit, python:` to one")
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
