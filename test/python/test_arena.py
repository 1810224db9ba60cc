"""The arena against a naive model; views of foreign memory and their release."""

import ctypes
import errno
import gc
import os
import random
import threading
import unittest
import weakref

import numpy as np

from snakepit._native import Arena, Borrowed
from snakepit.memory import memory_array
from snakepit.support.errors import CallError, ProtocolError

CHUNK = 1 << 16


def arena(quota=8 * CHUNK):
    sent = []
    made = Arena(7, CHUNK, quota, lambda i, s, fd: sent.append(("chunk", i, s)), lambda i: sent.append(("drop", i)))
    return made, sent


def written(slot, length):
    return (ctypes.c_char * length).from_address(slot.address)


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
                self.check_apart(held, place, slot, {chunk: size for chunk, _, size in memory.chunks()})
                stamp = bytes([step % 251]) * length
                written(slot, length)[:] = stamp
                held[place[3]] = (place, slot, stamp)
            elif held:
                token = rng.choice(list(held))
                place, slot, stamp = held.pop(token)
                self.assertEqual(bytes(written(slot, place[2])), stamp, "somebody wrote over a held slot")
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

    def check_apart(self, held, place, slot, sizes):
        self.assertEqual(place[1] % 64, 0)
        self.assertLessEqual(place[1] + slot.size, sizes[place[0]])
        for (chunk, offset, _, _), other, _ in held.values():
            if chunk == place[0]:
                self.assertTrue(offset + other.size <= place[1] or place[1] + slot.size <= offset)

    def test_warm_memory_serves_and_cold_memory_is_not_made(self):
        memory, sent = arena()
        self.assertIsNone(memory.allocate(100))
        memory.prepare(100)
        first, second = memory.allocate(100), memory.allocate(100)
        memory.release(first)
        self.assertEqual(memory.allocate(128), first)
        memory.release(second)
        self.assertEqual(memory.allocate(100), second)
        self.assertIsNone(memory.allocate(CHUNK))
        memory.prepare(CHUNK)
        large = memory.allocate(CHUNK)
        memory.release(large)
        self.assertEqual(memory.allocate(CHUNK), large)
        self.assertEqual(len(sent), 2)

    def test_a_chunk_that_the_beam_cannot_map_serves_nothing_more(self):
        memory, sent = arena()
        slot = memory.force(1000)
        memory.refused(slot.chunk)
        self.assertTrue(memory.is_refused())
        self.assertIsNone(memory.allocate(1000))
        memory.release(slot)
        self.assertIsNone(memory.allocate(1000))
        self.assertFalse(memory.drop_idle(60))
        self.assertEqual(sent, [("chunk", slot.chunk, CHUNK), ("drop", slot.chunk)])

    def test_ids_grow_though_threads_make_chunks_at_once(self):
        memory, sent = arena(quota=200 * CHUNK)
        threads = [threading.Thread(target=lambda: [memory.force(CHUNK) for _ in range(10)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ids = [id for what, id, *_ in sent if what == "chunk"]
        self.assertEqual((len(ids), ids), (80, sorted(ids)))

    def test_what_announces_a_chunk_cannot_make_another_and_does_not_wait_for_itself(self):
        refused = []

        def again(*_):
            try:
                memory.force(100)
            except OSError as error:
                refused.append(error.errno)

        memory = Arena(7, CHUNK, 8 * CHUNK, again, lambda id: None)
        memory.force(CHUNK)
        self.assertEqual(refused, [errno.EDEADLK])
        self.assertEqual((memory.total, memory.live_slots()), (CHUNK, 1))

    def test_each_chunk_that_goes_is_retracted_though_one_cannot_be(self):
        retracted = []

        def retract(id):
            retracted.append(id)
            if len(retracted) == 1:
                raise OSError("not this one")

        memory = Arena(7, CHUNK, 8 * CHUNK, lambda *_: None, retract)
        for slot in [memory.force(CHUNK) for _ in range(3)]:
            memory.release(slot)
        with self.assertRaises(OSError):
            memory.drop_idle(0)
        self.assertEqual((len(set(retracted)), memory.total), (3, 0))
        # Also where it makes room for another one.
        for slot in [memory.force(CHUNK) for _ in range(8)]:
            memory.release(slot)
        retracted.clear()
        with self.assertRaises(OSError):
            memory.force(2 * CHUNK)
        self.assertEqual((len(retracted), memory.total), (2, 6 * CHUNK))
        memory.force(2 * CHUNK)

    def test_what_cannot_be_announced_costs_nothing(self):
        def fail(*_):
            raise OSError("gone")

        memory = Arena(7, CHUNK, CHUNK, fail, lambda id: None)
        for _ in range(3):
            with self.assertRaises(OSError):
                memory.force(100)
        self.assertEqual((memory.total, memory.chunks()), (0, []))

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
        start = slot.address
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
        # Another arena's chunk.
        announced = []
        self.owner = Arena(1, CHUNK, CHUNK, lambda id, size, fd: announced.append(os.dup(fd)), lambda id: None)
        self.owner.prepare(1)
        [self.fd] = announced
        self.borrowed = Borrowed()
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
        view = self.view()
        self.borrowed.drop(1)
        self.assertEqual(bytes(view), bytes(800))
        del view
        gc.collect()
        self.assertEqual(self.borrowed.take_released(), [5])

    def test_bounds(self):
        self.assertEqual(len(self.view(CHUNK, 0)), 0)
        self.assertEqual(self.borrowed.take_released(), [5])
        for offset, length in [(CHUNK, 1), (0, CHUNK + 1), (2**64 - 1, 1), (1, 2**64 - 1)]:
            with self.assertRaises(ProtocolError):
                self.borrowed.views([(1, 0, 1, 7), (1, offset, length, 8), (1, 0, 1, 9)])
            gc.collect()
            self.assertEqual((sorted(self.borrowed.take_released()), self.borrowed.outstanding), ([7, 8, 9], 0))

    def test_a_view_is_of_its_part_and_cannot_be_written_to(self):
        [(_, start, _)] = self.owner.chunks()
        ctypes.memmove(start + 64, b"here", 4)
        view = self.view(length=4)
        self.assertEqual((bytes(view), view.readonly, view.format, view.ndim), (b"here", True, "B", 1))
        with self.assertRaises(TypeError):
            view[0] = 1
        with self.assertRaises(TypeError):
            ctypes.c_char.from_buffer(view.obj)
        with self.assertRaises(ValueError):
            np.frombuffer(view, "u1").setflags(write=True)
        with self.assertRaises(TypeError):
            weakref.ref(view.obj)

    def test_tokens_come_back_once_whatever_happens(self):
        self.borrowed.refuse(9, "why")
        for token in range(100):
            with self.assertRaises(CallError) as caught:
                self.borrowed.views([(1, 0, 1, 3 * token), (9, 0, 1, 3 * token + 1), (1, 0, 1, 3 * token + 2)])
            self.assertIn("why", caught.exception.message)
            caught = None
        gc.collect()
        self.assertEqual(sorted(self.borrowed.take_released()), list(range(300)))
        self.assertEqual((self.borrowed.take_released(), self.borrowed.outstanding), ([], 0))
        self.borrowed.take_back([5, 6])
        self.assertEqual((self.borrowed.outstanding, self.borrowed.take_released()), (2, [5, 6]))

    def test_a_frame_may_overtake_its_chunk(self):
        views = []
        thread = threading.Thread(target=lambda: views.extend(self.borrowed.views([(2, 0, 5, 1)])))
        thread.start()
        self.borrowed.add(2, self.fd, CHUNK)
        thread.join(20)
        self.assertEqual([len(view) for view in views], [5])

    def test_only_sealed_memory_of_the_announced_size_is_mapped(self):
        bare = os.memfd_create("bare", os.MFD_ALLOW_SEALING)
        os.ftruncate(bare, CHUNK)
        with open("/dev/null") as null:
            for fd, size in [
                (bare, CHUNK),
                (self.fd, 0),
                (self.fd, CHUNK - 1),
                (self.fd, 2 * CHUNK),
                (null.fileno(), 1),
                (-1, 1),
            ]:
                with self.assertRaises(OSError):
                    self.borrowed.add(3, fd, size)
        os.close(bare)


if __name__ == "__main__":
    unittest.main()
