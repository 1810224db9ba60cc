"""Damaged requests at the worker's end: each gets a sound answer, or ends its connection. Nothing is lost."""

import collections
import dataclasses
import datetime
import select
import socket
import struct
import sys
import threading
import unittest

import numpy as np
import pydantic
from msgpack import ExtType, packb

from beam import REQUEST, Reply, buffer, tensor
from fuzzing import Fuzzed, Worker, damaged, places, value_of
from snakepit._native import Requests
from snakepit.runtime.calls import Calls
from snakepit.runtime.lane import Lane
from snakepit.support import context
from snakepit.support.errors import ProtocolError
from snakepit.tools.registry import tool

# As if the calls of this module's tools had no end: `keep` has what the last one was given.
KEPT = []


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0
    inside: "list[Point] | None" = None


class Checked(pydantic.BaseModel):
    n: int
    tags: dict[str, list[int]] = {}


@tool
def nothing():
    return None


@tool
def add(a: int, b: int = 2) -> int:
    return a + b


@tool
def identity(x):
    return x


@tool
def typed(s: str, b: bytes, w: bytearray, t: tuple[int, ...], m: set[str] | None, a: np.ndarray | None) -> object:
    return [s, b, w, t, m, a]


@tool
def made(p: Point, m: Checked, at: datetime.datetime) -> list:
    return [p.x, m.n, at]


@tool
def open_ended(x, /, *, y=1, **rest):
    return rest


@tool
def keep(x):
    KEPT.append(x)


@tool
def blob(n: int) -> bytes:
    return b"x" * (n % 5000)


@tool
def array(n: int):
    return np.arange(n % 3000, dtype="f4").reshape(2, -1) if n % 2 == 0 else np.arange(n % 3000)[::-2]


@tool
def count(n: int, size: int = 0):
    for i in range(n % 5):
        yield i, b"x" * (size % 1000)
    return n


@tool
async def count_later(n: int):
    for i in range(n % 5):
        yield i


@tool
async def later(x):
    return x


@tool
def fails(x=None):
    raise ValueError(x)


@tool
def unsupported(x):
    return {"a": [x, object()]}


@tool
def caller():
    return context.caller.get()


MODULE = sys.modules[__name__]
FORCED, STREAM, RETURNED = 1, 2, 8
SYNCHRONIZE = 3
CALLS = [
    ("nothing", {}),
    ("add", {"a": 1, "b": 2}),
    ("add", {"a": -(2**63)}),
    ("identity", {"x": [1, {"a": [None, True], "b": {}}, ["x"], 1.5, 2**64 - 1]}),
    ("identity", {"x": ExtType(2, packb([1, ExtType(3, packb([1, 2]))]))}),
    ("identity", {"x": tensor("f32", [2, 3], bytes(24))}),
    ("identity", {"x": [ExtType(1, b"\1" + bytes(9) + b"\7"), ExtType(7, packb([2024, 2, 29]))]}),
    ("identity", {"x": [ExtType(8, packb([1, 2, 3, 4])), ExtType(9, packb([2024, 2, 29, 1, 2, 3, 4]))]}),
    ("identity", {"x": ExtType(10, packb([2024, 7, 1, 1, 2, 3, 4, "Europe/Berlin", "CEST", 3600, 3600]))}),
    ("identity", {"x": [ExtType(11, packb("-1.50E+7")), ExtType(11, packb("NaN"))]}),
    ("typed", {"s": "é", "b": b"1", "w": b"2", "t": ExtType(2, packb([1])), "m": ExtType(3, packb(["a"])), "a": None}),
    ("made", {"p": {"x": 1, "inside": [{"x": 2}]}, "m": {"n": 1, "tags": {"a": [1]}}, "at": "2024-02-29T12:00:00"}),
    ("open_ended", {"x": 1, "y": 2, "z": 3}),
    ("keep", {"x": b"small"}),
    ("blob", {"n": 300}),
    ("array", {"n": 600}),
    ("array", {"n": 601}),
    ("count", {"n": 3}),
    ("count", {"n": 4, "size": 900}),
    ("count_later", {"n": 3}),
    ("later", {"x": "later"}),
    ("fails", {"x": "no"}),
    ("unsupported", {"x": "é"}),
    ("caller", {}),
    ("no_such_tool", {"x": 1}),
]
# With buffers of these lengths.
WITH_BUFFERS = [
    ("identity", {"x": [buffer(0), buffer(1, 5)]}, [300, 700]),
    ("identity", {"x": tensor("u8", [300], buffer(0))}, [300]),
    ("identity", {"x": tensor("f64", [2, 40], buffer(1))}, [0, 640]),
    ("typed", {"s": buffer(0, 5), "b": buffer(1), "w": buffer(1), "t": ExtType(2, packb([])), "m": None,
               "a": tensor("s16", [150], buffer(1))}, [260, 300]),
    ("keep", {"x": [buffer(0), buffer(0)]}, [400]),
    ("fails", {"x": buffer(0)}, [400]),
    ("later", {"x": buffer(0)}, [300]),
]  # fmt: skip
CALLERS = [None, "session", [None, "correlation"], ["session", "correlation"]]


def corpus(end):
    """Sound requests, among them some of every way, to be answered by every way. A token is in one of them only."""
    frames, token = [], 0
    for number, (command, args) in enumerate(CALLS):
        for flags in (0, STREAM, STREAM | RETURNED):
            mask = [7, 1, 2, 3, 4, 5, 6][number % 7]
            envelope = packb([command, args, CALLERS[number % 4]])
            frames.append(
                end.frame(command, args, envelope=envelope, mask=mask, flags=flags, freed=[10**6] * (number % 2))
            )
    for command, args, sizes in WITH_BUFFERS:
        for mask, flags in ((7, 0), (2, FORCED), (4, 0), (1, 0), (7, STREAM)):
            buffers = [bytes(65 + i % 26 for i in range(size)) for size in sizes]
            frames.append(end.frame(command, args, buffers=buffers, mask=mask, flags=flags))
            # Some are letters, because a `str` may lie in a buffer as well.
            table = [(1, 65 + 256 * i, min(size, 60), token + i) for i, size in enumerate(sizes)]
            token += len(table)
            if command == "keep":
                frames.append(end.frame(command, args, places=table, mask=mask, flags=flags))
            table = [(1, 4096 * i, size, token + i) for i, size in enumerate(sizes)]
            token += len(table)
            frames.append(end.frame(command, args, places=table, mask=mask, flags=flags))
    return frames


class Requested(Fuzzed):
    def setUp(self):
        self.worker = Worker(MODULE)
        self.end, self.arena, self.borrowed = self.worker.end, self.worker.arena, self.worker.borrowed
        self.addCleanup(KEPT.clear)

    def announce_nothing(self, frame):
        """The chunks that a frame names and nobody has will not come: it does not wait for them."""
        unknown = {place[0] for place in places(frame)} - {1} - self.end.chunks.keys()
        for chunk in unknown:
            self.borrowed.refuse(chunk, "it is not there")
        return unknown

    def check(self, reply):
        """A reply is right in itself. Its places are free again."""
        self.arena.freed(reply.tokens)
        self.assertIn(reply.kind, (1, 2, 3, 4, 5))
        if reply.kind == 2:
            self.assertEqual(
                reply.envelope.keys(), {"category", "reason", "message", "path", "type", "traceback", "details"}
            )
            self.assertIn(reply.envelope["category"], ("validation", "python_error", "transfer", "worker"))
            # Nobody foresaw it.
            self.assertNotEqual(reply.envelope["reason"], "internal", reply.envelope)
        else:
            value_of(packb(reply.envelope), reply.buffers)

    def nothing_is_held(self):
        KEPT.clear()
        self.assertEqual((self.arena.live_slots(), self.borrowed.outstanding), (0, 0))


class Frames(Requested):
    """One by one, through what a lane calls."""

    def setUp(self):
        super().setUp()
        self.lane = Calls(self.worker.service)
        self.corpus = corpus(self.end)

    def read(self, reply, beside=True):
        if isinstance(reply, bytes):
            self.assertEqual(struct.unpack_from(">I", reply)[0], len(reply) - 4)
            return Reply(self.end, memoryview(reply)[4:])
        if reply.way == 0:
            return Reply(self.end, memoryview(reply.frame()))
        return Reply(self.end, memoryview(reply.head), reply.buffers)

    def replies(self, rng, frame):
        """All replies to a frame, read; nothing if the quick way has none."""
        match rng.randrange(3):
            case 0:
                reply = self.lane.quick(frame)
                return [] if reply is None else [self.read(reply)]
            case 1:
                return [self.read(self.lane.answer(memoryview(frame)))]
            case _:
                return [self.read(reply) for reply in self.lane.stream(memoryview(frame))]

    def test_each_is_answered_or_breaks_the_protocol(self):
        kinds = collections.Counter()
        for frame in self.corpus:
            reply = self.read(self.lane.answer(memoryview(frame)))
            self.check(reply)
            kinds[reply.kind, reply.way] += 1
        # Results by every way, and errors: what is damaged is worth it.
        self.assertGreaterEqual(kinds.keys(), {(1, 0), (1, 1), (1, 2), (2, 0)})
        KEPT.clear()
        self.borrowed.take_released()
        self.end.tokens_back.clear()
        self.nothing_is_held()
        self.fuzz("worker: requests", self.one)
        # It works as before.
        self.assertEqual(self.read(self.lane.answer(memoryview(self.corpus[3]))).envelope, 3)

    def one(self, rng):
        self.input = frame = damaged(rng, rng.choice(self.corpus), self.corpus)
        unknown = self.announce_nothing(frame)
        sent = collections.Counter(place[3] for place in places(frame))
        try:
            replies = self.replies(rng, frame)
        except ProtocolError:
            replies = []
        for reply in replies:
            self.check(reply)
            self.assertEqual(reply.call_id, Requests.head(memoryview(frame))[3])
        answered = bool(replies)
        reply = replies = None
        KEPT.clear()
        back = collections.Counter(self.end.tokens_back + self.borrowed.take_released())
        self.end.tokens_back.clear()
        # Each token comes back once, and no other does; where the table was not read so far, none does.
        self.assertIn(back, [sent] if answered else [sent, collections.Counter()])
        for chunk in unknown:
            self.borrowed.drop(chunk)
        self.nothing_is_held()


class Connections(Requested):
    """Several at once, through a socket, in pieces."""

    def setUp(self):
        super().setUp()
        self.corpus = corpus(self.end) + [
            self.end.frame(None, None, kind=SYNCHRONIZE, mask=1, envelope=packb(unread)) for unread in (None, 0, 7)
        ]

    def test_frames_in_pieces_are_answered_in_turn_until_one_breaks_the_protocol(self):
        self.fuzz("worker: connections", self.one)

    def one(self, rng):
        frames, damage_from = [], rng.randrange(5)
        for number in range(rng.randrange(1, 6)):
            frame = rng.choice(self.corpus)
            # Its own number, by which its reply is known.
            frame = frame[:8] + struct.pack("<Q", number + 1) + frame[16:]
            frames.append(frame if number < damage_from else damaged(rng, frame, self.corpus))
        stream = b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
        if rng.random() < 0.2:
            sound = sum(4 + len(frame) for frame in frames[:damage_from])
            stream = stream[:sound] + damaged(rng, stream[sound:], [stream])
            frames = list(self.whole(stream))
        self.input = stream
        unknown = set().union(*map(self.announce_nothing, frames))
        replies = self.conversation(self.pieces(rng, stream))
        self.answered(frames, replies, min(damage_from, len(frames)))
        replies = None
        KEPT.clear()
        sent = collections.Counter(place[3] for frame in frames for place in places(frame))
        # Damage makes requests to synchronize that name a call whose reply was read: its tokens come again.
        most = sent + sent if any(frame[:1] == b"\3" for frame in frames[damage_from:]) else sent
        # Tokens of the last call may be there still, for the next reply.
        back = collections.Counter(self.end.tokens_back + self.borrowed.take_released())
        self.end.tokens_back.clear()
        # Each token comes back once: of frames that are read, and of no others.
        self.assertEqual(back - most, collections.Counter())
        if damage_from >= len(frames):
            self.assertEqual(back, sent)
        for chunk in unknown:
            self.borrowed.drop(chunk)
        self.nothing_is_held()

    def pieces(self, rng, stream):
        most, at, pieces = rng.choice([1, 7, 40, 1000, 1 << 20]), 0, []
        while at < len(stream):
            # Not in more than the socket has room for.
            size = max(rng.randrange(1, most + 1), len(stream) // 100)
            pieces.append(stream[at : at + size])
            at += size
        return pieces

    def whole(self, stream):
        """The frames of a stream of bytes, without the last one if it is cut."""
        at = 0
        while len(stream) - at >= 4:
            size = struct.unpack_from(">I", stream, at)[0]
            if len(stream) - at - 4 < size:
                return
            yield stream[at + 4 : at + 4 + size]
            at += 4 + size

    def conversation(self, pieces):
        """All that a new lane answers to these pieces, and then to the end of the connection."""
        ours, theirs = socket.socketpair()
        lane = Lane(theirs, self.worker.service)
        thread = threading.Thread(target=lane.serve, daemon=True)
        thread.start()
        ours.setblocking(False)
        pieces, answer = collections.deque(pieces), b""
        if not pieces:
            ours.shutdown(socket.SHUT_WR)
        try:
            while True:
                readable, writable, _ = select.select([ours], [ours] if pieces else [], [], 60)
                self.assertTrue(readable or writable, "the lane neither reads nor writes")
                try:
                    if writable:
                        piece = pieces.popleft()
                        sent = ours.send(piece)
                        if sent < len(piece):
                            pieces.appendleft(piece[sent:])
                        if not pieces:
                            ours.shutdown(socket.SHUT_WR)
                    if readable:
                        part = ours.recv(1 << 16)
                        if not part:
                            break
                        answer += part
                except (BrokenPipeError, ConnectionResetError):
                    # The lane has ended; what it wrote before is still to be read.
                    pieces.clear()
            thread.join(60)
            self.assertFalse(thread.is_alive(), "the lane goes on without its connection")
        finally:
            ours.close()
        if lane.calls._runner:
            # As it does with the process.
            lane.calls._runner.close()
        frames = list(self.whole(answer))
        self.assertEqual(sum(4 + len(frame) for frame in frames), len(answer), "a reply that is cut")
        return [Reply(self.end, memoryview(frame)) for frame in frames]

    def answered(self, frames, replies, sound):
        """Each request has its reply, in turn, until the connection ends; a sound one has it in any case."""
        replies = collections.deque(replies)
        for number, frame in enumerate(frames):
            if not replies:
                self.assertGreaterEqual(number, sound, "a sound request has no reply")
                return
            while True:
                self.assertTrue(replies, "a stream without an end")
                reply = replies.popleft()
                self.assertEqual(reply.call_id, REQUEST.unpack_from(frame)[5])
                self.check(reply)
                if reply.kind != 3:
                    break
        self.assertFalse(replies, "a reply to no request")


if __name__ == "__main__":
    unittest.main()
