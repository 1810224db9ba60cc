"""Tools that fork, by every way there is, and what their children then do."""

from __future__ import annotations

import asyncio
import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import snakepit
from snakepit import tool

LIBC = ctypes.CDLL(None)
# Keeps the interpreter's lock, which a child could not take if another thread of its parent had it.
LOCKED_LIBC = ctypes.PyDLL(None)
KEPT: list[Any] = []
CHILDREN: list[int] = []


@tool
def pid() -> int:
    return os.getpid()


@tool
def large(mark: int, n: int) -> Any:
    """An ordinary result, in memory that is used over and over."""
    return np.full(n, mark, np.uint8)


@tool
def twice(x: Any) -> Any:
    return x + x


def _in_thread(fork: Callable[[], int]) -> int:
    """Forks in a thread of its own, where the child stays."""
    got: list[int] = []

    def run() -> None:
        child = fork()
        if not child:
            _child()
        got.append(child)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return got[0]


def _c_fork() -> int:
    """A fork that Python does not know of.

    If another thread had asked for the interpreter's lock, the child would wait for ever until that takes it.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    # Whoever waits already gets it now, and asks only after the new interval from now on.
    time.sleep(0.01)
    try:
        pid: int = LOCKED_LIBC.fork()
        return pid
    finally:
        sys.setswitchinterval(interval)


def _lost() -> None:
    os._exit(9)


# What the next child does; it never returns.
_child: Callable[[], None] = _lost

FORKS: dict[str, Callable[[], int]] = {
    "os": os.fork,
    "c": _c_fork,
    "thread": lambda: _in_thread(os.fork),
    "c_thread": lambda: _in_thread(_c_fork),
}


def _fork(how: str, child: Callable[[], None]) -> int:
    """Runs `child` in a child; it exits with 0 if nothing was raised, having written down what was."""
    global _child

    def run() -> None:
        try:
            if how.startswith("c"):
                # Its memory is as it is by now. This lets Python know that its other threads are not here.
                ctypes.pythonapi.PyOS_AfterFork_Child()
            child()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    _child = run
    pid = FORKS[how]()
    if not pid:
        run()
    # It holds what the child was given: here that is to be freed, and used for other things.
    _child = _lost
    return pid


def _writable(view: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same memory, whatever its flags say."""
    address = view.__array_interface__["data"][0]
    return np.frombuffer((ctypes.c_ubyte * view.nbytes).from_address(address), np.uint8)


def _scribble(arrays: list[Any], seen: str, stop: str) -> None:
    """Checks what it was given, says so, and writes to it until it is asked to stop; it must be its own."""
    for array, mark in arrays:
        assert (array == mark).all(), f"a child sees {array} for {mark}"
    _report(seen)
    mark = 0
    disturbed = False
    while not os.path.exists(stop):
        asked = os.path.exists(seen + ".again")
        mark = (mark + 1) % 100
        for array, _ in arrays:
            array[:] = mark
        time.sleep(0.001)
        disturbed = disturbed or not all((array == mark).all() for array, _ in arrays)
        if asked:
            os.unlink(seen + ".again")
    assert not disturbed, "somebody else wrote to a child's memory"


def _report(path: str) -> None:
    with open(path + ".part", "w"):
        pass
    os.rename(path + ".part", path)


def _arrays(x: Any) -> list[Any]:
    """Arrays of every kind that lies in shared memory, and what is in them."""
    made = np.full(200_000, 101, np.uint8)
    empty = snakepit.empty(150_000, np.uint8)
    empty[:] = 102
    small = snakepit.empty(100, np.uint8)
    small[:] = 103
    arrays = [(made, 101), (empty, 102), (small, 103)]
    if x is not None:
        argument = x if isinstance(x, np.ndarray) else np.frombuffer(x, np.uint8)
        arrays.append((_writable(argument), 104))
        # The address alone does not keep it.
        KEPT.append(argument)
    return arrays


@tool
def scribbler(how: str, seen: str, stop: str, x: Any = None) -> list[Any]:
    """Starts a child that writes to all that it has of this call, for as long as it runs. Which memory was lent."""
    arrays = _arrays(x)
    child = _fork(how, lambda: _scribble(arrays, seen, stop))
    CHILDREN.append(child)
    KEPT.clear()
    for array, mark in arrays:
        assert (array == mark).all(), "a child wrote to its parent's memory"
    return [child, _lies_in_chunk(arrays[0][0])]


def _lies_in_chunk(array: Any) -> bool:
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                return "memfd:snakepit" in line
    return False


@tool
def lends() -> bool:
    """Whether an ordinary array lies in shared memory."""
    return _lies_in_chunk(np.full(200_000, 1, np.uint8))


@tool
def maps_of(child: int) -> list[str]:
    """The chunks that a process maps."""
    with open(f"/proc/{child}/maps") as maps:
        return [line for line in maps if "memfd:snakepit" in line]


@tool
def descriptors_of(child: int) -> list[str]:
    """Sockets and chunks that a process has open, if this one has them, too."""

    def open_in(process: Any) -> set[str]:
        links = set()
        for name in os.listdir(f"/proc/{process}/fd"):
            try:
                links.add(os.readlink(f"/proc/{process}/fd/{name}"))
            except OSError:
                continue
        return links

    both = open_in(child) & open_in("self")
    return sorted(link for link in both if link.startswith(("socket:", "/memfd")))


@tool
def ended(child: int) -> int:
    """How a child ended, once it did: its status, or minus its signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ---- children that return --------------------------------------------------------------------------------------------


@tool
def both_return(how: str, large: bool = False) -> Any:
    child = FORKS[how]()
    return np.full(300_000, child and 1, np.uint8) if large else [child, os.getpid()]


@tool
def child_raises() -> int:
    child = os.fork()
    if not child:
        raise ValueError("in the child")
    return child


@tool
def child_exits(code: Any = None) -> int:
    child = os.fork()
    if not child:
        sys.exit(code)
    return child


@tool
def yields_in_both() -> Iterator[int]:
    yield 1
    child = os.fork()
    yield child
    yield 3


@tool
async def returns_in_both_later() -> int:
    await asyncio.sleep(0)
    return os.fork()


@tool
def uses_snakepit_in_child(how: str) -> int:
    def child() -> None:
        array = snakepit.empty(200_000, np.uint8)
        array[:] = 1
        assert not snakepit.cancelled()
        assert not _lies_in_chunk(array) and not _lies_in_chunk(np.full(200_000, 2, np.uint8))
        assert array.sum() == 200_000

    return _fork(how, child)


@tool
def grandchild(x: Any) -> int:
    arrays = _arrays(x)

    def child() -> None:
        def inner() -> None:
            for array, mark in arrays:
                assert (array == mark).all()
                array[:] = 7

        assert os.waitpid(_fork("os", inner), 0)[1] == 0
        for array, mark in arrays:
            assert (array == mark).all(), "a grandchild wrote to its parent's memory"
            array[:] = 8

    done = ended(_fork("os", child))
    for array, mark in arrays:
        assert (array == mark).all(), "a child wrote to its parent's memory"
    KEPT.clear()
    return done


# ---- multiprocessing -------------------------------------------------------------------------------------------------


def _fill(array: Any) -> int:
    array[:] = 9
    return int(array.sum())


def _fill_inherited(index: int) -> int:
    KEPT[index][:] = 9
    return int(KEPT[index].sum())


@tool
def pool_of(method: str, x: Any) -> list[int]:
    """A pool of processes, which fill what they were sent, and what they inherited if they did."""
    arrays = _arrays(x)
    KEPT[:] = [array for array, _ in arrays]
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        sums = pool.map(_fill, [array for array, _ in arrays])
        if method == "fork":
            assert pool.map(_fill_inherited, range(len(arrays))) == sums
        pool.close()
        pool.join()
    process = context.Process(target=_fill, args=(arrays[0][0],))
    process.start()
    process.join()
    assert process.exitcode == 0
    KEPT.clear()
    for array, mark in arrays:
        assert (array == mark).all(), "a child wrote to its parent's memory"
    return [s // 9 for s in sums]


# ---- programs --------------------------------------------------------------------------------------------------------

# Ignored and blocked signals, as masks, of the program itself.
_LOOK = (
    "import json; s = dict(line.split(':', 1) for line in open('/proc/self/status'));"
    "print(json.dumps([int(s[n], 16) for n in ('SigIgn', 'SigBlk')]))"
)
# Python itself ignores these two, before any code runs; a shell does not.
_SHELL = "exec grep -E 'Sig(Ign|Blk)' /proc/self/status"


def _masks(text: str) -> list[int]:
    return [int(line.split(":")[1], 16) for line in sorted(text.splitlines(), reverse=True)]


def _by_subprocess() -> str:
    return subprocess.run(["/bin/sh", "-c", _SHELL], capture_output=True, text=True, check=True).stdout


def _by_subprocess_and_hook() -> str:
    run = subprocess.run(["/bin/sh", "-c", _SHELL], capture_output=True, text=True, check=True, preexec_fn=lambda: None)
    return run.stdout


def _to_file(start: Callable[[str], None]) -> str:
    import tempfile

    with tempfile.NamedTemporaryFile("r") as file:
        start(f"{_SHELL} > {file.name}")
        return file.read()


def _by_posix_spawn(command: str) -> None:
    os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", command], os.environ), 0)


def _by_fork_and_exec(command: str) -> None:
    child = os.fork()
    if not child:
        os.execv("/bin/sh", ["sh", "-c", command])
    os.waitpid(child, 0)


def _by_multiprocessing(command: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=os.system, args=(command,))
    process.start()
    process.join()


def _by_popen(command: str) -> None:
    LIBC.popen.restype = ctypes.c_void_p
    LIBC.pclose.argtypes = [ctypes.c_void_p]
    LIBC.pclose(LIBC.popen(command.encode(), b"r"))


PROGRAMS: dict[str, Callable[[], str]] = {
    "subprocess": _by_subprocess,
    "subprocess_and_hook": _by_subprocess_and_hook,
    "os.system": lambda: _to_file(os.system),
    "os.posix_spawn": lambda: _to_file(_by_posix_spawn),
    "fork_and_exec": lambda: _to_file(_by_fork_and_exec),
    "multiprocessing": lambda: _to_file(_by_multiprocessing),
    "libc.system": lambda: _to_file(lambda command: LIBC.system(command.encode())),
    "libc.popen": lambda: _to_file(_by_popen),
}


@tool
def masks_of_programs() -> dict[str, list[int]]:
    """Of a program started in each way: the signals that it ignores, and those that it blocks."""
    return {name: _masks(start()) for name, start in PROGRAMS.items()}


@tool
def handlers_in_child(own: bool) -> dict[str, str]:
    """How a forked child handles signals: one is `own` to the user's code."""
    before = signal.getsignal(signal.SIGHUP)
    if own:
        signal.signal(signal.SIGHUP, _own)
    here, there = os.pipe()
    child = os.fork()
    if not child:
        names = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE"]
        handlers = {name: signal.getsignal(getattr(signal, name)) for name in names}
        handlers["cancel"] = signal.getsignal(signal.SIGRTMAX - 3)
        said = {name: h.__name__ if callable(h) else str(int(h)) for name, h in handlers.items()}
        os.write(there, json.dumps(said).encode())
        os._exit(0)
    os.close(there)
    with open(here) as answer:
        said: dict[str, str] = json.load(answer)
    os.waitpid(child, 0)
    if own:
        signal.signal(signal.SIGHUP, before)
    return said


def _own(number: int, frame: Any) -> None:
    pass
