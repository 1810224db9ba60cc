"""Tools for the tests."""

import asyncio
import atexit
import ctypes
import os
import subprocess
import sys
import threading
import time
import weakref

import snakepit
from snakepit import tool

KEPT = []
# A thread of the user's that never ends must not keep a worker which was asked to stop.
threading.Thread(target=threading.Event().wait, daemon="unittest" in sys.modules).start()
atexit.register(print, "exit handlers run")


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool
def identity(x):
    return x


@tool
def cleans_up():
    try:
        print("it runs", flush=True)
        time.sleep(600)
    except BaseException as error:
        print(type(error).__name__, flush=True)
        raise


@tool
def ends_by(number: int):
    """How those end that are sent this signal: a program, a child that was just forked, and one that runs."""
    program = subprocess.Popen(["sleep", "60"])
    program.send_signal(number)
    ends = [program.wait()]
    for runs in (False, True):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writer, b"x")
                time.sleep(60)
            except KeyboardInterrupt:
                os._exit(130)
            finally:
                os._exit(1)
        if runs:
            os.read(reader, 1)
        os.kill(child, number)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return ends


@tool(name="renamed")
def _private(x=1):
    return x


@tool
def total(x):
    return float(x.sum())


@tool
def keep(x):
    KEPT.append(x)


@tool
def knot(x):
    cycle = [x]
    cycle.append(cycle)


@tool
def let_go():
    KEPT.clear()


@tool
def keep_slice(x):
    KEPT.append(memoryview(x)[10:20])


@tool
def make(n: int):
    array = snakepit.empty(n, "u1")
    array[:] = 7
    return array


@tool
def make_part(n: int):
    array = snakepit.empty((2, n), "u1")
    array[0] = 1
    array[1] = 2
    return {"second": array[1]}


@tool
def make_and_keep(n: int, how: str):
    """A result in shared memory, and something kept by which it could be written later."""
    import numpy

    array = snakepit.empty(n, "u1")
    array[:] = 7
    kept = {
        "array": lambda: array,
        "slice": lambda: array[::2],
        "element": lambda: array[5:6],
        "cast": lambda: array.view("u4"),
        "memoryview": lambda: memoryview(array),
        "slice_of_memoryview": lambda: memoryview(array)[3:],
        "base": lambda: array.base,
        "memoryview_of_base": lambda: memoryview(array.base)[5:],
        "part_of_base": lambda: (ctypes.c_ubyte * 50).from_buffer(array.base),
        "interface": lambda: numpy.asarray(Interface(array)),
        "dlpack": lambda: numpy.from_dlpack(array),
        "iterator": lambda: iter(array),
        "weak": lambda: weakref.ref(array),
        "ctypes": lambda: array.ctypes,
    }[how]()
    KEPT.append(kept)
    return array


class Interface:
    def __init__(self, array):
        self.array = array
        self.__array_interface__ = array.__array_interface__


@tool
def write_kept():
    """Writes to what was kept last, however it was kept."""
    import numpy

    kept = KEPT[-1]
    if isinstance(kept, weakref.ref):
        kept = kept()
    if hasattr(kept, "data_as"):
        kept = numpy.ctypeslib.as_array(kept.data_as(ctypes.POINTER(ctypes.c_ubyte)), (100,))
    if not isinstance(kept, (numpy.ndarray, type(None))) and hasattr(type(kept), "__next__"):
        kept = kept.__reduce__()[1][0]
    if kept is not None:
        array = numpy.asarray(kept)
        if array.flags.writeable:
            array[...] = 9
        else:
            ctypes.memset(array.ctypes.data, 9, array.nbytes)


@tool
def one_buffer_again_and_again(n: int):
    array = snakepit.empty(n, "u1")
    for mark in range(1, 4):
        array[:] = mark
        yield array


@tool
def fresh_buffers(n: int):
    def made(mark):
        array = snakepit.empty(n, "u1")
        array[:] = mark
        return array

    for mark in range(1, 4):
        yield made(mark)


@tool
async def make_later(n: int):
    array = snakepit.empty(n, "u1")
    await asyncio.sleep(0)
    array[:] = 7
    return array


@tool
def make_memoryview(n: int):
    array = snakepit.empty(n, "u1")
    array[:] = 7
    return array.data


@tool
def make_parts(n: int):
    array = snakepit.empty((2, n), "u1")
    array[0], array[1] = 1, 2
    return {"all": array, "parts": [array[0], array[1]]}


@tool
def zeros(n: int, dtype: str = "u1"):
    import numpy

    return numpy.zeros(n, dtype)


@tool
def blob(n: int, text: bool = False):
    return "x" * n if text else b"x" * n


@tool
async def later(x):
    await asyncio.sleep(0.001)
    return x


@tool
async def later_fails(x):
    await asyncio.sleep(0)
    raise KeyError("later")


@tool
def count(n: int, size: int = 0):
    for i in range(n):
        yield b"z" * size if size else i


@tool
async def acount(n: int):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@tool
def breaks_after(n: int):
    yield from range(n)
    raise ValueError("broken")


@tool
def hold_stream(x):
    yield len(x)
    yield len(x)


@tool
def fails(x=None):
    def inner(y):
        raise ValueError(f"no {type(y).__name__}")

    try:
        inner(x)
    except ValueError as error:
        raise LookupError("outer") from error


@tool
def leaves():
    sys.exit(3)


@tool
def interrupts():
    raise KeyboardInterrupt


@tool
def recurses():
    return recurses()


@tool
def cyclic():
    x = {"a": []}
    x["a"].append(x)
    return x


@tool
def unsupported():
    return {"items": [1, 2, {"x": object()}]}


@tool
def noisy(x):
    print("to stdout", x)
    print("to stderr", x, file=sys.stderr)
    return x


@tool
def visits():
    state = snakepit.session()
    state["n"] = state.get("n", 0) + 1
    return state["n"]


@tool
def environment():
    import os

    return [name for name in os.environ if name.startswith("SNAKEPIT_")]


@tool
def sleeps(seconds: float):
    import time

    time.sleep(seconds)
    return "done"


@tool
def is_cancelled():
    return snakepit.cancelled()
