"""A real worker process, with a stand-in for the BEAM on the other side."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import numpy as np

from beam import GRPC, INLINE, PACKAGE, PYTHONPATH, ZERO_COPY, Beam, Reply, buffer, tensor
from snakepit.runtime.signals import FOR_THE_BEAM
from snakepit.wire.payload import read_payload, write_payload

DATA = np.arange(2000, dtype="<f8")
X = tensor("f64", [2000], buffer(0))


class Serving(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.beam = Beam(lanes=2)
        assert cls.beam.ready[0] == "ready", cls.beam.ready

    @classmethod
    def tearDownClass(cls):
        cls.beam.__exit__()

    def call(self, *args, **options):
        return self.beam.call(*args, **options)

    def failure(self, *args, **options):
        reply = self.call(*args, **options)
        self.assertEqual(reply.kind, 2, reply.envelope)
        self.assertEqual(self.call("add", {"a": 1, "b": 1}).envelope, 2)
        return reply.envelope

    def test_tools_are_listed(self):
        tools = {t["name"]: t for t in self.beam.ready[1]["tools"]}
        self.assertEqual(tools["add"]["signature"], "(a: int, b: int) -> int")
        self.assertIn("renamed", tools)
        self.assertNotIn("_private", tools)
        self.assertIn("zero_copy", self.beam.hello["capabilities"])

    def test_small_calls_and_both_lanes(self):
        for lane in (0, 1):
            reply = self.call("add", {"a": 2, "b": 40}, lane=lane)
            self.assertEqual((reply.kind, reply.envelope, reply.way), (1, 42, 0))
            self.assertGreater(reply.ns, 0)
        self.assertEqual(self.call("later", {"x": "y"}, lane=1).envelope, "y")
        self.assertEqual(self.call("noisy", {"x": 1}).envelope, 1)

    def test_the_environment_is_clean(self):
        self.assertEqual(self.call("environment").envelope, [])

    def test_errors(self):
        error = self.failure("fails", {"x": 1})
        self.assertEqual(
            (error["category"], error["type"], error["message"]), ("python_error", "LookupError", "LookupError: outer")
        )
        self.assertIn("in inner", error["traceback"])
        self.assertIn("ValueError: no int", error["traceback"])
        self.assertNotIn("snakepit/calls.py", error["traceback"])
        raised = {"leaves": "SystemExit", "interrupts": "KeyboardInterrupt", "recurses": "RecursionError"}
        for command, kind in raised.items():
            error = self.failure(command)
            self.assertEqual((error["category"], error["type"]), ("python_error", kind))
        error = self.failure("later_fails", {"x": 1})
        self.assertNotIn("asyncio", error["traceback"])
        error = self.failure("ad")
        self.assertEqual((error["reason"], error["details"]["nearest"][0]), ("unknown_command", "add"))
        self.assertIn("this pool has no tool 'ad'; did you mean add", error["message"])
        self.assertRegex(self.failure("zzzzzzzzz")["message"], r"; it has (\w+, ){9}\w+ and \d+ more$")
        self.assertEqual(self.failure("add", {"a": 1})["reason"], "missing_argument")
        self.assertEqual(self.failure("add", {"a": 1, "b": True})["path"], 'args["b"]')
        self.assertEqual(self.failure("unsupported")["path"], 'result["items"][2]["x"]')
        self.assertEqual(self.failure("cyclic")["reason"], "cycle")
        self.assertEqual(self.failure("x", envelope=b"\xc1")["reason"], "bad_envelope")
        self.assertEqual(self.failure("visits")["type"], "LookupError")

    def test_sessions(self):
        for session, count in [("a", 1), ("a", 2), ("b", 1), ("a", 3)]:
            self.assertEqual(self.call("visits", session=session).envelope, count)

    def test_inline_buffers_both_ways(self):
        reply = self.call("identity", {"x": X}, buffers=[DATA.tobytes()], mask=INLINE)
        self.assertEqual((reply.way, reply.flags), (0, 0))
        self.assertEqual(bytes(reply.buffers[0]), DATA.tobytes())
        large = os.urandom(3_000_001)
        both = [buffer(1), "x", buffer(0)]
        reply = self.call("identity", {"x": both}, buffers=[large, b"ab" * 5000], mask=INLINE)
        self.assertEqual([bytes(b) for b in reply.buffers], [b"ab" * 5000, large])

    def returned(self, token):
        self.beam.until(lambda: token in self.beam.tokens_back)
        self.assertEqual(self.beam.tokens_back.count(token), 1)

    def test_tokens_come_back_with_the_reply(self):
        for command, options in [("total", {}), ("fails", {}), ("later", {}), ("later_fails", {}), ("identity", {}),
                                 ("add", {}), ("nothing", {}), ("identity", {"mask": INLINE})]:  # fmt: skip
            place = self.beam.share(DATA.tobytes())
            reply = self.call(command, {"x": X}, places=[place], **options)
            self.assertEqual(reply.released, [place[3]], command)
            self.beam.call("let_go", freed=reply.tokens)

    def test_tokens_come_back_when_arguments_are_refused(self):
        short = tensor("f64", [2001], buffer(0))
        for args in ({"x": short}, {"x": [{"k": short}]}, {"x": X, "y": 1}, {1.5: X}, {"x": {1.5: X}}):
            place = self.beam.share(DATA.tobytes())
            reply = self.call("identity", args, places=[place])
            self.assertEqual((reply.envelope["category"], reply.released), ("validation", [place[3]]), args)

    def test_tokens_of_what_a_tool_keeps_come_back_later(self):
        place = self.beam.share(DATA.tobytes())
        self.assertEqual(self.call("keep", {"x": X}, places=[place]).released, [])
        self.assertEqual(self.call("let_go").released, [place[3]])
        place = self.beam.share(DATA.tobytes())
        self.assertEqual(self.call("keep_slice", {"x": X}, places=[place]).released, [])
        self.call("let_go")
        self.returned(place[3])
        place = self.beam.share(DATA.tobytes())
        self.assertEqual(self.call("knot", {"x": X}, places=[place]).released, [])
        self.returned(place[3])

    def test_streams(self):
        def stream(command, args):
            return [(r.kind, r.envelope) for r in self.beam.stream(command, args)]

        for command in ("count", "acount"):
            self.assertEqual(stream(command, {"n": 3}), [(3, 0), (3, 1), (3, 2), (4, None)])
            self.assertEqual(self.call(command, {"n": 3}).envelope, [0, 1, 2])
        self.assertEqual(stream("identity", {"x": [1, 2]}), [(3, [1, 2]), (4, None)])
        self.assertEqual(stream("later", {"x": 1}), [(3, 1), (4, None)])
        self.assertEqual([k for k, _ in stream("breaks_after", {"n": 2})], [3, 3, 2])
        self.assertEqual(stream("add", {"a": 1})[0][1]["reason"], "missing_argument")
        self.assertEqual([len(r.buffers) for r in self.beam.stream("count", {"n": 2, "size": 9000})], [1, 1, 0])
        place = self.beam.share(DATA.tobytes())
        replies = list(self.beam.stream("hold_stream", {"x": X}, places=[place]))
        self.assertEqual([r.released for r in replies], [[], [], [place[3]]])

    def test_synchronize(self):
        def frame(**options):
            return self.beam.frame(None, None, kind=3, envelope=b"\xc0", **{"mask": INLINE, **options})

        def ask():
            self.beam.write(frame())
            reply = self.beam.read()
            self.assertEqual((reply.kind, reply.way, reply.call_id), (1, 0, self.beam.calls))
            return reply.envelope

        self.call("add", {"a": 1, "b": 2})
        self.assertEqual(ask(), [self.beam.calls - 1, False])
        placed = self.call("zeros", {"n": 10_000}, mask=ZERO_COPY, flags=1)
        self.assertEqual(ask(), [self.beam.calls - 1, True])
        self.call("let_go", freed=placed.tokens)
        self.assertEqual(ask(), [self.beam.calls - 1, False])
        # Right behind a call, in one piece: answered after it.
        call = self.beam.frame("sleeps", {"seconds": 0.05})
        data = b"".join(struct.pack(">I", len(part)) + part for part in (call, frame(), frame()))
        self.beam.lanes[0].sendall(data)
        ids = [self.beam.read().call_id for _ in range(3)]
        self.assertEqual(ids, [self.beam.calls - 2, self.beam.calls - 1, self.beam.calls])
        with Beam() as beam:
            beam.write(beam.frame(None, None, kind=3, envelope=b"\xc0", mask=ZERO_COPY))
            with self.assertRaises((EOFError, ConnectionError)):
                beam.read()

    def test_the_table_of_ways(self):
        start = [n if n < 4 else (4 + n % 4) << (n // 4 - 1) for n in range(160)]
        table = bytes(begin >= 65_536 for begin in start) * 5
        with Beam() as beam:
            for token in beam.call("blob", {"n": 65_536}, mask=ZERO_COPY, flags=1).tokens:
                beam.call("let_go", freed=[token])

            def ways(*sizes):
                replies = [beam.call("blob", {"n": n}) for n in sizes]
                beam.call("let_go", freed=[token for reply in replies for token in reply.tokens])
                return [(reply.way, reply.flags) for reply in replies]

            self.assertEqual([way for way, _ in ways(5_000, 65_535, 65_536)], [1, 1, 1])
            beam.send(["table", table])
            beam.send(["ping", 1])
            beam.message("pong")
            # Not starved: it is what was wanted.
            self.assertEqual(ways(5_000, 65_535, 65_536), [(0, 0), (0, 0), (1, 0)])
            beam.send(["table", table[1:]])
            self.assertEqual(beam.message("eof"), ["eof"])

    def test_the_probe(self):
        self.assertEqual(len(self.call("snakepit.probe", {"n": 5000}, mask=INLINE).buffers[0]), 5000)
        self.assertIsNone(self.call("snakepit.probe", {"x": [1, "y"]}).envelope)
        self.assertIsNone(self.call("snakepit.probe", {"n": 1 << 40}).envelope)
        self.assertNotIn("snakepit.probe", [tool["name"] for tool in self.beam.ready[1]["tools"]])

    def test_forced_and_masks(self):
        reply = self.call("zeros", {"n": 2_000_000}, mask=ZERO_COPY, flags=1)
        self.assertEqual((reply.way, len(reply.buffers[0])), (1, 2_000_000))
        strided = self.call("zeros", {"n": 2_000_000, "dtype": ">i2"}, mask=ZERO_COPY, freed=reply.tokens)
        self.assertEqual((strided.way, strided.envelope.data[:5]), (1, b"\x93\xa3s16"))
        self.call("let_go", freed=strided.tokens)
        error = self.failure("zeros", {"n": 100_000_000}, mask=ZERO_COPY, flags=1)
        self.assertEqual((error["category"], error["reason"]), ("transfer", "quota"))
        for mask, way in [(ZERO_COPY, 1), (GRPC, 2), (INLINE | GRPC, 0)]:
            self.assertEqual(self.call("add", {"a": 1, "b": 1}, mask=mask).way, way)
        for text in (False, True):
            reply = self.call("blob", {"n": 5000, "text": text}, mask=INLINE)
            self.assertEqual((reply.envelope.code, bytes(reply.buffers[0])), (5 if text else 4, b"x" * 5000))

    def test_ping_is_answered_while_a_tool_runs(self):
        self.beam.write(self.beam.frame("sleeps", {"seconds": 0.3}))
        self.beam.send(["ping", 5])
        started = time.monotonic()
        self.assertEqual(self.beam.message("pong"), ["pong", 5])
        self.assertLess(time.monotonic() - started, 0.25)
        self.assertEqual(self.beam.read().envelope, "done")

    def test_grpc(self):
        try:
            import grpc
        except ImportError:
            self.skipTest("no grpcio")
        path = os.path.join(self.beam.dir.name, "grpc")
        self.beam.send(["grpc", path])
        self.assertEqual(self.beam.message("grpc_ready", "grpc_failed"), ["grpc_ready", path])
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(f"unix:{path}", options) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            self.assertEqual(check(b""), b"\x08\x01")
            call = channel.unary_unary("/snakepit.v1.Worker/Call")
            stream = channel.unary_stream("/snakepit.v1.Worker/Stream")

            def ask(rpc, command, args, beside=(), **options):
                frame = self.beam.frame(command, args, **options)
                return rpc(write_payload(frame, [memoryview(b) for b in beside]))

            def reply(message):
                frame, beside = read_payload(message)
                return Reply(self.beam, frame, beside)

            self.assertEqual(reply(ask(call, "add", {"a": 1, "b": 2}, lane=1, mask=GRPC)).envelope, 3)
            sent = [DATA.tobytes()]
            got = reply(ask(call, "identity", {"x": X}, sent, buffers=sent, way=2, mask=GRPC))
            self.assertEqual((got.way, bytes(got.buffers[0])), (2, sent[0]))
            got = reply(ask(call, "identity", {"x": X}, buffers=sent, mask=INLINE))
            self.assertEqual((got.way, bytes(got.buffers[0])), (0, sent[0]))
            items = [reply(m) for m in ask(stream, "count", {"n": 2, "size": 9000}, mask=GRPC, flags=2)]
            self.assertEqual([(r.kind, len(r.buffers)) for r in items], [(3, 1), (3, 1), (4, 0)])
            # On a lane, what may only go by gRPC waits to be fetched.
            place = self.beam.share(DATA.tobytes())
            waits = self.call("identity", {"x": X}, places=[place], mask=GRPC)
            self.assertEqual((waits.kind, waits.way, waits.buffers), (5, 2, []))
            self.returned(place[3])
            fetch = bytearray(self.beam.frame("", {}, kind=2, envelope=b""))
            fetch[8:16] = waits.call_id.to_bytes(8, "little")
            got = reply(call(write_payload(bytes(fetch), [])))
            self.assertEqual((got.kind, got.call_id, bytes(got.buffers[0])), (1, waits.call_id, sent[0]))
            for bad in (b"", b"\x0a\xff", write_payload(b"x" * 31, []), write_payload(bytes(fetch), [])):
                with self.assertRaises(grpc.RpcError):
                    call(bad)


class Warmth(unittest.TestCase):
    def test_cold_then_warm_then_by_reference(self):
        with Beam() as beam:
            self.follow(beam)

    def follow(self, beam):
        n = 300_000
        reply = beam.call("zeros", {"n": n})
        self.assertEqual((reply.way, reply.flags), (0, 1))
        self.assertEqual(len(reply.buffers[0]), n)
        deadline = time.monotonic() + 5
        while reply.way == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
            reply = beam.call("zeros", {"n": n})
        self.assertEqual((reply.way, reply.flags), (1, 0))
        first = reply.places[0]
        again = beam.call("zeros", {"n": n}, freed=reply.tokens)
        self.assertEqual(again.places[0][:3], first[:3], "the slot just freed is the warmest")
        made = beam.call("make", {"n": 50_000}, freed=again.tokens)
        self.assertEqual((made.way, bytes(made.buffers[0])), (1, b"\7" * 50_000))
        part = beam.call("make_part", {"n": 20_000}, freed=made.tokens)
        self.assertEqual((part.way, bytes(part.buffers[0])), (1, b"\2" * 20_000))
        beam.call("let_go", freed=part.tokens)


WAYS_TO_KEEP = (
    "array", "slice", "element", "cast", "memoryview", "slice_of_memoryview", "base", "memoryview_of_base",
    "part_of_base", "interface", "dlpack", "iterator", "weak", "ctypes",
)  # fmt: skip


class InPlace(unittest.TestCase):
    """A result is sent in place only if the reply is the sole holder of its memory: 1 copied, 2 in place."""

    N = 60_000
    IN_PLACE = 2

    def setUp(self):
        self.beam = self.enterContext(Beam())
        # Warm memory of this size, so that a copy goes there as well.
        self.warm = self.beam.call("make", {"n": self.N}, mask=ZERO_COPY)
        spare = self.beam.call("make", {"n": self.N}, mask=ZERO_COPY)
        self.beam.call("let_go", freed=self.warm.tokens + spare.tokens)

    def in_place(self, reply):
        self.assertEqual((reply.kind, reply.way), (1, 1), reply.envelope)
        return reply.flags == self.IN_PLACE

    def test_what_a_tool_keeps_cannot_change_its_result(self):
        for how in WAYS_TO_KEEP:
            with self.subTest(how):
                reply = self.beam.call("make_and_keep", {"n": self.N, "how": how}, mask=ZERO_COPY)
                self.assertFalse(self.in_place(reply))
                self.assertEqual(self.beam.call("write_kept").kind, 1)
                self.assertEqual(bytes(reply.buffers[0]), b"\7" * self.N)
                self.beam.call("let_go", freed=reply.tokens)

    def test_what_nobody_keeps_is_sent_in_place(self):
        for command in ("make", "make_later", "make_memoryview"):
            with self.subTest(command):
                reply = self.beam.call(command, {"n": self.N}, mask=ZERO_COPY)
                self.assertTrue(self.in_place(reply))
                self.assertEqual(bytes(reply.buffers[0]), b"\7" * self.N)
                self.beam.call("let_go", freed=reply.tokens)
        part = self.beam.call("make_part", {"n": self.N}, mask=ZERO_COPY)
        self.assertTrue(self.in_place(part))
        self.beam.call("let_go", freed=part.tokens)
        parts = self.beam.call("make_parts", {"n": self.N}, mask=ZERO_COPY)
        self.assertTrue(self.in_place(parts))
        self.assertEqual(
            sorted(map(bytes, parts.buffers)),
            sorted([b"\1" * self.N, b"\2" * self.N, b"\1" * self.N + b"\2" * self.N]),
        )

    def test_items_of_one_buffer_are_copied_and_fresh_ones_are_not(self):
        for command, in_place in (("one_buffer_again_and_again", False), ("fresh_buffers", True)):
            items = list(self.beam.stream(command, {"n": self.N}, mask=ZERO_COPY))[:-1]
            self.assertEqual([item.flags == self.IN_PLACE for item in items], [in_place] * 3, command)
            self.assertEqual([bytes(item.buffers[0]) for item in items], [bytes([mark]) * self.N for mark in (1, 2, 3)])
            self.beam.call("let_go", freed=[token for item in items for token in item.tokens])

    def test_a_result_that_comes_back_is_sent_by_reference_again(self):
        made = self.beam.call("make", {"n": self.N}, mask=ZERO_COPY)
        chunk, offset, length, _ = made.places[0]
        place = (chunk, offset, length, 5)
        x = tensor("u8", [self.N], buffer(0))
        again = self.beam.call("identity", {"x": x}, places=[place], mask=ZERO_COPY)
        self.assertTrue(self.in_place(again))
        self.assertEqual(again.places[0][:3], made.places[0][:3])


class Life(unittest.TestCase):
    def test_stop_ends_the_tool_and_runs_exit_handlers(self):
        for lanes in (1, 2):
            with Beam(lanes=lanes) as beam:
                beam.write(beam.frame("cleans_up", {}))
                self.assertEqual(beam.process.stdout.readline(), b"it runs\n")
                beam.send(["stop"])
                beam.send(["stop"])
                self.assertEqual(beam.process.wait(5), 0)
                self.assertEqual(beam.process.stdout.read(), b"SystemExit\nexit handlers run\n")

    def test_stop_ends_a_worker_that_waits_for_calls(self):
        with Beam(lanes=2) as beam:
            beam.send(["stop"])
            self.assertEqual(beam.process.wait(5), 0)
            self.assertIn(b"exit handlers run", beam.process.stdout.read())

    def test_stop_ends_an_import(self):
        with Beam(["slow_import"], await_ready=False) as beam:
            self.assertEqual(beam.process.stdout.readline(), b"importing\n")
            beam.send(["stop"])
            self.assertEqual(beam.process.wait(5), 0)
            self.assertEqual(beam.process.stdout.read(), b"exit handlers run\n")

    def test_end_of_control_is_the_end_at_once(self):
        with Beam() as beam:
            beam.write(beam.frame("sleeps", {"seconds": 60.0}))
            beam.control.shutdown(2)
            self.assertEqual(beam.process.wait(5), 0)

    def test_signals_that_all_get_are_for_the_beam(self):
        with Beam() as beam:
            beam.write(beam.frame("sleeps", {"seconds": 0.3}))
            for number in FOR_THE_BEAM:
                beam.process.send_signal(number)
            self.assertEqual(beam.read().envelope, "done")
            self.assertEqual(beam.call("add", {"a": 1, "b": 1}).envelope, 2)

    def test_they_do_nothing_while_a_worker_starts(self):
        # As the companion starts it.
        ignored = {"preexec_fn": lambda: [signal.signal(number, signal.SIG_IGN) for number in FOR_THE_BEAM]}
        with Beam(["slow_import"], await_ready=False, popen=ignored) as beam:
            self.assertEqual(beam.process.stdout.readline(), b"importing\n")
            for number in FOR_THE_BEAM:
                beam.process.send_signal(number)
            beam.send(["ping", 1])
            self.assertEqual(beam.message("pong"), ["pong", 1])
            # Programs that a module or a tool starts have no signal ignored but what Python ignores itself.
            beam.process.send_signal(signal.SIGALRM)
            self.assertEqual(beam.process.stdout.readline(), b"SigIgn:\t0000000000000000\n")

    def test_what_a_tool_starts_ends_by_signals_as_usual(self):
        with Beam() as beam:
            for number in FOR_THE_BEAM:
                program, new, running = beam.call("ends_by", {"number": number}).envelope
                of_python = {130} if number == signal.SIGINT else {-number}
                self.assertEqual(program, -number)
                self.assertIn(running, of_python)
                self.assertIn(new, of_python | {-number})

    def test_modules_that_fail(self):
        for module, kind, text in [
            ("broken_module", "KeyError", "in helper"),
            ("duplicate_tools", "snakepit.tools.registry.DuplicateTool", "add"),
            ("no_such_module", "ModuleNotFoundError", "no_such_module"),
        ]:
            with Beam([module]) as beam:
                self.assertEqual((beam.ready[0], beam.ready[1]["type"]), ("failed", kind))
                self.assertIn(text, beam.ready[1]["traceback"])
                self.assertNotIn("snakepit/runtime/process.py", beam.ready[1]["traceback"])
                self.assertEqual(beam.process.wait(5), 1)

    def test_idle_chunks_are_dropped(self):
        with Beam(idle_ms=100) as beam:
            reply = beam.call("zeros", {"n": 10_000}, mask=ZERO_COPY, flags=1)
            beam.call("let_go", freed=reply.tokens)
            self.assertEqual(beam.message("drop"), ["drop", reply.places[0][0]])

    def test_memory_is_given_back_when_asked(self):
        with Beam() as beam:
            reply = beam.call("zeros", {"n": 10_000}, mask=ZERO_COPY, flags=1)
            beam.call("let_go", freed=reply.tokens)
            beam.send(["idle_ms", 0])
            self.assertEqual(beam.message("drop"), ["drop", reply.places[0][0]])

    def test_results_over_the_limit(self):
        with Beam(max_result=10_000) as beam:
            for command, args in [("zeros", {"n": 20_000}), ("count", {"n": 20_000})]:
                error = beam.call(command, args).envelope
                self.assertEqual((error["category"], error["reason"]), ("transfer", "too_large"))

    def test_broken_frames_end_the_lane(self):
        with Beam(lanes=4) as beam:
            good = beam.frame("add", {"a": 1, "b": 2})
            for lane, frame in enumerate([good[:20], good + b"x", bytes([9]) + good[1:]]):
                beam.write(frame, lane)
                with self.assertRaises((EOFError, ConnectionError)):
                    beam.read(lane)
            self.assertEqual(beam.call("add", {"a": 1, "b": 2}, lane=3).envelope, 3)

    def test_without_numpy(self):
        with tempfile.TemporaryDirectory() as stubs:
            with open(os.path.join(stubs, "numpy.py"), "w") as stub:
                stub.write("raise ImportError\n")
            with Beam(env={"PYTHONPATH": f"{stubs}:{PYTHONPATH}"}) as beam:
                place = beam.share(DATA.tobytes())
                reply = beam.call("identity", {"x": [X]}, places=[place])
                self.assertEqual((reply.envelope["reason"], reply.envelope["path"]), ("missing_numpy", 'args["x"][0]'))
                self.assertIn("mix snakepit.setup --with numpy", reply.envelope["message"])
                self.assertEqual(reply.released, [place[3]])
                place = beam.share(b"z" * 9000)
                reply = beam.call("identity", {"x": buffer(0)}, places=[place], mask=ZERO_COPY)
                self.assertEqual((reply.way, bytes(reply.buffers[0])), (1, b"z" * 9000))

    def test_what_is_missing_or_broken_is_said(self):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        for name, stub, said in [
            ("inspect", "raise ImportError('broken')", "ImportError: broken"),
            ("inspect", "raise ModuleNotFoundError('gone', name='gone')", "ModuleNotFoundError: gone"),
            ("inspect", "x = (", "SyntaxError"),
            ("inspect", "import no_such_module", "ModuleNotFoundError"),
            ("inspect", "from json import no_such_name", "ImportError: cannot import name 'no_such_name'"),
            ("inspect", "import json\njson.loads('')", "JSONDecodeError"),
            ("inspect", "x = 1", "AttributeError"),
            ("inspect/__init__", "import inspect.inner", "ModuleNotFoundError"),
            ("struct", "x = 1", "ImportError: cannot import name"),
            ("struct", "from _struct import *\nStruct = None", "TypeError"),
            # The package itself imports it, before any of its modules runs.
            ("typing", "x = (", "SyntaxError"),
            ("typing", "x = 1", "ImportError: cannot import name 'TYPE_CHECKING'"),
        ]:
            with self.subTest(name=name, stub=stub), tempfile.TemporaryDirectory() as directory:
                path = os.path.join(directory, name + ".py")
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w") as file:
                    file.write(stub + "\n")
                env = clean | {"PYTHONPATH": f"{directory}:{PYTHONPATH}", "SNAKEPIT_SOCKET": "x", "SNAKEPIT_TOKEN": "y"}
                command = [os.path.abspath(sys.executable), "-m", "snakepit.main"]
                done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=directory)
                self.assertEqual(done.returncode, 78)
                module = name.partition("/")[0]
                begins = f"snakepit: {module} at {path} cannot be imported: {said}"
                self.assertEqual(done.stderr[: len(begins)], begins)
                self.assertIn(f"({command[0]}): take {directory} out of PYTHONPATH", done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), 1)

    def test_an_error_of_the_package_itself_is_shown_whole(self):
        with tempfile.TemporaryDirectory() as directory:
            shutil.copytree(os.path.join(PACKAGE, "snakepit"), os.path.join(directory, "snakepit"))
            with open(os.path.join(directory, "snakepit", "tools", "catalog.py"), "a") as file:
                file.write("raise RuntimeError('a fault of ours')\n")
            env = {"PYTHONPATH": directory, "SNAKEPIT_SOCKET": "x", "SNAKEPIT_TOKEN": "y"}
            command = [sys.executable, "-m", "snakepit.main"]
            done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=directory)
            self.assertEqual(done.returncode, 1)
            self.assertIn("Traceback", done.stderr)
            self.assertTrue(done.stderr.endswith("RuntimeError: a fault of ours\n"))


class Payload(unittest.TestCase):
    def test_round_trip_and_rubbish(self):
        import random

        from snakepit.support.errors import ProtocolError

        rng = random.Random(2)
        for _ in range(2000):
            buffers = [rng.randbytes(rng.choice([0, 1, 127, 128, 300])) for _ in range(rng.randrange(4))]
            message = write_payload(b"frame", [memoryview(b) for b in buffers])
            frame, got = read_payload(message)
            self.assertEqual((bytes(frame), [bytes(b) for b in got]), (b"frame", buffers))
            broken = bytearray(message)
            broken[rng.randrange(len(broken))] = rng.randrange(256)
            for data in (bytes(broken), message[: rng.randrange(len(message))], rng.randbytes(20)):
                try:
                    read_payload(data)
                except ProtocolError:
                    pass


if __name__ == "__main__":
    unittest.main()
