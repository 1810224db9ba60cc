"""numpy's arrays in the arena: sent in place when nobody else can change them, copied when somebody could."""

import contextvars
import ctypes
import gc
import os
import random
import threading
import unittest
import weakref
from pathlib import Path

import numpy as np

from snakepit._native import Arena, Borrowed, Replies
from snakepit.codec.encode import Encoder
from snakepit.memory.maintenance import Maintenance
from snakepit.memory.numpy_memory import LARGE, NumpyMemory
from snakepit.support.limits import MAX_FRAME, MAX_GRPC_MESSAGE, ZERO_COPY

LIBRARY = Path(__file__).parents[2] / "priv" / "native" / "libsnakepit_numpy.so"
QUOTA = 64 << 20
# numpy's handler is one for the process, and so is the arena behind it.
ARENA = Arena(9, 1 << 20, QUOTA, lambda id, size, fd: None, lambda id: None)
MEMORY = NumpyMemory(ARENA, str(LIBRARY))
N = 300_000


def arena_lies_under(array):
    address = array.__array_interface__["data"][0]
    return any(start <= address < start + size for _, start, size in ARENA.chunks())


class NumpyMemoryTest(unittest.TestCase):
    def run(self, result=None):
        # numpy keeps its handler for each context: none of it stays behind.
        return contextvars.copy_context().run(super().run, result)

    def setUp(self):
        self.maintenance = Maintenance(None, Borrowed(), 60_000, lambda tokens: None)
        self.placer = Replies(
            arena=ARENA,
            borrowed=Borrowed(ARENA),
            maintenance=self.maintenance,
            lend_to_numpy=MEMORY.install,
            max_result=0,
            max_frame=MAX_FRAME,
            max_message=MAX_GRPC_MESSAGE,
        )
        self.encoder = Encoder(4096)
        # As in a worker: the first result is copied, and so warms the memory for the next.
        self.send([np.ones(N, np.uint8) for _ in range(6)])
        self.assertEqual(ARENA.live_slots(), 0)

    def tearDown(self):
        gc.collect()
        self.assertEqual(ARENA.live_slots(), 0)
        self.assertEqual(ARENA.lent_bytes, 0)
        ARENA.drop_idle(0)

    def place(self, value):
        """Places a tool's result as `Calls` does: nobody else holds the value. Where each buffer went."""
        holder = [value]
        del value
        return self.place_from(holder)

    def place_from(self, holder):
        self.encoder.encode(holder.pop())
        buffers = self.encoder.take_buffers()
        addresses = buffers.addresses()
        way, _, places = self.placer.place(buffers, 1 << ZERO_COPY, True)
        self.assertEqual(way, ZERO_COPY)
        starts = {chunk: start for chunk, start, _ in ARENA.chunks()}
        in_place = []
        for (chunk, offset, _, _), address in zip(places, addresses, strict=True):
            in_place.append(starts[chunk] + offset == address)
        return places, in_place

    def send(self, value):
        places, _ = self.place(value)
        del value
        ARENA.freed([place[3] for place in places])

    def bytes_at(self, place):
        chunk, offset, length, _ = place
        start = next(start for id, start, _ in ARENA.chunks() if id == chunk)
        return ctypes.string_at(start + offset, length)

    def assert_sent(self, make, in_place):
        holder = [make()]
        places, where = self.place_from(holder)
        self.assertEqual(where, in_place)
        contents = [self.bytes_at(place) for place in places]
        ARENA.freed([place[3] for place in places])
        return contents

    def test_an_ordinary_result_is_sent_in_place(self):
        for make in (
            lambda: np.full(N, 7, np.uint8),
            lambda: np.full(N, 3, np.uint8) + np.uint8(4),
            lambda: np.full(N + 5, 7, np.uint8)[5:],
            lambda: np.full(N, 7, np.uint8).reshape(3, -1),
        ):
            contents = self.assert_sent(make, [True])
            self.assertEqual(contents, [bytes([7]) * N])
        nested = self.assert_sent(lambda: {"a": [np.full(N, 1, np.uint8)], "b": (np.full(N, 2, np.uint8),)}, [True] * 2)
        self.assertEqual(nested, [bytes([1]) * N, bytes([2]) * N])

    def test_a_result_that_names_its_memory_more_than_once_is_sent_in_place(self):
        twice = self.assert_sent(lambda: [np.full(N, 5, np.uint8)] * 2, [True, True])
        self.assertEqual(twice, [bytes([5]) * N] * 2)
        contents = self.assert_sent(lambda: memoryview(np.full(N, 5, np.uint8)), [True])
        self.assertEqual(contents, [bytes([5]) * N])

    def test_what_somebody_else_holds_is_copied(self):
        kept = []

        def keep(array):
            kept.append(array)
            return array

        def viewed(array):
            kept.append(array[1:])
            return array

        def of_a_kept_base(array):
            kept.append(array)
            return array[:]

        def in_a_kept_list(array):
            kept.append([array])
            return kept[-1]

        def exported(array):
            kept.append(memoryview(array))
            return array

        def weakly(array):
            kept.append(weakref.ref(array))
            return [array]

        def through_a_kept_memoryview(array):
            kept.append(memoryview(array))
            return kept[-1][:]

        for hold in (keep, viewed, of_a_kept_base, in_a_kept_list, exported, weakly, through_a_kept_memoryview):
            with self.subTest(hold.__name__):
                contents = self.assert_sent(lambda hold=hold: hold(np.full(N, 5, np.uint8)), [False])
                self.assertEqual(contents, [bytes([5]) * N])
                kept.clear()
        # numpy's own memory is what it was before.
        self.assert_sent(lambda: np.zeros(N, np.uint8), [False])
        self.assert_sent(lambda: np.full(LARGE - 1, 5, np.uint8), [False])

    def test_kept_arrays_stay_writable_and_what_was_sent_stays_as_it_was(self):
        kept = np.full(N, 5, np.uint8)
        self.assertTrue(arena_lies_under(kept))
        places, _ = self.place(kept)
        kept[:] = 9
        self.assertEqual(self.bytes_at(places[0]), bytes([5]) * N)
        ARENA.freed([places[0][3]])

    def test_a_slot_is_not_used_again_before_both_sides_let_go(self):
        places, where = self.place_from([np.full(N, 5, np.uint8)])
        self.assertEqual(where, [True])
        others = [np.full(N, n, np.uint8) for n in range(20)]
        self.assertEqual(self.bytes_at(places[0]), bytes([5]) * N)
        ARENA.freed([places[0][3]])
        again = np.full(N, 6, np.uint8)
        self.assertTrue(arena_lies_under(again))
        self.assertTrue(all((other == n).all() for n, other in enumerate(others)))

    def test_numpy_takes_at_most_half_and_only_what_lies_idle(self):
        many = [np.full(N, n % 251, np.uint8) for n in range(200)]
        self.assertLessEqual(2 * ARENA.lent_bytes, QUOTA)
        self.assertTrue(all((array == n % 251).all() for n, array in enumerate(many)))
        self.assertFalse(arena_lies_under(many[-1]))
        # A size of which there is no idle slot.
        self.assertFalse(arena_lies_under(np.ones(2 * N, np.uint8)))

    def test_resizing(self):
        array = np.full(N, 3, np.uint8)
        self.assertTrue(arena_lies_under(array))
        array.resize(N + 100, refcheck=False)
        self.assertTrue((array[:N] == 3).all() and not array[N:].any())
        array.resize(1000, refcheck=False)
        self.assertTrue((array == 3).all())

    def test_other_contexts_have_numpys_own(self):
        seen = []
        thread = threading.Thread(target=lambda: seen.append(arena_lies_under(np.full(N, 3, np.uint8))))
        thread.start()
        thread.join()
        self.assertEqual(seen, [False])
        self.assertTrue(arena_lies_under(np.full(N, 3, np.uint8)))

    def test_a_forked_child_leaves_the_memory_alone(self):
        code = (
            "import os, numpy as np\nfrom snakepit.support import fork\n"
            "fork.install()\n"
            "from snakepit._native import Arena\nfrom snakepit.memory.numpy_memory import NumpyMemory\n"
            "a = Arena(1, 1 << 20, 1 << 26, lambda *x: None, lambda i: None)\n"
            f"NumpyMemory(a, {str(LIBRARY)!r}).install()\n"
            "for slot in [a.force(300_000) for _ in range(4)]: a.release(slot)\n"
            "kept = np.full(300_000, 7, np.uint8)\n"
            "lies = lambda x: any(start <= x.__array_interface__['data'][0] < start + size"
            " for _, start, size in a.chunks())\n"
            "assert lies(kept)\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    assert lies(kept) and (kept == 7).all()\n"
            "    kept[:] = 8\n"
            "    del kept\n"
            "    more = [np.full(300_000, 9, np.uint8) for _ in range(8)]\n"
            "    os._exit(any(map(lies, more)))\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "assert (kept == 7).all() and lies(np.ones(300_000, np.uint8))\n"
        )
        import subprocess
        import sys

        path = str(Path(__file__).parents[2] / "priv" / "python")
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_many_threads(self):
        wrong = []

        def work(seed):
            rng = random.Random(seed)
            MEMORY.install()
            held = []
            for step in range(300):
                size = rng.choice([1000, LARGE, N, N, N])
                mark = (seed * 31 + step) % 251
                held.append((mark, np.full(size, mark, np.uint8)))
                if len(held) > 4:
                    mark, array = held.pop(rng.randrange(len(held)))
                    if not (array == mark).all():
                        wrong.append((seed, step))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])


class Refused(unittest.TestCase):
    def test_a_library_that_is_not_there(self):
        code = (
            "from snakepit.memory.numpy_memory import NumpyMemory; from snakepit._native import Arena;"
            "import numpy as np;"
            "a = Arena(1, 1 << 20, 1 << 22, lambda *x: None, lambda i: None);"
            "m = NumpyMemory(a, '/nowhere.so'); m.install(); m.install(); print(np.ones(10**6).sum())"
        )
        import subprocess
        import sys

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
        self.assertEqual(done.stdout, "1000000.0\n")
        self.assertEqual(done.stderr.count("arrays are copied"), 1)


if __name__ == "__main__":
    unittest.main()
