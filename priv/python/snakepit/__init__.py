"""Write Python tools that Elixir calls through Snakepit.

    from snakepit import tool

    @tool
    def add(a: int, b: int) -> int:
        return a + b

A pool names the modules whose tools it serves; only functions decorated with `tool` are.

Bytes come as `bytes` where the parameter is annotated with it, as a `bytearray` likewise, and else as a read-only
`memoryview`, whatever their size. Arrays are read-only too: see `writable` of `tool`.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    # Before anything that an old Python cannot even read.
    _PROBLEM = "snakepit: Python 3.11 or newer is needed, this is %d.%d (%s): set `config :snakepit, python:` to one\n"
    sys.stderr.write(_PROBLEM % (sys.version_info[0], sys.version_info[1], sys.executable))
    sys.exit(78)

try:
    from .memory.memory_array import empty
    from .runtime.hooks import on_start, on_stop
    from .support.cancelled import Cancelled
    from .support.context import cancelled, correlation_id, session
    from .support.identity import Worker, worker
    from .tools.registry import tool
except Exception as error:
    # The modules that make a worker, and the check before one, are not reached then: it is reported here.
    from .diagnosis.blame import explain

    explain(error)
    raise

__all__ = [
    "Cancelled",
    "Worker",
    "__version__",
    "cancelled",
    "correlation_id",
    "empty",
    "on_start",
    "on_stop",
    "session",
    "tool",
    "worker",
]
__version__ = "0.1.0"
