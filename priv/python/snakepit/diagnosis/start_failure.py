"""A failed start as it is reported to the BEAM: the exception, where in the pool's own source, and what to do."""

from __future__ import annotations

from typing import Any

from ..support.errors import cut
from ..tools.inline import line_of
from .failures import describe


def described(error: BaseException, source: dict[str, Any] | None) -> dict[str, Any]:
    """As `failures.describe`, with `advice` and, of a pool's own source, `line`."""
    report: dict[str, Any] = dict(describe(error))
    if source:
        report["line"] = line_of(error, source["file"])
        if isinstance(error, SyntaxError) and error.filename == source["file"]:
            # Without the file and line that its text ends with.
            report["message"] = cut(str(error.msg))
    report["advice"] = cut(_advice(error))
    return report


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
