"""The arena against a naive model; views of foreign memory and their release."""

import gc
import os
import random
import unittest

import numpy as np

from snakepit.memory import memory_array
from snakepit.memory.arena import Arena
from snakepit.memory.borrowed import Borrowed
from snakepit.memory.chunk_memory import BadChunk, create, open_foreign
from snakepit.memory.size_classes import class_size
from snakepit.support.errors import CallError, ProtocolError

CHUNK = 1 << 16


def arena(quota=8 * CHUNK):
    sent = []
    made = Arena(7, CHUNK, quota, lambda i, s, fd: sent.append(("chunk", i, s)), lambda i: sent.append(("drop", i)))
    return made, sent


class SizeClasses(unittest.TestCase):
    def test_edges(self):
        for length, size in [(0, 64), (1, 64), (64, 64), (65, 128), (129, 192), (512, 512), (513, 576), (1025, 1152)]:
            self.assertEqual(class_size(length), size)

    def test_fits_is_aligned_and_stable(self):
        rng = random.Random(1)
        for _ in range(5000):
            length = rng.randrange(1 << rng.randrange(1, 46))
            size = class_size(length)
            self.assertTrue(size >= length and size % 64 == 0 and class_size(size) == size)
            self.assertLess(size - max(length, 1), max(64, size // 8 + 1))


class Allocation(unittest.TestCase):
    def test_against_a_model(self):
        rng = random.Random(5)
        for _ in range(8):
            self.run_model(rng)

    def run_model(self, rng):
        memory, sent = arena()
        held = {}
        for step in range(1500):
            what = rng.random()
            if what < 0.55:
                length = rng.choice([1, 64, 100, 1000, 5000, CHUNK // 2, CHUNK // 2 + 1, CHUNK * 2])
                try:
                    slot = memory.force(length) if rng.random() < 0.5 else memory.allocate(length)
                except CallError as error:
                    self.assertEqual(error.reason, "quota")
                    continue
                if slot is None:
                    continue
                place = memory.grant(slot, slot.offset, length)
                self.check_apart(held, place, slot)
                stamp = bytes([step % 251]) * length
                slot.view(length)[:] = stamp
                held[place[3]] = (place, slot, stamp)
            elif held:
                token = rng.choice(list(held))
                place, slot, stamp = held.pop(token)
                self.assertEqual(bytes(slot.view(place[2])), stamp, "somebody wrote over a held slot")
                memory.freed([token])
                memory.freed([token, 10**9])
            if step % 200 == 0:
                memory.drop_idle(0)
            self.assertEqual(memory.live_slots(), len(held))
            self.assertLessEqual(memory.total, memory.quota)
        memory.freed(list(held))
        memory.drop_idle(0)
        self.assertEqual((memory.total, memory.live_slots()), (0, 0))
        self.assertEqual({t[1] for t in sent if t[0] == "chunk"}, {t[1] for t in sent if t[0] == "drop"})

    def check_apart(self, held, place, slot):
        self.assertEqual(place[1] % 64, 0)
        self.assertLessEqual(place[1] + slot.size, slot.chunk.mapping.size)
        for (chunk, offset, _, _), other, _ in held.values():
            if chunk == place[0]:
                self.assertTrue(offset + other.size <= place[1] or place[1] + slot.size <= offset)

    def test_warmest_first_and_cold_is_refused(self):
        memory, _ = arena()
        self.assertIsNone(memory.allocate(100))
        memory.prepare(100)
        first, second = memory.allocate(100), memory.allocate(100)
        memory.release(first)
        memory.release(second)
        self.assertIs(memory.allocate(100), second)
        self.assertIs(memory.allocate(128), first)
        self.assertIsNone(memory.allocate(CHUNK))
        memory.prepare(CHUNK)
        large = memory.allocate(CHUNK)
        memory.release(large)
        self.assertIs(memory.allocate(CHUNK), large)

    def test_a_chunk_without_held_slots_serves_other_classes(self):
        memory, sent = arena()
        slots = [memory.force(CHUNK // 2), memory.force(CHUNK // 2)]
        for slot in slots:
            memory.release(slot)
        self.assertIsNotNone(memory.allocate(1000))
        self.assertEqual(len(sent), 1)

    def test_a_spare_is_made_when_the_current_chunk_fills(self):
        memory, sent = arena()
        memory.force(CHUNK // 2)
        self.assertFalse(memory.wants_spare())
        memory.force(CHUNK // 2)
        self.assertTrue(memory.wants_spare())
        memory.make_spare()
        memory.make_spare()
        self.assertEqual(len(sent), 2)
        self.assertIsNotNone(memory.allocate(100))

    def test_what_lies_inside_is_found(self):
        memory, _ = arena()
        slot = memory.force(1000)
        start = slot.chunk.mapping.address + slot.offset
        self.assertEqual(memory.find(start + 10, 900), (slot, slot.offset + 10))
        self.assertIsNone(memory.find(start + 10, slot.size))
        self.assertIsNone(memory.find(start - 1, 1))
        memory.release(slot)
        memory.release(slot)
        self.assertIsNone(memory.find(start, 10))

    def test_empty_outside_and_inside_of_a_worker(self):
        self.assertEqual(memory_array.empty((2, 3), "f4").shape, (2, 3))
        memory, _ = arena()
        memory_array.arena = memory
        try:
            array = memory_array.empty((10, 10), "f8")
            array[:] = 1
            part = array[3:].reshape(-1)[5:]
            del array
            self.assertEqual(memory.live_slots(), 1)
            del part
            self.assertEqual(memory.live_slots(), 0)
            with self.assertRaises(MemoryError):
                memory_array.empty(100 * CHUNK, "u1")
        finally:
            memory_array.arena = None


class Foreign(unittest.TestCase):
    def setUp(self):
        self.fd, self.mapping = create(CHUNK)
        self.borrowed = Borrowed({})
        self.borrowed.add(1, self.fd, CHUNK)

    def tearDown(self):
        os.close(self.fd)

    def view(self, offset=64, length=800, token=5):
        return self.borrowed.views([(1, offset, length, token)])[0]

    def test_every_kind_of_view_holds_and_none_stays(self):
        ways = [
            lambda v: v[5:50],
            lambda v: memoryview(v).cast("d"),
            lambda v: memoryview(memoryview(v)[::2]),
            lambda v: np.frombuffer(v, "f8"),
            lambda v: np.frombuffer(v, "f8").reshape(10, 10).T[::2, 1:],
            lambda v: np.asarray(np.frombuffer(v, "u1")).view("i4"),
            lambda v: np.asarray(memoryview(np.frombuffer(v, "u1"))),
            lambda v: iter(np.frombuffer(v, "u1")),
            lambda v: np.lib.stride_tricks.sliding_window_view(np.frombuffer(v, "u1"), 3),
        ]
        for number, way in enumerate(ways):
            view = self.view(token=number)
            self.assertTrue(view.readonly)
            derived = way(view)
            del view
            self.assertEqual(self.borrowed.take_released(), [], number)
            del derived
            self.assertEqual(self.borrowed.take_released(), [number])
        self.assertEqual(self.borrowed.outstanding, 0)

    def test_views_outlive_a_dropped_chunk(self):
        self.mapping.size  # noqa: B018 (keeps the writable mapping)
        view = self.view()
        self.borrowed.drop(1)
        self.assertEqual(bytes(view), bytes(800))
        del view
        gc.collect()
        self.assertEqual(self.borrowed.take_released(), [5])

    def test_bounds(self):
        self.assertEqual(len(self.view(CHUNK, 0)), 0)
        for offset, length in [(CHUNK, 1), (0, CHUNK + 1), (2**64 - 1, 1), (1, 2**64 - 1)]:
            with self.assertRaises(ProtocolError):
                self.view(offset, length)

    def test_only_sealed_memory_of_the_announced_size_is_mapped(self):
        bare = os.memfd_create("bare", os.MFD_ALLOW_SEALING)
        os.ftruncate(bare, CHUNK)
        with self.assertRaises(BadChunk):
            open_foreign(bare, CHUNK)
        os.close(bare)
        for size in (0, CHUNK - 1, 2 * CHUNK):
            with self.assertRaises(BadChunk):
                open_foreign(self.fd, size)
        with open("/dev/null") as null, self.assertRaises((BadChunk, OSError)):
            open_foreign(null.fileno(), 1)


if __name__ == "__main__":
    unittest.main()
