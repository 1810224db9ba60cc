"""Takes a moment to import, like a large library, and like many of them cannot be imported a second time."""

import sys
import time

if getattr(sys, "_slow_module_was_here", False):
    raise ImportError("cannot load this module more than once per process")
sys._slow_module_was_here = True  # type: ignore[attr-defined]

_until = time.monotonic() + 1.0
while time.monotonic() < _until:
    time.sleep(0.01)


def answer(path: str) -> int:
    open(path, "w").close()
    return 42
