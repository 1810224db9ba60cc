"""A reply takes a way only if that way can carry it: limits are part of the mask."""

import itertools
import mmap
import os
import subprocess
import sys
import unittest

import numpy as np
from msgpack import packb

import tools
from beam import GRPC, INLINE, PYTHONPATH, REPLY, REQUEST, ZERO_COPY, Beam
from snakepit._native import Arena, Borrowed, Buffers, Replies
from snakepit.codec.encode import Encoder
from snakepit.memory.maintenance import Maintenance
from snakepit.runtime.calls import Calls, Service
from snakepit.support.errors import CallError
from snakepit.support.limits import MAX_FRAME, MAX_GRPC_MESSAGE
from snakepit.tools.registry import collect
from snakepit.wire.payload import payload_size, write_payload

ALL = INLINE | ZERO_COPY | GRPC
KIB, MIB = 1 << 10, 1 << 20


# Left for the tokens that a reply gives back.
TOKENS = 1 << 20
_NORESERVE = 0x4000


def untouched(length):
    """So many bytes that nobody may touch: there is not enough memory for them."""
    return memoryview(mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE))


def arena(quota=8 * MIB):
    return Arena(7, MIB, quota, lambda *_: None, lambda *_: None)


def placer(own=None, max_frame=MAX_FRAME, max_message=MAX_GRPC_MESSAGE):
    borrowed = Borrowed(own)
    return Replies(
        arena=own,
        borrowed=borrowed,
        maintenance=Maintenance(own, borrowed, 60_000, lambda tokens: None),
        lend_to_numpy=None,
        max_result=0,
        max_frame=max_frame,
        max_message=max_message,
    )


class Limits(unittest.TestCase):
    def test_a_cold_reply_that_only_memory_can_carry_makes_memory(self):
        # Frames and messages of 2 MiB stand for those of 2 GiB.
        for mask in (ALL, ZERO_COPY | GRPC, ZERO_COPY | INLINE):
            own = arena()
            placed = placer(own, max_frame=2 * MIB, max_message=2 * MIB).place(Buffers([b"x" * (3 * MIB)]), mask, False)
            self.assertEqual((placed[0], own.total), (1, 3 * MIB), mask)

    def test_what_fits_goes_as_before(self):
        for mask, way in [(ALL, 0), (ZERO_COPY | GRPC, 2), (GRPC, 2), (INLINE, 0)]:
            own = arena()
            placed = placer(own, max_frame=8 * MIB, max_message=8 * MIB).place(Buffers([b"x" * (3 * MIB)]), mask, False)
            self.assertEqual((placed[0], own.total), (way, 0), mask)

    def test_the_real_limits(self):
        claimed = [untouched(2_500_000_000)]
        many = [untouched(1_500_000_000), untouched(1_000_000_000)]
        for buffers in (claimed, many):
            with self.assertRaises(CallError) as caught:
                placer(arena()).place(Buffers(buffers), ALL, False)
            error = caught.exception
            self.assertEqual((error.category, error.reason), ("transfer", "quota"))
            for number in (8 * MIB, 2_500_000_000, MAX_FRAME):
                self.assertIn(str(number), error.message)
            for own, mask, reason in [
                (None, ALL, "unavailable"),
                (arena(), GRPC, "too_large"),
                (None, INLINE, "too_large"),
            ]:
                with self.assertRaises(CallError) as caught:
                    placer(own).place(Buffers(buffers), mask, False)
                self.assertEqual(caught.exception.reason, reason)
                for number in (2_500_000_000, MAX_FRAME, MAX_GRPC_MESSAGE):
                    self.assertIn(str(number), caught.exception.message)

    def test_what_is_allowed_is_what_the_frame_and_the_message_take_and_no_more(self):
        limit = TOKENS + 300 * KIB
        for count, each, envelope in itertools.product((1, 3, 100, 1000), (1, 64, 65, 4095), (0, 1, 100 * KIB)):
            views = [memoryview(b"x" * each)] * count
            tokens = range(TOKENS // 8)
            bare = bytes(REPLY.size + 8 * count + 8 * len(tokens) + envelope)
            frame = len(bare)
            for _ in views:
                frame += -frame % 64 + each
            sizes = {
                INLINE: frame,
                ZERO_COPY: len(bare) + (32 - 8) * count,
                GRPC: payload_size(bare, views),
            }
            self.assertLessEqual(len(write_payload(bare, views)), sizes[GRPC])
            able = placer(max_frame=limit, max_message=limit).open_ways(count, count * each, ALL, envelope)
            for way, size in sizes.items():
                if size > limit:
                    self.assertFalse(able & way, (way, count, each, envelope))
                elif size + 64 * count + 64 <= limit:
                    self.assertTrue(able & way, (way, count, each, envelope))

    def test_an_envelope_that_nothing_can_carry(self):
        borrowed = Borrowed()
        calls = Calls(
            Service(collect([tools]), None, borrowed, Maintenance(None, borrowed, 60_000, lambda _: None), 256, 0)
        )
        calls.replies.max_envelope = 5_000
        envelope = packb(["identity", {"x": list(range(20_000))}, None])
        frame = REQUEST.pack(1, 0, 7, 0, len(envelope), 9, 0, 0, 0, 0) + envelope
        reply = calls.answer(memoryview(frame)).envelope
        self.assertIn(b"too_large", reply)
        self.assertIn(b"at most 5000 can go", reply)


class Lost(unittest.TestCase):
    """A reply that fails on its way leaves no slot behind."""

    class Upkeep:
        def __init__(self, fails):
            self.fails = fails

        def __getattr__(self, name):
            def called(*_):
                if name == self.fails:
                    raise OSError(name)

            return called

    def replies(self, own, fails):
        return Replies(
            arena=own,
            borrowed=Borrowed(own),
            maintenance=self.Upkeep(fails),
            lend_to_numpy=None,
            max_result=0,
            max_frame=MAX_FRAME,
            max_message=MAX_GRPC_MESSAGE,
        )

    def test_whichever_step_raises(self):
        for fails, ways, forced in [
            ("stir", ZERO_COPY, True),
            ("stir_now", ZERO_COPY, True),
            ("want", ZERO_COPY | INLINE, False),
        ]:
            own = arena()
            if fails == "stir_now":
                # Nearly full, so that a spare chunk is wanted.
                own.force(MIB // 2 - 100)
                own.force(MIB // 4)
            held = own.live_slots()
            with self.assertRaises(OSError):
                self.replies(own, fails).place(Buffers([b"x" * 9000, b"y" * 100_000]), ways, forced)
            self.assertEqual(own.live_slots(), held, fails)

    def test_an_array_that_changed_since_it_was_encoded_is_not_read(self):
        own = arena()
        for change in (lambda a: a.resize(10, refcheck=False), lambda a: a.resize(10**6, refcheck=False)):
            array = np.ones(200_000, "u1")
            encoder = Encoder(4096)
            encoder.encode([array])
            change(array)
            with self.assertRaisesRegex(TypeError, "changed"):
                self.replies(own, None).place(encoder.take_buffers(), ZERO_COPY, True)
            self.assertEqual(own.live_slots(), 0)

    def test_sizes_that_no_number_holds_are_too_large(self):
        huge = np.broadcast_to(np.uint8(0), (1 << 62,))
        encoder = Encoder(4096)
        encoder.encode([huge] * 5)
        with self.assertRaises(CallError) as caught:
            self.replies(None, None).place(encoder.take_buffers(), INLINE | GRPC, False)
        self.assertEqual(caught.exception.reason, "too_large")

    def test_a_module_that_is_called_numpy_and_is_another(self):
        code = (
            "import sys, types\n"
            "class ndarray: pass\n"
            "sys.modules['numpy'] = types.SimpleNamespace(ndarray=ndarray, generic=float)\n"
            "from snakepit.codec.encode import Encoder\n"
            "try: Encoder(4096).encode(ndarray())\n"
            "except Exception as error: print(type(error).__name__)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": PYTHONPATH}
        )
        # Its instances are not read as arrays: that would most likely be the process' end.
        self.assertEqual((done.returncode, done.stdout.endswith("Error\n")), (0, True), done.stderr)


class Streams(unittest.TestCase):
    def test_a_cold_item_on_a_lane_does_not_wait_to_be_fetched(self):
        with Beam() as beam:
            items = list(beam.stream("count", {"n": 2, "size": 100_000}, mask=ZERO_COPY | GRPC))
            self.assertEqual([(item.kind, item.way, len(item.buffers)) for item in items[:2]], [(3, 1, 1)] * 2)
            beam.call("let_go", freed=[token for item in items for token in item.tokens])
            items = list(beam.stream("count", {"n": 2, "size": 100_000}, mask=GRPC))
            self.assertEqual(items[0].envelope["reason"], "no_way")


if __name__ == "__main__":
    unittest.main()
