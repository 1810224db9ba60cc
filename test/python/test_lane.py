"""A lane over a real socket: what it reads, in which pieces, and when it ends."""

import socket
import struct
import sys
import threading
import unittest

from msgpack import packb, unpackb

from beam import REPLY, REQUEST
from snakepit._native import Borrowed
from snakepit.memory.maintenance import Maintenance
from snakepit.runtime.calls import Service
from snakepit.runtime.lane import Lane
from snakepit.support import context
from snakepit.support.limits import CALL, ERROR, RESULT, SPIN, SYNC
from snakepit.tools.registry import collect, tool


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool
def session() -> object:
    return context.caller.get()


@tool
def large(n: int) -> str:
    return "x" * n


@tool
def fail() -> None:
    raise ValueError("no")


def request(command, arguments, call_id, kind=CALL, flags=0, caller=None):
    envelope = packb([command, arguments, caller]) if kind == CALL else packb(0)
    mask = 7 if kind == CALL else 1
    frame = REQUEST.pack(kind, 0, mask, flags, len(envelope), call_id, 0, 0, 0, 0) + envelope
    return struct.pack(">I", len(frame)) + frame


class Served(unittest.TestCase):
    def setUp(self):
        ours, self.beam = socket.socketpair()
        self.beam.settimeout(20)
        borrowed = Borrowed()
        self.maintenance = Maintenance(None, borrowed, 60_000, lambda tokens: None)
        self.addCleanup(self.maintenance.stop)
        tools = collect([sys.modules[__name__]])
        self.service = Service(tools, None, borrowed, self.maintenance, 16_384, 0, busy_poll=50)
        self.lane = Lane(ours, self.service)
        self.thread = threading.Thread(target=self.lane.serve, daemon=True)
        self.thread.start()
        self.addCleanup(self.thread.join, 20)
        self.addCleanup(self.beam.close)

    def read(self, count):
        data = b""
        while len(data) < count:
            part = self.beam.recv(count - len(data))
            self.assertTrue(part, "the lane ended")
            data += part
        return data

    def reply(self):
        frame = self.read(struct.unpack(">I", self.read(4))[0])
        kind, _, _, self.gil, size, call_id, _, buffers, _ = REPLY.unpack_from(frame)
        start = REPLY.size + 8 * buffers
        return kind, call_id, unpackb(frame[start : start + size])

    def test_calls_are_answered_in_turn_whether_it_spins_or_sleeps(self):
        for n in range(200):
            self.beam.sendall(request("add", {"a": n, "b": 1}, n + 1, flags=SPIN if n % 3 else 0))
            self.assertEqual(self.reply(), (RESULT, n + 1, n + 1))

    def test_a_frame_may_come_in_pieces_of_any_size(self):
        for length in (1, 3, 4, 5, 20, 36, 40):
            whole = request("add", {"b": 2, "a": length}, length)
            for at in range(0, len(whole), length):
                self.beam.sendall(whole[at : at + length])
            self.assertEqual(self.reply(), (RESULT, length, length + 2))

    def test_what_was_read_beyond_a_frame_is_the_next_one(self):
        self.beam.sendall(request("add", {"a": 1, "b": 1}, 5) + request(None, None, 6, kind=SYNC))
        self.assertEqual(self.reply(), (RESULT, 5, 2))
        self.assertEqual(self.reply()[:2], (RESULT, 6))

    def test_a_large_request_and_a_large_reply_are_whole(self):
        self.beam.sendall(request("add", {"a": "x" * 300_000, "b": 1}, 1))
        self.assertEqual(self.reply()[:2], (ERROR, 1))
        for n in (100, 200_000, 5_000_000):
            self.beam.sendall(request("large", {"n": n}, n))
            if n < 16_384:
                self.assertEqual(self.reply(), (RESULT, n, "x" * n))
            else:
                # Beside the envelope, in the frame.
                self.assertEqual(self.reply()[:2], (RESULT, n))

    def test_each_call_has_its_own_caller(self):
        for caller in (None, "a", [None, "id"], ["a", "id"], "b", None):
            self.beam.sendall(request("session", {}, 1, caller=caller))
            self.assertEqual(self.reply(), (RESULT, 1, caller))

    def test_a_tool_that_raises_leaves_the_lane_as_it_was(self):
        for n in range(3):
            self.beam.sendall(request("fail", {}, n))
            kind, call_id, error = self.reply()
            self.assertEqual((kind, call_id, error["message"]), (ERROR, n, "ValueError: no"))
            self.beam.sendall(request("add", {"a": n, "b": 0}, 10 + n))
            self.assertEqual(self.reply(), (RESULT, 10 + n, n))

    def test_it_ends_with_its_connection(self):
        self.beam.sendall(request("add", {"a": 1, "b": 1}, 1, flags=SPIN))
        self.reply()
        self.beam.close()
        self.thread.join(20)
        self.assertFalse(self.thread.is_alive())
        self.assertEqual(self.lane.sock.fileno(), -1)

    def test_it_ends_with_its_connection_in_the_middle_of_a_frame(self):
        self.beam.sendall(request("add", {"a": 1, "b": 1}, 1)[:20])
        self.beam.close()
        self.thread.join(20)
        self.assertFalse(self.thread.is_alive())

    def test_a_peer_that_reads_nothing_does_not_keep_other_threads_from_running(self):
        # More than the socket holds: the lane waits until somebody reads, without the interpreter's lock.
        self.beam.sendall(request("large", {"n": 30_000_000}, 2))
        ran = threading.Event()
        threading.Thread(target=ran.set).start()
        self.assertTrue(ran.wait(20))
        self.assertEqual(self.reply()[:2], (RESULT, 2))

    def test_a_reply_tells_how_long_its_request_waited_for_the_interpreters_lock(self):
        over = False

        def hold():
            while not over:
                pass

        interval = sys.getswitchinterval()
        self.addCleanup(sys.setswitchinterval, interval)
        holder = threading.Thread(target=hold)
        code = 0
        for _ in range(20):
            self.beam.sendall(request("add", {"a": 1, "b": 1}, 1))
            self.assertEqual(self.reply(), (RESULT, 1, 2))
        sys.setswitchinterval(0.02)
        holder.start()
        try:
            # The holder gives the lock up after that interval, and not before. But this thread does so as it sends, and
            # the lane may be quicker than the holder then: until it is not.
            for n in range(200):
                self.beam.sendall(request("add", {"a": n, "b": 1}, n))
                self.assertEqual(self.reply(), (RESULT, n, n + 1))
                code = max(code, self.gil)
                if code > 80:
                    break
        finally:
            over = True
            holder.join()
        self.assertGreater(((8 + (code - 1) % 8) << (code - 1) // 8) / 8, 1000)

    def test_it_ends_once_the_worker_stops(self):
        self.service.stopping = True
        self.beam.sendall(request("add", {"a": 1, "b": 1}, 1))
        self.thread.join(20)
        self.assertFalse(self.thread.is_alive())


if __name__ == "__main__":
    unittest.main()
