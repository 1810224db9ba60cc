"""Tools of the test suite: small, and real."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import threading
import time
from typing import Any

import snakepit
from snakepit import tool

KEPT: list[Any] = []
PAIR: list[socket.socket] = []


@tool
def identity(x: Any) -> Any:
    return x


@tool
def fresh(x: Any) -> Any:
    """The same value in memory of its own, as an ordinary result is."""
    return _fresh(x)


def _fresh(x: Any) -> Any:
    if isinstance(x, memoryview):
        return bytes(x)
    if type(x) in (list, tuple, set):
        return type(x)(_fresh(i) for i in x)
    if isinstance(x, dict):
        return {k: _fresh(v) for k, v in x.items()}
    if hasattr(x, "dtype"):
        return x.copy()
    return x


@tool
def type_name(x: Any) -> str:
    return type(x).__name__


@tool
def text(x: Any) -> str:
    return str(x)


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@tool
def total(x: Any) -> Any:
    return x.sum()


@tool
def length(x: Any) -> int:
    return len(x)


@tool
def write_to(x: Any) -> str:
    """Tries what a tool might, to have `x` for itself. It writes only if it may."""
    try:
        x.setflags(write=True)
    except ValueError:
        return "read-only"
    x += 1
    return "written"


@tool
def flags(x: Any) -> dict[str, Any]:
    return {"writeable": x.flags.writeable, "shape": tuple(x.shape), "dtype": str(x.dtype)}


@tool
def numpy_value(code: str) -> Any:
    """Whatever numpy makes of an expression."""
    import numpy as np

    return eval(code, {"np": np, "snakepit": snakepit})


def sockets() -> list[int]:
    """This process's open sockets, the oldest first: its control socket, then its lanes."""
    found = []
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        # Another thread may close one meanwhile, such as that of a chunk which was just mapped.
        with contextlib.suppress(OSError):
            if fd > 2 and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                found.append(fd)
    return found


@tool
def python_value(code: str) -> Any:
    scope: dict[str, Any] = {}
    exec("import datetime, decimal, collections, enum, zoneinfo\n" + code, scope)
    return scope["x"]


@tool
def ones(n: int) -> Any:
    import numpy as np

    return np.ones(n, dtype=np.uint8)


@tool
def in_place(n: int) -> Any:
    array = snakepit.empty((n,), "uint8")
    array[:] = 7
    return array


SCRIBBLING = threading.Event()


@tool
def scribbled(n: int) -> Any:
    """An array of ASCII, of which a thread goes on writing one byte through a raw pointer, until `scribble_no_more`."""
    array = in_place(n)
    at = array.ctypes.data + 2_000

    def scribble() -> None:
        while not SCRIBBLING.is_set():
            ctypes.memset(at, 0xFF, 1)
            ctypes.memset(at, 0x41, 1)

    SCRIBBLING.clear()
    threading.Thread(target=scribble, daemon=True).start()
    return array


@tool
def scribble_no_more() -> None:
    SCRIBBLING.set()


@tool
def keep(x: Any) -> int:
    KEPT.append(x)
    return len(KEPT)


@tool
def keep_for(x: Any, ms: int) -> int:
    """Looks at it for a while."""
    time.sleep(ms / 1000)
    return len(x)


@tool
def kept_sum() -> int:
    return sum(int(memoryview(x)[0]) for x in KEPT)


@tool
def forget() -> int:
    KEPT.clear()
    return 0


@tool
def fail(message: str = "no") -> None:
    raise ValueError(message)


@tool
def leave() -> None:
    raise SystemExit(3)


@tool
def die(signum: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(30)


@tool
def pid() -> int:
    return os.getpid()


@tool
def thread() -> int:
    return threading.get_ident()


@tool
def wait_for_file(path: str) -> bool:
    """Runs until somebody makes the file: a call that lasts exactly as long as a test wants."""
    while not os.path.exists(path):
        time.sleep(0.002)
    return True


@tool
def touch_and_wait(started: str, go_on: str) -> bool:
    open(started, "w").close()
    return wait_for_file(go_on)


@tool
def count(n: int) -> Any:
    for i in range(n):
        yield i


@tool
async def count_later(n: int) -> Any:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@tool
def blocks(n: int, size: int) -> Any:
    for i in range(n):
        yield bytes([i % 256]) * size


@tool
def count_and_fail(n: int) -> Any:
    yield from range(n)
    raise ValueError("after " + str(n))


@tool
def remember(key: str, value: Any) -> Any:
    snakepit.session()[key] = value
    return dict(snakepit.session())


@tool
def recall(key: str) -> Any:
    return snakepit.session().get(key)


@tool
def whoami() -> list[Any]:
    own = snakepit.worker()
    return [own.pool, own.index, own.lane, own.size]


@tool
def arena_quota() -> int:
    from snakepit.memory import memory_array

    assert memory_array.arena is not None
    return memory_array.arena.quota


@tool
def typed(
    i: int = 0,
    f: float = 0.0,
    s: str = "",
    b: bytes = b"",
    items: list[int] | None = None,
    table: dict[str, int] | None = None,
) -> str:
    return "fine"


@tool
def environment(name: str) -> str | None:
    return os.environ.get(name)


@tool
def say(text: str) -> None:
    print(text)


# Of each thread: what another thread wrote to, while this one's result is on its way, would be the tool's own race.
_arrays = threading.local()


def _in_shared_memory(array: Any) -> bool:
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, _, rest = line.partition(" ")
            start, end = (int(part, 16) for part in span.split("-"))
            if start <= address < end:
                return "memfd:snakepit" in rest
    return False


@tool
def made(n: int, mark: int, keep: bool = False) -> Any:
    """An ordinary array, whether it was made in shared memory, and what is written to those kept from now on."""
    kept = _arrays.__dict__.setdefault("kept", [])
    for array in kept:
        array[:] = 255
    import numpy as np

    array = np.full(n, mark, np.uint8)
    if keep:
        kept.append(array)
        del kept[:-8]
    return [_in_shared_memory(array), array]


@tool
async def made_later(n: int, mark: int) -> Any:
    return made(n, mark)


@tool
def who_calls() -> Any:
    try:
        seen = snakepit.session()
    except LookupError:
        return [snakepit.correlation_id(), None]
    seen["calls"] = seen.get("calls", 0) + 1
    return [snakepit.correlation_id(), seen["calls"]]


@tool
def die_first(path: str, times: int = 1) -> int:
    """Kills its worker the first times that it is called with this path."""
    with open(path, "a+b") as file:
        file.write(b".")
        file.flush()
        tries = os.fstat(file.fileno()).st_size
    if tries <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tries


def _say_over(path: str) -> None:
    """Says in a file that a tool cleaned up. On a machine that stood still meanwhile, it may be disturbed at that."""
    while True:
        try:
            with open(path, "w") as file:
                file.write("over")
            return
        except (snakepit.Cancelled, asyncio.CancelledError):
            pass


@tool
def busy(how: str, path: str) -> str:
    """Runs for a minute in the way that is named; says in a file that it does."""
    until = time.monotonic() + 60
    try:
        # In here: whoever sees the file may cancel at once.
        open(path, "w").close()
        if how == "sleep":
            time.sleep(60)
        elif how == "loop":
            while time.monotonic() < until:
                pass
        elif how == "asks":
            while not snakepit.cancelled() and time.monotonic() < until:
                try:
                    time.sleep(0.001)
                except snakepit.Cancelled:
                    # Asks for it instead.
                    if not snakepit.cancelled():
                        raise
            return "asked"
        elif how == "deaf":
            while time.monotonic() < until:
                try:
                    time.sleep(0.01)
                except snakepit.Cancelled:
                    pass
    finally:
        _say_over(path)
    return "done"


@tool
def reads_in_vain(ms: int) -> bytes:
    """Waits in one call of the system, which raises at its end: no line of this runs after that."""
    if not PAIR:
        PAIR.extend(socket.socketpair())
    PAIR[0].settimeout(ms / 1000)
    return PAIR[0].recv(1)


@tool
async def busy_async(path: str) -> str:
    try:
        open(path, "w").close()
        await asyncio.sleep(60)
    finally:
        _say_over(path)
    return "done"


@tool
def for_ever(path: str) -> Any:
    n = 0
    try:
        while True:
            yield n
            n += 1
    finally:
        _say_over(path)


@tool
def late_ones(n: int, path: str) -> Any:
    """A result that comes although nobody waits for it."""
    import numpy as np

    try:
        open(path, "w").close()
        time.sleep(60)
    except snakepit.Cancelled:
        pass
    return np.ones(n, np.uint8)


@tool
def spin(ms: int) -> int:
    until = time.monotonic() + ms / 1000
    n = 0
    while time.monotonic() < until:
        n += 1
    return n


@tool
def allocates(ms: int) -> int:
    """Takes and gives back shared memory all the time."""
    until = time.monotonic() + ms / 1000
    n = 0
    while time.monotonic() < until:
        snakepit.empty((100_000,), "u1")
        snakepit.session()
        n += 1
    return n


@tool
def imports_slowly(path: str) -> int:
    """Imports a module that takes its time, and cannot be imported twice."""
    import slow_module

    return slow_module.answer(path)
