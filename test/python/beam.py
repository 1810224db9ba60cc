"""A stand-in for the BEAM: starts a worker and talks to it as `native/PROTOCOL.md` says, with checks of its own."""

import fcntl
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading

from msgpack import ExtType, packb, unpackb

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.join(os.path.dirname(os.path.dirname(HERE)), "priv", "python")
# What a worker imports from: the package, and the modules of these tests.
PYTHONPATH = f"{PACKAGE}:{HERE}"
REQUEST = struct.Struct("<BBBBIQIIII")
REPLY = struct.Struct("<BBBBIQQII")
INLINE, ZERO_COPY, GRPC = 1, 2, 4
SEALS = 0x2 | 0x4 | 0x10


class Reply:
    def __init__(self, beam, frame, beside=None):
        self.kind, self.way, self.flags, self.gil, length, self.call_id, self.ns, count, released = REPLY.unpack_from(
            frame
        )
        at = 32
        self.places = []
        lengths = []
        for _ in range(count):
            if self.way == 1:
                self.places.append(struct.unpack_from("<QQQQ", frame, at))
                at += 32
            else:
                lengths.append(struct.unpack_from("<Q", frame, at)[0])
                at += 8
        self.released = list(struct.unpack_from(f"<{released}Q", frame, at))
        at += 8 * released
        self.envelope = unpackb(frame[at : at + length], strict_map_key=False)
        at += length
        self.buffers = []
        if self.way == 0:
            for size in lengths:
                gap = -at % 64
                assert bytes(frame[at : at + gap]) == bytes(gap)
                self.buffers.append(frame[at + gap : at + gap + size])
                at += gap + size
        elif self.way == 2:
            self.buffers = list(beside or [])
            assert [len(b) for b in self.buffers] == lengths
        assert at == len(frame), (at, len(frame))
        if self.places:
            beam.await_chunks({p[0] for p in self.places})
            for chunk, offset, size, _ in self.places:
                memory = beam.chunks[chunk]
                assert offset + size <= len(memory) and offset % 8 == 0
                self.buffers.append(memory[offset : offset + size])
        beam.tokens_back += self.released

    @property
    def tokens(self):
        return [place[3] for place in self.places]


class Beam:
    """One worker. Use as a context manager."""

    def __init__(self, modules=("tools",), python=sys.executable, env=None, await_ready=True, popen=None, **settings):
        self.dir = tempfile.TemporaryDirectory(prefix="snakepit-")
        path = os.path.join(self.dir.name, "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(20)
        environ = (
            os.environ | {"SNAKEPIT_SOCKET": path, "SNAKEPIT_TOKEN": "ab" * 16, "PYTHONPATH": PYTHONPATH} | (env or {})
        )
        self.process = subprocess.Popen(
            [python, "-m", "snakepit.main"],
            env=environ,
            cwd=HERE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **(popen or {}),
        )
        self.control, _ = listener.accept()
        listener.close()
        self.chunks, self.fds, self.tokens_back, self.messages = {}, [], [], []
        self.changed = threading.Condition()
        self.pending = b""
        hello = self._receive()
        assert hello[0] == "hello" and hello[1]["token"] == b"\xab" * 16 and hello[1]["pid"] == self.process.pid
        self.hello = hello[1]
        self.settings = {
            "owner": 7,
            "lanes": 1,
            "inline_limit": 4096,
            "chunk_size": 1 << 20,
            "quota": 64 << 20,
            "idle_ms": 60_000,
            "max_result": 0,
            "modules": list(modules),
        }
        self.settings.update(settings)
        self.send(["welcome", self.settings])
        message = self._receive()
        assert message == ["lanes", self.settings["lanes"]], message
        self.lanes = [socket.socket(fileno=self.fds.pop(0)) for _ in range(message[1])]
        self.calls = 0
        self.owned, self.next_token, self.out = {}, 1000, None
        threading.Thread(target=self._read_control, daemon=True).start()
        self.ready = self.message("ready", "failed") if await_ready else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.control.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        try:
            self.process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for sock in (self.control, *self.lanes):
            sock.close()
        self.dir.cleanup()

    def send(self, message, fds=()):
        body = packb(message)
        data = struct.pack(">I", len(body)) + body
        if fds:
            socket.send_fds(self.control, [data], fds)
        else:
            self.control.sendall(data)

    def _receive(self):
        while True:
            if len(self.pending) >= 4:
                length = struct.unpack_from(">I", self.pending)[0]
                if len(self.pending) >= 4 + length:
                    body, self.pending = self.pending[4 : 4 + length], self.pending[4 + length :]
                    return unpackb(body)
            data, fds, _, _ = socket.recv_fds(self.control, 65536, 64)
            self.fds += fds
            if not data:
                return None
            self.pending += data

    def _read_control(self):
        try:
            while (message := self._receive()) is not None:
                with self.changed:
                    if message[0] == "chunk":
                        self._map(*message[1:])
                    elif message[0] == "released":
                        self.tokens_back += message[1]
                    self.messages.append(message)
                    self.changed.notify_all()
        except OSError:
            pass
        with self.changed:
            self.messages.append(["eof"])
            self.changed.notify_all()

    def _map(self, chunk, size):
        fd = self.fds.pop(0)
        assert fcntl.fcntl(fd, 1034) & SEALS == SEALS and os.fstat(fd).st_size == size and chunk >> 32 == 7
        self.chunks[chunk] = memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
        os.close(fd)

    def until(self, condition, timeout=5):
        with self.changed:
            assert self.changed.wait_for(condition, timeout), "nothing came"

    def await_chunks(self, ids):
        self.until(lambda: ids <= self.chunks.keys())

    def message(self, *names):
        """The first control message of these names; it is taken out."""

        def found():
            return next((m for m in self.messages if m[0] in (*names, "eof")), None)

        self.until(lambda: found() is not None, 20)
        message = found()
        self.messages.remove(message)
        return message

    def share(self, data):
        """Puts bytes into shared memory of the BEAM's, announced: a table entry."""
        if self.out is None:
            fd = os.memfd_create("out", os.MFD_ALLOW_SEALING)
            os.posix_fallocate(fd, 0, 16 << 20)
            self.out = mmap.mmap(fd, 16 << 20)
            self.out_at = 0
            fcntl.fcntl(fd, 1033, SEALS)
            self.send(["chunk", 1, 16 << 20], [fd])
            os.close(fd)
        at = self.out_at
        self.out[at : at + len(data)] = data
        self.out_at += max(len(data) + 63, 64) // 64 * 64
        self.next_token += 1
        return (1, at, len(data), self.next_token)

    def frame(
        self, command, args, *, buffers=(), places=(), way=0, mask=INLINE | ZERO_COPY | GRPC, flags=0, freed=(),
        session=None, lane=0, kind=1, envelope=None,
    ):  # fmt: skip
        self.calls += 1
        if envelope is None:
            envelope = packb([command, args, session])
        count = len(places) or len(buffers)
        head = REQUEST.pack(
            kind, 1 if places else way, mask, flags, len(envelope), self.calls, 0, count, len(freed), lane
        )
        for place in places:
            head += struct.pack("<QQQQ", *place)
        if not places:
            head += struct.pack(f"<{len(buffers)}Q", *map(len, buffers))
        out = head + struct.pack(f"<{len(freed)}Q", *freed) + envelope
        if way == 0 and not places:
            for buffer in buffers:
                out += bytes(-len(out) % 64) + buffer
        return out

    def write(self, frame, lane=0):
        self.lanes[lane].sendall(struct.pack(">I", len(frame)) + frame)

    def read(self, lane=0):
        sock = self.lanes[lane]
        length = struct.unpack(">I", self._exactly(sock, 4))[0]
        return Reply(self, memoryview(self._exactly(sock, length)))

    @staticmethod
    def _exactly(sock, count):
        out = bytearray()
        while len(out) < count:
            part = sock.recv(count - len(out))
            if not part:
                raise EOFError
            out += part
        return bytes(out)

    def call(self, command, args=None, lane=0, **options):
        self.write(self.frame(command, args or {}, lane=lane, **options), lane)
        reply = self.read(lane)
        assert reply.call_id == self.calls
        return reply

    def stream(self, command, args=None, **options):
        self.write(self.frame(command, args or {}, flags=2, **options))
        while True:
            reply = self.read()
            yield reply
            if reply.kind in (2, 4):
                return


def tensor(dtype, shape, data):
    return ExtType(6, packb([dtype, shape, data]))


def buffer(index, code=4):
    return ExtType(code, index.to_bytes(4, "little"))
