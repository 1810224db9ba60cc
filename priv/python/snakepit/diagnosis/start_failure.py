"""Why a worker could not start, as the BEAM is told: the exception, where in the pool's own source, and what to do."""

from __future__ import annotations

from typing import Any

from ..support.errors import cut
from ..tools.inline import line_of
from .failures import describe


def described(error: BaseException, source: dict[str, Any] | None) -> dict[str, Any]:
    """As `failures.describe`, with `advice` and, of a pool's own source, `line`."""
    told: dict[str, Any] = dict(describe(error))
    if source:
        told["line"] = line_of(error, source["file"])
        if isinstance(error, SyntaxError) and error.filename == source["file"]:
            # Without the file and line that its text ends with.
            told["message"] = cut(str(error.msg))
    told["advice"] = cut(_advice(error))
    return told


def _advice(error: BaseException) -> str:
    try:
        if isinstance(error, ImportError):
            from .missing import advice_on

            return advice_on(error)
        if isinstance(error, NameError) and error.name in ("tool", "snakepit"):
            line = "from snakepit import tool" if error.name == "tool" else "import snakepit"
            return f"; begin with `{line}`"
    except Exception:
        # Advice is not worth another failure.
        return ""
    return ""
