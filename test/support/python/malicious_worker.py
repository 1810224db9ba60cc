"""A worker written by hand, straight from native/PROTOCOL.md, that breaks one rule of it when it is asked to.

It is started in place of the interpreter. A command that names a lie is answered by it, `pid` truly; lies of the
handshake are named by the environment variable MISBEHAVING.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
import termios
import threading
import time
from typing import Any

from msgpack import ExtType, packb, unpackb

U64 = (1 << 64) - 1
SEALS = 0x2 | 0x4 | 0x10
MIB = 1 << 20
TRUTHS = {
    "protocol": 1,
    "version": os.environ["MISBEHAVING_VERSION"],
    "pid": os.getpid(),
    "python": sys.version.split()[0],
    "capabilities": ["inline", "zero_copy"],
}


def place(chunk: int, offset: int, length: int, token: int = 1) -> bytes:
    return struct.pack("<4Q", chunk, offset, length, token)


def chunk_of(size: int, allocated: bool = True, seals: int = SEALS) -> int:
    fd = os.memfd_create("snakepit", os.MFD_ALLOW_SEALING)
    if allocated:
        os.posix_fallocate(fd, 0, size)
    else:
        os.ftruncate(fd, size)
    fcntl.fcntl(fd, 1033, seals)
    return fd


class MaliciousWorker:
    def __init__(self) -> None:
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(os.environ["SNAKEPIT_SOCKET"])
        self.owner = 0
        # The call that is being answered, and the tokens it was sent.
        self.call = 0
        self.tokens: list[int] = []

    def send(self, *message: Any, fds: tuple[int, ...] = ()) -> None:
        body = packb(list(message))
        socket.send_fds(self.control, [struct.pack(">I", len(body)) + body], list(fds))

    def hello(self, **lies: Any) -> None:
        token = bytes.fromhex(os.environ["SNAKEPIT_TOKEN"])
        self.send("hello", {"token": token} | TRUTHS | lies)

    def welcome(self) -> None:
        size = struct.unpack(">I", self.control.recv(4, socket.MSG_WAITALL))[0]
        settings = unpackb(self.control.recv(size, socket.MSG_WAITALL))[1]
        self.owner = settings["owner"]

    def lanes(self, n: int = 1) -> None:
        pairs = [socket.socketpair() for _ in range(n)]
        self.send("lanes", n, fds=tuple(theirs.fileno() for _, theirs in pairs))
        self.lane = pairs[0][0]
        for _, theirs in pairs:
            theirs.close()

    def logs(self) -> socket.socket:
        self.kept, theirs = socket.socketpair()
        self.send("logs", fds=(theirs.fileno(),))
        theirs.close()
        return self.kept

    def obey_stop(self) -> None:
        """Ends when the VM says so: a pool that stops need not wait until it may kill."""
        while prefix := self.control.recv(4, socket.MSG_WAITALL):
            body = self.control.recv(struct.unpack(">I", prefix)[0], socket.MSG_WAITALL)
            if unpackb(body)[0] == "stop":
                os._exit(0)

    def ready(self) -> None:
        self.send("ready", {"tools": []})

    def serve(self) -> None:
        while prefix := self.lane.recv(4, socket.MSG_WAITALL):
            frame = self.lane.recv(struct.unpack(">I", prefix)[0], socket.MSG_WAITALL)
            _, way, _, _, size, self.call, _, count, freed, _ = struct.unpack_from("<BBBBIQIIII", frame)
            table = 32 + count * (32 if way == 1 else 8)
            self.tokens = [struct.unpack_from("<Q", frame, at + 24)[0] for at in range(32, table, 32) if way == 1]
            at = table + 8 * freed
            command = unpackb(frame[at : at + size])[0]
            if command == "pid":
                self.reply(packb(os.getpid()))
            else:
                LIES[command](self)

    def reply(
        self,
        envelope: bytes = b"\xc0",
        kind: int = 1,
        way: int = 0,
        places: tuple[bytes, ...] = (),
        tokens: tuple[int, ...] = (),
        tail: bytes = b"",
        **lies: int,
    ) -> None:
        said = {
            "envelope_length": len(envelope),
            "call": self.call,
            "count": len(places),
            "token_count": len(tokens),
        } | lies
        head = struct.pack(
            "<BBBBIQQII",
            kind,
            way,
            0,
            0,
            said["envelope_length"],
            said["call"],
            0,
            said["count"],
            said["token_count"],
        )
        body = head + b"".join(places) + struct.pack(f"<{len(tokens)}Q", *tokens) + envelope + tail
        self.lane.sendall(struct.pack(">I", len(body)) + body)

    def chunk(self, number: int = 0, size: int = MIB, fd: int | None = None) -> int:
        """Announces a chunk; an honest one by default."""
        id = (self.owner << 32) + number
        self.send("chunk", id, size, fds=(chunk_of(size) if fd is None else fd,))
        return id

    def lies_beside_a_chunk(self, offset: int, length: int) -> None:
        """A result of one buffer, in a chunk of one MiB."""
        self.reply(packb(ExtType(4, bytes(4))), way=1, places=(place(self.chunk(), offset, length),))

    def dies_mid_frame(self) -> None:
        self.lane.sendall(struct.pack(">I", 1000) + b"\1" * 500)
        os._exit(4)

    def never_ends_its_frame(self) -> None:
        self.lane.sendall(struct.pack(">I", 1000) + b"\1" * 500)

    def announces_a_giant_frame(self) -> None:
        self.lane.sendall(b"\xff\xff\xff\xff" + b"\1" * 500)

    def announces_a_large_frame(self) -> None:
        """One GiB, of which nothing comes: the VM must not pay for a number."""
        self.lane.sendall(b"\x3f\xff\xff\xff" + b"\1" * 500)

    def answers_twice(self) -> None:
        self.reply(packb("once"))
        self.reply(packb("twice"))

    def closes_its_lane(self) -> None:
        self.lane.close()
        time.sleep(60)

    def stale_chunk(self) -> None:
        """In a chunk that it took back itself."""
        id = self.chunk()
        self.send("drop", id)
        # Until the VM has read that: as long as it has not, it may still take the chunk for one that is there.
        while fcntl.ioctl(self.control.fileno(), termios.TIOCOUTQ, bytes(4)) != bytes(4):
            time.sleep(0.001)
        self.reply(packb(ExtType(4, bytes(4))), way=1, places=(place(id, 0, 64),))

    def announces_a_chunk_twice(self) -> None:
        self.chunk()
        self.chunk()

    def announces_a_dropped_chunk_again(self) -> None:
        id = self.chunk(3)
        self.send("drop", id)
        self.chunk(3)

    def announces_an_earlier_chunk(self) -> None:
        self.chunk(3)
        self.chunk(2)

    def floods_the_control_socket(self) -> None:
        body = packb(["pong", 1])
        block = (struct.pack(">I", len(body)) + body) * 4000
        while True:
            self.control.sendall(block)

    def floods_with_chunks(self) -> None:
        """Each costs the VM a descriptor and a mapping."""
        for number in range(1 << 20):
            fd = chunk_of(4096)
            self.chunk(number, 4096, fd)
            os.close(fd)

    def floods_with_descriptors(self) -> None:
        """Of messages nobody knows, so that nobody takes them."""
        while True:
            self.send("no such message", fds=(0,) * 200)


LIES = {
    # ---- the frame ----
    "lies_about_length": lambda w: w.reply(envelope_length=1 << 30),
    "says_less_than_it_sends": lambda w: w.reply(tail=b"more"),
    "dies_mid_frame": MaliciousWorker.dies_mid_frame,
    "never_ends_its_frame": MaliciousWorker.never_ends_its_frame,
    "announces_a_giant_frame": MaliciousWorker.announces_a_giant_frame,
    "announces_a_large_frame": MaliciousWorker.announces_a_large_frame,
    "sends_an_empty_frame": lambda w: w.lane.sendall(bytes(4)),
    "unknown_kind": lambda w: w.reply(kind=77),
    "unknown_way": lambda w: w.reply(way=9),
    "streams_unasked": lambda w: w.reply(kind=3),
    "answers_another_call": lambda w: w.reply(call=w.call + 1),
    "answers_twice": MaliciousWorker.answers_twice,
    "closes_its_lane": MaliciousWorker.closes_its_lane,
    "giant_count_of_buffers": lambda w: w.reply(count=0xFFFFFFFF),
    "giant_count_of_tokens": lambda w: w.reply(token_count=0xFFFFFFFF),
    # ---- the envelope ----
    "giant_array": lambda w: w.reply(b"\xdd\xff\xff\xff\xff"),
    "giant_map": lambda w: w.reply(b"\xdf\xff\xff\xff\xff"),
    "giant_string": lambda w: w.reply(b"\xdb\xff\xff\xff\xffabc"),
    "giant_extension": lambda w: w.reply(b"\xc9\xff\xff\xff\xff\x02"),
    "giant_tensor": lambda w: w.reply(packb(ExtType(6, packb(["u8", [1 << 62, 1 << 62], b"x"])))),
    "too_deep": lambda w: w.reply(b"\x91" * 100_000 + b"\xc0"),
    "refers_to_no_buffer": lambda w: w.reply(packb(ExtType(4, b"\xff\xff\xff\x7f"))),
    "error_without_a_map": lambda w: w.reply(packb(5), kind=2),
    "error_that_is_a_date": lambda w: w.reply(packb(ExtType(7, packb([2024, 2, 29]))), kind=2),
    # ---- shared memory ----
    "lies_about_offset": lambda w: w.lies_beside_a_chunk(MIB - 32, 64),
    "offset_overflows": lambda w: w.lies_beside_a_chunk(U64 - 31, 64),
    "length_overflows": lambda w: w.lies_beside_a_chunk(64, U64),
    "lies_about_chunk": lambda w: w.reply(way=1, places=(place((w.owner << 32) + 7, 0, 64),)),
    "chunk_of_another": lambda w: w.reply(way=1, places=(place(1 << 32, 0, 64),)),
    "chunk_it_dropped": MaliciousWorker.stale_chunk,
    "lies_about_seals": lambda w: w.chunk(fd=chunk_of(MIB, seals=0)),
    "may_still_shrink": lambda w: w.chunk(fd=chunk_of(MIB, seals=SEALS & ~0x2)),
    "too_small_a_chunk": lambda w: w.chunk(fd=chunk_of(4096)),
    "chunk_without_pages": lambda w: w.chunk(fd=chunk_of(MIB, allocated=False)),
    "chunk_that_is_a_device": lambda w: w.chunk(fd=os.open("/dev/zero", os.O_RDWR)),
    "chunk_that_is_a_file": lambda w: w.chunk(fd=os.open(__file__, os.O_RDONLY)),
    "chunk_without_descriptor": lambda w: w.send("chunk", w.owner << 32, MIB),
    "announces_a_chunk_twice": MaliciousWorker.announces_a_chunk_twice,
    "announces_a_dropped_chunk_again": MaliciousWorker.announces_a_dropped_chunk_again,
    "announces_an_earlier_chunk": MaliciousWorker.announces_an_earlier_chunk,
    "announces_for_another": lambda w: w.send("chunk", 1 << 32, MIB, fds=(chunk_of(MIB),)),
    "negative_chunk": lambda w: w.send("chunk", -1, MIB, fds=(chunk_of(MIB),)),
    "chunk_of_negative_size": lambda w: w.send("chunk", w.owner << 32, -MIB, fds=(chunk_of(MIB),)),
    "drops_a_negative_chunk": lambda w: w.send("drop", -1),
    "floods_with_chunks": MaliciousWorker.floods_with_chunks,
    # ---- tokens ----
    "unknown_token": lambda w: w.reply(tokens=(U64,)),
    "returns_a_token_twice": lambda w: w.reply(tokens=(w.tokens[0], w.tokens[0])),
    "unknown_token_in_control": lambda w: w.send("released", [12345]),
    "negative_token": lambda w: w.send("released", [-1]),
    "token_that_is_no_number": lambda w: w.send("released", ["x"]),
    # ---- the control socket ----
    "floods_the_control_socket": MaliciousWorker.floods_the_control_socket,
    "floods_with_descriptors": MaliciousWorker.floods_with_descriptors,
    "giant_control_frame": lambda w: w.control.sendall(b"\xff\xff\xff\xff"),
    "giant_control_array": lambda w: w.control.sendall(struct.pack(">I", 5) + b"\xdd\xff\xff\xff\xff"),
    "control_frame_that_is_no_message": lambda w: w.control.sendall(struct.pack(">I", 1) + b"\xc0"),
    "greets_again": MaliciousWorker.hello,
    "ready_again": MaliciousWorker.ready,
    "more_lanes": lambda w: w.lanes(3),
    "closes_its_control_socket": lambda w: w.control.shutdown(socket.SHUT_RDWR),
}


def introduce(lie: str) -> None:
    if lie == "never_connects":
        time.sleep(60)
    if lie == "another_process":
        if os.fork():
            time.sleep(60)
        os.setsid()
        signal.alarm(60)
    worker = MaliciousWorker()
    if lie == "says_nothing":
        time.sleep(60)
    worker.hello(
        **{
            "lies_about_version": {"version": "0.0.0"},
            "lies_about_protocol": {"protocol": 999},
            "lies_about_token": {"token": bytes(32)},
            "no_token": {"token": None},
            "capabilities_that_are_none": {"capabilities": 5},
            "capabilities_of_no_words": {"capabilities": [{}, 1]},
            "python_that_is_no_text": {"python": {"a": [1]}},
        }.get(lie, {})
    )
    worker.welcome()
    if lie == "ready_without_lanes":
        worker.ready()
    if lie != "ready_without_lanes":
        worker.lanes(9 if lie == "too_many_lanes" else 1)
    if lie == "lanes_twice":
        worker.lanes()
    if lie == "logs_without_socket":
        worker.send("logs")
    if lie == "logs_into_a_file":
        with open(os.devnull) as file:
            worker.send("logs", fds=(file.fileno(),))
    if lie == "logs_twice":
        worker.logs()
        worker.logs()
    if lie.startswith("log_record_"):
        logs = worker.logs()
        good = packb([40, 1_700_000_000_000_000, b"malicious_worker", b"a good record", b"f.py", 1, b"f", None, None, None])
        bad = {
            "log_record_too_long": struct.pack(">I", 1 << 30) + b"x" * 100_000,
            "log_record_of_garbage": struct.pack(">I", 4) + b"\xc1\xff\xff\xff",
            "log_record_of_other_types": struct.pack(">I", len(packb([{}] * 10))) + packb([{}] * 10),
            "log_record_cut_off": struct.pack(">I", 100) + b"half",
        }[lie]
        logs.sendall(struct.pack(">I", len(good)) + good + bad)
        if lie == "log_record_cut_off":
            logs.close()
    if lie == "fails_without_words":
        worker.send("failed", {"type": {}, "message": [1], "traceback": 5})
        time.sleep(60)
    if lie == "never_ready":
        time.sleep(60)
    if lie == "tools_that_are_none":
        worker.send("ready", {"tools": 5})
    worker.ready()
    threading.Thread(target=worker.obey_stop, daemon=True).start()
    worker.serve()


introduce(os.environ.get("MISBEHAVING", ""))
