"""Tools that misbehave as real ones do, named by their fault. Those that lie on the wire are in malicious_worker.py."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
import time
from typing import Any

import snakepit
from snakepit import tool

# At the start: a module that imports for long, and one whose import never returns to Python.
if os.environ.get("MISBEHAVING") == "slow_start":
    time.sleep(20)
elif os.environ.get("MISBEHAVING") == "stops_at_start":
    os.kill(os.getpid(), signal.SIGSTOP)
elif os.environ.get("MISBEHAVING") == "exits_at_start":
    os._exit(5)


@tool
def pid() -> int:
    return os.getpid()


def _for_ever() -> None:
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


@tool
def ignores_stop(started: str) -> None:
    """Python asks it to end by raising SystemExit."""
    open(started, "w").close()
    _for_ever()


@tool
def forks_stubborn_children(n: int) -> list[int]:
    """They ignore SIGTERM."""
    children = []
    for _ in range(n):
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _for_ever()
        children.append(child)
    return children


@tool
def answers_twice_by_forking() -> int:
    """Both processes return, to what was one lane."""
    return os.fork()


@tool
def segfaults() -> None:
    ctypes.string_at(0)


@tool
def exits() -> None:
    os._exit(7)


@tool
def kills_its_group() -> None:
    os.killpg(0, signal.SIGKILL)
    _for_ever()


@tool
def closes_every_descriptor() -> None:
    os.closerange(3, 4096)
    _for_ever()


@tool
def floods_stdout(mib: int) -> int:
    """No UTF-8, and no line end for long."""
    block = b"\xff\xfe\x00\xc3" * (1 << 16)
    for _ in range(4 * mib):
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(1, rest) :]
    return mib


@tool
def holds_the_gil(seconds: int) -> None:
    ctypes.PyDLL(None).sleep(seconds)


@tool
def stops_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@tool
def allocates_until_its_limit(mib: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (mib << 20, resource.RLIM_INFINITY))
    try:
        return sum(len(block) for block in [bytes(1 << 20) for _ in range(2 * mib)])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@tool
def writes_to_what_it_was_sent(x: Any) -> None:
    """Past every protection of Python's own: what stops it is the mapping."""
    address = x.__array_interface__["data"][0]
    ctypes.memset(address, 0xEE, len(x))


@tool
def writes_to_what_it_sent(n: int, written: str) -> Any:
    """Through the address, as a library would that kept a pointer."""
    array = snakepit.empty((n,), "uint8")
    array[:] = 1
    address = array.__array_interface__["data"][0]

    def write() -> None:
        while not os.path.exists(written + ".go"):
            time.sleep(0.001)
        ctypes.memset(address, 2, n)
        open(written, "w").close()

    threading.Thread(target=write, daemon=True).start()
    return array
