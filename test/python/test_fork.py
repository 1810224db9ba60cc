"""Forked children: their memory, their descriptors, their end. Each case runs in a process of its own."""

import os
import random
import re
import subprocess
import sys
import textwrap
import unittest
from pathlib import Path

from beam import PYTHONPATH, Beam

START = """
import ctypes, mmap, os, random, sys, threading
from snakepit.support import fork
from snakepit.memory import memory_array
fork.install()
from snakepit._native import Arena, Borrowed
arena = Arena(1, 1 << 20, 64 << 20, lambda *_: None, lambda _: None)

def child(function):
    pid = os.fork()
    if not pid:
        try:
            function()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def lent(length, mark):
    slot = arena.force(length)
    view = arena.lend(slot, length)
    view[:] = bytes([mark]) * length
    return view

def is_all(view, mark):
    return bytes(view) == bytes([mark]) * len(view)
"""


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
    )


class Memory(unittest.TestCase):
    def works(self, code, *arguments):
        done = run(code, *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_what_is_lent_at_the_fork_is_the_childs_own(self):
        self.works("""
            views = [(lent(length, mark), mark) for mark, length in enumerate([1, 64, 4095, 4096, 70_000, 900_000], 1)]
            def look():
                for view, mark in views:
                    assert is_all(view, mark)
                    view[:] = bytes(len(view))
                    assert is_all(view, 0)
                assert "memfd:snakepit" not in open("/proc/self/maps").read()
            assert child(look) == 0
            for view, mark in views:
                assert is_all(view, mark)
        """)

    def test_what_others_lend_is_the_childs_own(self):
        self.works("""
            fds = []
            other = Arena(2, 1 << 20, 1 << 20, lambda id, size, fd: fds.append(os.dup(fd)), lambda id: None)
            other.prepare(1)
            [(_, start, _)] = other.chunks()
            ctypes.memset(start + 5000, ord("x"), 100)
            borrowed = Borrowed()
            borrowed.add(9, fds[0], 1 << 20)
            [view] = borrowed.views([(9, 5000, 100, 1)])
            import numpy
            address = numpy.frombuffer(view, "u1").__array_interface__["data"][0]
            def look():
                assert bytes(view) == b"x" * 100
                ctypes.memset(address, ord("y"), 1)
                assert bytes(view)[:1] == b"y"
            assert child(look) == 0
            assert bytes(view) == b"x" * 100
            # The parent's goes on being shared.
            ctypes.memset(start + 5000, ord("z"), 1)
            assert bytes(view)[:1] == b"z"
        """)

    def test_a_child_keeps_what_it_had_while_its_parent_goes_on(self):
        self.works("""
            view = lent(300_000, 1)
            here, there = os.pipe()
            pid = os.fork()
            if not pid:
                os.read(here, 1)
                os._exit(0 if is_all(view, 1) else 1)
            view[:] = bytes(300_000)
            del view
            again = [lent(300_000, 2) for _ in range(3)]
            os.write(there, b"x")
            assert os.waitpid(pid, 0)[1] == 0
            assert all(is_all(view, 2) for view in again)
        """)

    def test_what_nobody_looks_at_cannot_be_touched(self):
        self.works("""
            view = lent(100, 1)
            far = view.obj and ctypes.addressof(ctypes.c_char.from_buffer(view)) + 500_000
            assert child(lambda: ctypes.string_at(far, 1)) == -11
            del view
            arena.live_slots()
            assert child(lambda: ctypes.string_at(far - 500_000, 1)) == -11
        """)

    def test_chunks_that_are_gone_and_come(self):
        self.works("""
            for mark in range(1, 6):
                view = lent(600_000, mark)
                assert child(lambda: is_all(view, mark) or os._exit(1)) == 0
                del view
                assert arena.live_slots() == 0 and not arena.drop_idle(0)
            assert child(lambda: None) == 0
        """)

    def test_a_child_that_python_does_not_know_of_makes_arrays_of_its_own(self):
        self.works("""
            memory_array.arena = arena
            kept = memory_array.empty(1000)
            kept[:] = 1
            pid = ctypes.PyDLL(None).fork()
            if not pid:
                made = memory_array.empty(1000)
                made[:] = 2
                kept[:] = 3
                lies = arena.find(made.__array_interface__["data"][0], 8000) is not None
                os._exit(int(lies or made.sum() + kept.sum() != 5000))
            assert os.waitpid(pid, 0)[1] == 0
            assert kept.sum() == 1000
        """)

    def test_more_views_than_there_are_rows(self):
        self.works("""
            slot = arena.force(1 << 19)
            ctypes.memset(slot.address, 3, 1 << 19)
            borrowed = Borrowed(arena)
            views = borrowed.views([(slot.chunk, slot.offset + i % 1000, 8, i) for i in range(70_000)])
            def look():
                assert all(is_all(view, 3) for view in views)
            assert child(look) == 0
            assert all(is_all(view, 3) for view in views)
            views.clear()
            assert len(borrowed.take_released()) == 70_000
            view = lent(10_000, 4)
            assert child(lambda: is_all(view, 4) or os._exit(1)) == 0
        """)

    def test_random_lives(self):
        seed = int(os.environ.get("SNAKEPIT_FORK_SEED", random.randrange(1 << 32)))
        done = run(
            """
            rng = random.Random(int(sys.argv[1]))
            held = []
            PYLIBC = ctypes.PyDLL(None)
            def by_thread(function):
                got = []
                thread = threading.Thread(target=lambda: got.append(child(function)))
                thread.start()
                thread.join()
                return got[0]
            def by_c(function):
                pid = PYLIBC.fork()
                if not pid:
                    try:
                        function()
                        os._exit(0)
                    except BaseException:
                        os._exit(1)
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            def scribble(depth):
                for view, mark in held:
                    assert is_all(view, mark)
                    view[:] = bytes([255]) * len(view)
                if depth:
                    assert child(lambda: [view.__setitem__(slice(None), bytes(len(view))) for view, _ in held]) == 0
                    assert all(is_all(view, 255) for view, _ in held)
            for step in range(400):
                what = rng.random()
                if what < 0.6:
                    length = int(2 ** rng.uniform(0, 20))
                    mark = rng.randrange(1, 200)
                    held.append((lent(length, mark), mark))
                elif what < 0.85 and held:
                    held.pop(rng.randrange(len(held)))
                elif what < 0.88:
                    arena.drop_idle(0)
                else:
                    fork_by = rng.choice([child, by_thread, by_c])
                    assert fork_by(lambda: scribble(rng.random() < 0.3)) == 0, step
                if len(held) > 25:
                    del held[: rng.randrange(25)]
                for view, mark in held[-3:]:
                    assert is_all(view, mark), step
            assert all(is_all(view, mark) for view, mark in held)
            """,
            str(seed),
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), f"SNAKEPIT_FORK_SEED={seed}")

    def test_before_its_handlers_are_there_a_child_has_nothing(self):
        start = START.replace("fork.install()\n", "")
        code = """
            view = lent(300_000, 1)
            def look():
                assert "memfd:snakepit" not in open("/proc/self/maps").read()
                view[0]
            assert child(look) == -11
            assert is_all(view, 1)
        """
        done = subprocess.run(
            [sys.executable, "-c", start + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": PYTHONPATH},
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))


class Locks(unittest.TestCase):
    def forked(self, fork_by):
        return run(
            """
            import signal, socket
            from snakepit.support import context
            from snakepit.support.cancel import Cancellation
            from snakepit.wire.control import Control
            from snakepit.memory.maintenance import Maintenance
            os.register_at_fork(after_in_child=fork.become_child)
            borrowed, cancellation = Borrowed(), Cancellation()
            control = Control(socket.socketpair()[0])
            maintenance = Maintenance(arena, borrowed, 60_000, lambda tokens: None)
            locks = [cancellation._lock, control._lock, maintenance._wake._cond, context._lock]
            are_held, done = threading.Event(), threading.Event()
            def hold():
                for lock in locks:
                    lock.acquire()
                are_held.set()
                done.wait()
                for lock in locks:
                    lock.release()
            threading.Thread(target=hold).start()
            are_held.wait()
            def look():
                # Blocks for ever if one of the locks is still held; then the alarm ends it.
                signal.alarm(20)
                context._state("session")
                if sys.argv[1] == "python":
                    arena.live_slots()
                    borrowed.take_released()
                    borrowed.refuse(1, "")
                    cancellation.cancel(1)
                    assert not control._lock.locked()
                maintenance.stop()
            if sys.argv[1] == "python":
                status = child(look)
            else:
                pid = ctypes.PyDLL(None).fork()
                if not pid:
                    look()
                    os._exit(0)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            done.set()
            assert status == 0, status
            """,
            fork_by,
        )

    def test_a_lock_that_another_thread_held_is_free_in_the_child(self):
        for fork_by in ("python", "c"):
            done = self.forked(fork_by)
            self.assertEqual((done.returncode, done.stderr), (0, ""), fork_by)


class Books(unittest.TestCase):
    def test_a_fork_in_the_middle_of_anything_leaves_the_child_able(self):
        done = run("""
            import signal, time
            from snakepit.support import context
            fds = []
            other = Arena(2, 1 << 20, 1 << 20, lambda id, size, fd: fds.append(os.dup(fd)), lambda id: None)
            other.prepare(1)
            borrowed = Borrowed(arena)
            borrowed.add(9, fds[0], 1 << 20)
            over = False
            def busy():
                while not over:
                    views = borrowed.views([(9, 0, 10, 1)] * 50)
                    slots = [arena.lend(arena.force(n), n) for n in (1, 1000, 100_000)]
                    del views, slots
                    borrowed.take_released()
                    arena.drop_idle(0)
            threads = [threading.Thread(target=busy) for _ in range(3)]
            for thread in threads: thread.start()
            def look():
                # Blocks for ever if it waits for a lock that another thread held; then the alarm ends it.
                signal.alarm(20)
                assert borrowed.take_released() == []
                borrowed.refuse(1, "")
                borrowed.drop(9)
                assert arena.live_slots() == 0
                assert arena.find(1 << 40, 1) is None and arena.lend_to_numpy(10) is None
                memory_array.arena = arena
                memory_array.empty(10)[:] = 1
            def forked_by_c():
                # As an extension does that forks and goes on in Python: without AfterFork a child may wait for a thread
                # that it does not have, and that had asked for the interpreter's lock.
                pid = ctypes.PyDLL(None).fork()
                if not pid:
                    ctypes.pythonapi.PyOS_AfterFork_Child()
                    try:
                        look()
                        os._exit(0)
                    finally:
                        os._exit(1)
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            try:
                ends = [child(look) if n % 2 else forked_by_c() for n in range(16)]
            finally:
                over = True
            for thread in threads: thread.join()
            assert ends == [0] * 16, ends
            assert arena.live_slots() == 0
        """)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


MODULE = """
import os, signal, sys, time
from snakepit import tool

@tool
def returns():
    return os.fork()

@tool(name="named")
def raises():
    child = os.fork()
    if not child:
        raise ValueError("here")
    return child

@tool
def exits(code):
    child = os.fork()
    if not child:
        sys.exit(code)
    return child

@tool
def interrupted():
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    return child

@tool
def items():
    yield os.fork()

@tool
def sleeper():
    child = os.fork()
    if not child:
        time.sleep(60)
    return child

@tool
def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

@tool
def alive():
    return os.getpid()
"""


class Worker(unittest.TestCase):
    def worker(self, **settings):
        import tempfile

        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        Path(directory.name, "forking.py").write_text(MODULE)
        env = {"PYTHONPATH": f"{PYTHONPATH}:{directory.name}"}
        return Beam(modules=("forking",), env=env, **settings)

    def value(self, beam, command, **arguments):
        reply = beam.call(command, arguments)
        self.assertEqual(reply.kind, 1, reply.envelope)
        return reply.envelope

    def test_a_child_that_ends_is_not_the_worker(self):
        with self.worker() as beam:
            status = {}
            children = {}
            for name, arguments in [
                ("returns", {}),
                ("named", {}),
                ("exits", {"code": 7}),
                ("interrupted", {}),
            ]:
                child = children[name] = self.value(beam, name, **arguments)
                self.assertGreater(child, 0)
                status[name] = self.value(beam, "wait", child=child)
                self.assertEqual(self.value(beam, "alive"), beam.process.pid)
            beam.send(["stop"])
            output = beam.process.stdout.read().decode()
            self.assertEqual(beam.process.wait(20), 0)
        self.assertEqual(status, {"returns": 0, "named": 1, "exits": 7, "interrupted": 1})
        said = re.findall(r"a forked child \(process (\d+)\) of (.*); nobody waits for that: end a child with", output)
        self.assertEqual(
            said,
            [
                (str(children["returns"]), "tool 'returns' returned"),
                (str(children["named"]), "tool 'named' raised ValueError: here"),
                (str(children["interrupted"]), "tool 'interrupted' raised KeyboardInterrupt"),
            ],
        )

    def test_a_child_does_not_keep_connections_open(self):
        with self.worker(lanes=3) as beam:
            child = self.value(beam, "sleeper")
            beam.process.kill()
            beam.process.wait()
            try:
                for lane in beam.lanes:
                    lane.settimeout(20)
                    self.assertEqual(lane.recv(1), b"")
                os.kill(child, 0)
            finally:
                os.kill(child, 9)

    def test_a_descriptor_that_takes_a_lanes_number_is_not_closed(self):
        done = run("""
            import socket
            from types import SimpleNamespace
            from snakepit.runtime.lane import Lane
            from snakepit.runtime.calls import Service
            ours, theirs = socket.socketpair()
            number = ours.fileno()
            lane = Lane(ours, Service({}, None, Borrowed(), None, 4096, 0))
            def look():
                try:
                    ours.recv(1)
                except OSError:
                    return
                os._exit(2)
            assert child(look) == 0
            theirs.close()
            lane.serve()
            here, there = os.pipe()
            assert number in (here, there)
            def write():
                assert os.write(there, b"x") == 1
            assert child(write) == 0
            assert os.read(here, 1) == b"x"
        """)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
