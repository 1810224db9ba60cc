"""The errors of the worker itself: a broken peer, and a call that fails with data."""

from __future__ import annotations

from typing import Any

from .limits import MAX_TEXT


class ProtocolError(Exception):
    """The peer broke a rule of the protocol: its connection ends."""


class CallError(Exception):
    """A call that fails; it crosses to the caller as data."""

    def __init__(
        self,
        category: str,
        reason: str,
        message: str,
        *,
        path: str | None = None,
        type: str | None = None,
        traceback: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.category = category
        self.reason = reason
        self.message = message
        self.path = path
        self.type = type
        self.traceback = traceback
        self.details = details

    def as_map(self) -> dict[str, Any]:
        """The envelope of an error reply."""
        return {
            "category": self.category,
            "reason": self.reason,
            "message": clean(self.message),
            "path": self.path and clean(self.path),
            "type": self.type and clean(self.type),
            "traceback": self.traceback and clean(self.traceback),
            "details": self.details,
        }


class Refusal(Exception):
    """A single value cannot cross. The code that knows where it sits makes a `CallError` of it."""

    def __init__(
        self, reason: str, message: str, type: str | None = None, about: tuple[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.type = type
        # The value, and what it is, for a suggestion what to return instead.
        self.about = about

    def at(self, path: str) -> CallError:
        return CallError("validation", self.reason, f"{path}: {self.message}", path=path, type=self.type)


def clean(text: str) -> str:
    """The text as UTF-8 can carry it: an error report must never fail over a lone surrogate."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def type_name(kind: type) -> str:
    """`builtins` types by their name, others with their module."""
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def a_type(kind: type) -> str:
    """As `type_name`, with its article. Names are not spelled out: `a uint8`, `an int8`."""
    name = type_name(kind)
    return f"an {name}" if name.startswith(("a", "e", "i", "o", "A", "E", "I", "O")) else f"a {name}"


def nearest(word: str, known: list[str]) -> list[str]:
    """Up to three of the known words which the given one may have meant."""
    import difflib

    return difflib.get_close_matches(word, known, n=3, cutoff=0.5)


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean …?`, or nothing where nothing is near."""
    names = nearest(word, known)
    return f"; did you mean {' or '.join(names)}?" if names else ""


def some_of(names: list[str]) -> str:
    """The first ten, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def text_of(error: BaseException) -> str:
    """An exception's own text, bounded, whatever its `__str__` does."""
    try:
        return cut(str(error))
    except Exception:
        return "<an exception whose __str__ raised>"


def cut(text: str) -> str:
    """The text, or its two ends where it is too long."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
