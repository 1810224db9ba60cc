"""How an error says where in a value something sits: `args["x"][3]`."""

from __future__ import annotations

from typing import Any

_LONGEST_KEY = 80


def step(key: Any) -> str:
    """One step down: an index, or a key as it is written in source."""
    if type(key) is str:
        import json

        shown = key if len(key) <= _LONGEST_KEY else key[:_LONGEST_KEY] + "…"
        return f"[{json.dumps(shown, ensure_ascii=False)}]"
    text = f"<{type(key).__name__}>"
    if isinstance(key, (int, float, bytes, type(None))):
        try:
            text = repr(key)
        except Exception:
            # A class of the user's; the path is what matters.
            pass
    return f"[{text[:_LONGEST_KEY]}]"
