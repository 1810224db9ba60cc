"""Write Python tools that Elixir calls through Snakepit.

    from snakepit import tool

    @tool
    def add(a: int, b: int) -> int:
        return a + b

A pool names the modules whose tools it serves; only functions decorated with `tool` are.
"""

from .context import cancelled, session
from .memory_array import empty
from .registry import tool

__all__ = ["__version__", "cancelled", "empty", "session", "tool"]
__version__ = "0.1.0"
