"""Sends the records of Python's `logging` to the BEAM, where they are events of Elixir's Logger.

A record that a handler of the user's own prints to stdout or stderr is not sent as well: what is printed arrives there
too.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

from ..support import context, fork
from . import channel as log_channel

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .channel import LogChannel

# Bytes of a message with its traceback, of any other text, and of all that a frame has beside the message.
_MESSAGE = 24 << 10
_TEXT = 1 << 10
_EXTRA = 32
# Frames that are looked at to find the tool.
_DEEP = 100

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN = frozenset({int, float, bool, type(None)})

# The names of tools by the `id` of their code.
tools: dict[int, str] = {}


class LogHandler(logging.Handler):
    """On the root logger."""

    def __init__(self, channel: LogChannel, level: int) -> None:
        super().__init__(level)
        self._channel = channel
        self._text = logging.Formatter("%(message)s")
        self._line = logging.Formatter(logging.BASIC_FORMAT)
        self._root_level = level

    def emit(self, record: logging.LogRecord) -> None:
        try:
            channel = self._channel
            if not (fork.is_child() or channel.broken):
                if self._is_printed(record):
                    return
                channel.send(self._message(record), record.levelno >= logging.WARNING)
                if not channel.broken:
                    return
            # Printed: a child has no channel, nor has a worker whom nobody listens to.
            sys.stderr.write(_bounded(_formatted(self._line, record), _MESSAGE).decode() + "\n")
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def createLock(self) -> None:
        """None: the channel needs none. One that a thread took when `Cancelled` hit it would be held for ever."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """As that of the base class, without its lock."""
        passed: Any = self.filter(record)
        if passed:
            # From Python 3.12 on a filter may return another record.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def flush(self) -> None:
        """Nothing waits here but the word of what was dropped."""
        self._channel.send_dropped()

    def set_level(self, level: int) -> None:
        """From now on the BEAM drops what is below. The root logger's level is left alone if the user has set it."""
        self.setLevel(level)
        if logging.root.level == self._root_level:
            logging.root.setLevel(level)
            self._root_level = level

    def _message(self, record: logging.LogRecord) -> list[Any]:
        has_more = record.exc_info or record.exc_text or record.stack_info
        try:
            text = self._text.format(record) if has_more else record.getMessage()
        except RecursionError:
            raise
        except Exception:
            text = _formatted(self._text, record)
        caller = context.caller.get()
        correlation_id = caller[1] if isinstance(caller, list) else None
        values = vars(record)
        extra = None
        if len(values) >= len(_STANDARD) - 3:
            names = values.keys() - _STANDARD
            if names:
                extra = {_short(str(name)).decode(): _value(values[name]) for name in sorted(names, key=str)[:_EXTRA]}
        return [
            int(record.levelno),
            int(record.created * 1_000_000),
            _short(record.name),
            _bounded(text, _MESSAGE),
            _short(record.pathname),
            int(record.lineno),
            _short(record.funcName or ""),
            _running(sys._getframe(1)),
            correlation_id and _short(correlation_id),
            _few(extra) if extra else None,
        ]

    def _is_printed(self, record: logging.LogRecord) -> bool:
        logger: Any = logging.root.manager.loggerDict.get(record.name, logging.root)
        while isinstance(logger, logging.Logger):
            for handler in logger.handlers:
                if handler is not self and record.levelno >= handler.level and _prints(handler):
                    return True
            if not logger.propagate:
                return False
            logger = logger.parent
        return False


def _formatted(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """A record's text; where its message and its arguments do not go together, both as they are, and the problem."""
    try:
        record.getMessage()
    except RecursionError:
        raise
    except Exception as error:
        parts = [
            _text_of(str, record.msg),
            f"arguments: {_text_of(repr, record.args)}",
            f"cannot be formatted: {type(error).__name__}: {_text_of(str, error)}",
        ]
        # Other handlers have the same record: theirs stays as it is.
        record = logging.makeLogRecord({**vars(record), "msg": " | ".join(parts), "args": None})
    return formatter.format(record)


def _text_of(convert: Callable[[Any], str], value: Any) -> str:
    """A part of a record that is broken, perhaps by this very text."""
    try:
        return _bounded(convert(value), _MESSAGE // 4).decode()
    except RecursionError:
        raise
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _prints(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None) if isinstance(handler, logging.StreamHandler) else None
    return stream is not None and (
        stream is sys.stderr or stream is sys.stdout or stream is sys.__stderr__ or stream is sys.__stdout__
    )


def _running(frame: FrameType | None) -> str | None:
    """The tool in which this is logged: the outermost one, for tools may call each other."""
    found, deep = None, 0
    known = tools
    while frame is not None and deep < _DEEP:
        found = known.get(id(frame.f_code), found)
        frame = frame.f_back
        deep += 1
    return found


def _bounded(text: str, limit: int) -> bytes:
    """As UTF-8; of what is too long, the two ends."""
    half = limit // 2
    left_out = 0
    if len(text) > limit:
        left_out = len(text) - 2 * half
        text = text[:half] + text[-half:]
    data = text.encode("utf-8", "backslashreplace")
    if not left_out and len(data) <= limit:
        return data
    room = (limit - 80) // 2
    head = data[:room].decode("utf-8", "ignore")
    tail = data[-room:].decode("utf-8", "ignore")
    left_out += len(text) - len(head) - len(tail)
    return f"{head}\n… {left_out} characters left out …\n{tail}".encode()


def _short(text: str) -> bytes:
    return (text if len(text) <= _TEXT // 4 else text[: _TEXT // 4 - 1] + "…").encode("utf-8", "backslashreplace")


def _value(value: Any) -> Any:
    if type(value) in _PLAIN and (type(value) is not int or -(1 << 63) <= value < 1 << 63):
        return value
    try:
        return _short(value if type(value) is str else repr(value))
    except Exception:
        return "…"


def _few(extra: dict[str, Any]) -> dict[str, Any]:
    """As many of them as a frame has room for beside the message."""
    left = log_channel.MAX_FRAME - _MESSAGE - 4 * _TEXT
    kept = {}
    for name, value in extra.items():
        left -= 4 * len(name) + (len(value) if isinstance(value, bytes) else 9) + 6
        if left < 0:
            break
        kept[name] = value
    return kept


def install(channel: LogChannel, level: int) -> LogHandler:
    """Takes over the root logger. Before the user's code could configure it."""
    handler = LogHandler(channel, level)
    logging.root.setLevel(level)
    logging.root.addHandler(handler)
    logging.basicConfig = _beside(handler, logging.basicConfig)
    logging.captureWarnings(True)
    return handler


def _beside(handler: LogHandler, basic_config: Callable[..., None]) -> Callable[..., None]:
    """A `basicConfig` that does not see our handler: it does nothing where there is one. Records that it would print
    by default go to the BEAM.
    """

    @functools.wraps(basic_config)
    def wrapper(**options: Any) -> None:
        root = logging.root
        if handler not in root.handlers:
            basic_config(**options)
            return
        root.removeHandler(handler)
        before = root.handlers[:]
        try:
            basic_config(**options)
        finally:
            if all(options.get(place) is None for place in ("filename", "stream", "handlers")):
                for added in root.handlers[:]:
                    if added not in before:
                        root.removeHandler(added)
            root.addHandler(handler)

    return wrapper
