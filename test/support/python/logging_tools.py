"""Tools that log in every way, for the tests of logging."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from typing import Any

from snakepit import tool

log = logging.getLogger(__name__)
log.info("imported")


@tool
def levels() -> None:
    for level in (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60):
        log.log(level, "level %d", level)


@tool
def say(text: str, level: int = 20) -> int:
    log.log(level, "%s", text)
    return log.getEffectiveLevel()


@tool
def nothing(x: int) -> int:
    return x


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("seen")


@tool
def extra() -> None:
    values: dict[str, Any] = {"big": 1 << 70, "long": "x" * 5000}
    log.warning("with extra", extra=values | {f"many_{n}": n for n in range(100)})


@tool
def few_extra() -> None:
    log.warning("with extra", extra={"user": "ann", "n": 1, "ok": True, "none": None, "odd": Odd()})


@tool
def raises() -> None:
    try:
        {}["missing"]
    except KeyError:
        log.exception("it failed\nin two lines", stack_info=True)


@tool
def wrong_format() -> str:
    log.error("%d", "no number")
    return "fine"


@tool
def printed() -> None:
    print("to stderr", file=sys.stderr)


@tool
def huge(n: int) -> None:
    log.error("%s", "<" + "é" * n + ">")


@tool
def broken_text() -> None:
    log.error("lone \ud800 surrogate and \x00")


@tool
def warn() -> None:
    warnings.warn("this is old", DeprecationWarning, stacklevel=1)
    warnings.warn("take care", UserWarning, stacklevel=1)


@tool
async def later() -> None:
    log.warning("from a coroutine")


@tool
def parts(n: int) -> Any:
    for i in range(n):
        log.warning("part %d", i)
        yield i


@tool
def logs_until_cancelled(path: str) -> None:
    open(path, "w").close()
    while True:
        log.warning("on and on")


@tool
def in_threads(threads: int, each: int) -> None:
    def run(number: int) -> None:
        for n in range(each):
            log.warning("thread %d record %d", number, n)
            time.sleep(0.001)

    running = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


@tool
def flood(n: int) -> float:
    started = time.perf_counter()
    for i in range(n):
        log.warning("flood %d", i)
    return time.perf_counter() - started


@tool
def interrupted(n: int) -> int:
    """Logs from a handler of a signal, and from destructors, in the middle of logging."""
    seen = 0

    class Last:
        def __del__(self) -> None:
            log.warning("destroyed")

    def handler(number: int, frame: object) -> None:
        nonlocal seen
        seen += 1
        log.warning("signal")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for i in range(n):
            last = [Last()]
            last.append(last)  # type: ignore[arg-type]
            del last
            log.warning("record %d", i)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return seen


@tool
def forks() -> int:
    pid = os.fork()
    if not pid:
        log.warning("said by the child")
        os._exit(0)
    os.waitpid(pid, 0)
    log.warning("said by the parent")
    return pid


@tool
def dies(how: str) -> None:
    log.error("last words")
    if how == "exit":
        os._exit(3)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        import ctypes

        ctypes.string_at(0)


@tool
def basic_config(options: dict[str, Any]) -> int:
    if options.pop("to_stdout", False):
        options["stream"] = sys.stdout
    logging.basicConfig(**options)
    return logging.root.level


@tool
def dict_config(path: str) -> None:
    import logging.config

    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"file": {"class": "logging.FileHandler", "filename": path}},
            "root": {"handlers": ["file"], "level": "INFO"},
        }
    )


@tool
def own_handler() -> None:
    log.addHandler(logging.StreamHandler())


@tool
def spin_and_log(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        log.warning("spinning")
