"""Arguments are checked before a tool runs; frames of any bytes do not break a worker."""

import dataclasses
import datetime
import enum
import signal
import sys
import threading
import time
import typing
import unittest
import unittest.mock
from decimal import Decimal

import numpy as np
import pydantic
from msgpack import ExtType, packb, unpackb

import tools
from beam import REQUEST, tensor
from fuzzing import Fuzzed
from snakepit import tool
from snakepit._native import Borrowed
from snakepit.memory.maintenance import Maintenance
from snakepit.runtime.calls import Calls, Service
from snakepit.support.cancel import SIGNAL, Cancellation
from snakepit.support.errors import CallError, ProtocolError
from snakepit.support.limits import RESULT
from snakepit.tools import registry
from snakepit.tools.registry import collect
from snakepit.tools.signature import Tool


def accepts(annotation, value):
    def function(x):
        pass

    function.__annotations__["x"] = annotation
    try:
        Tool("function", function).check({"x": value})
    except CallError as error:
        assert (error.category, error.reason) == ("validation", "wrong_type")
        return error.path
    return True


class Annotations(unittest.TestCase):
    def test_what_passes_and_what_does_not(self):
        array = np.zeros(3)
        noon = datetime.datetime(2024, 1, 1, 12)
        for annotation, good, bad in [
            (int, [1, 2**70], [True, 1.0, "1", None]),
            (float, [1.5, 1], [True, "1", None]),
            (bool, [True], [1, 0]),
            (str, ["a"], [b"a", 1]),
            (bytes, [b"a", memoryview(b"a")], ["a", [1]]),
            (None, [None], [0]),
            (int | None, [1, None], ["a"]),
            (typing.Optional[str], ["a", None], [1]),  # noqa: UP045
            (typing.Union[int, str], [1, "a"], [1.0]),  # noqa: UP007
            (list, [[], [1]], [(), {}]),
            (list[int], [[], [1, 2]], [[1, "a"], (1,), [True]]),
            (dict[str, list[int]], [{}, {"a": [1]}], [{1: [1]}, {"a": [None]}]),
            (tuple[int, str], [(1, "a")], [(1,), ("a", 1), [1, "a"]]),
            (tuple[int, ...], [(), (1, 2)], [(1, "a")]),
            (set[str], [set(), {"a"}], [{1}, ["a"]]),
            (typing.Literal["a", 1], ["a", 1], ["b", True, [1]]),
            (typing.Any, [1, object()], []),
            (np.ndarray, [array], [[1.0], 1]),
            ("np.ndarray", [array], [[1.0]]),
            (datetime.date, [noon.date(), noon], [noon.time(), "2024-01-01"]),
            (datetime.datetime, [noon], [noon.date()]),
            (Decimal, [Decimal(1)], [1, 1.0]),
            (typing.Annotated[int, "unit"], [1], ["a"]),
            (object, [1], []),
        ]:
            for value in good:
                self.assertIs(accepts(annotation, value), True, (annotation, value))
            for value in bad:
                self.assertNotEqual(accepts(annotation, value), True, (annotation, value))

    def test_paths(self):
        self.assertEqual(accepts(list[int], [1, "a"]), 'args["x"][1]')
        self.assertEqual(accepts(dict[str, list[int]], {"k": [1, None]}), 'args["x"]["k"][1]')
        self.assertEqual(accepts(list[int] | None, ["a"]), 'args["x"][0]')

    def test_names(self):
        def function(a, /, b, c=3, *rest, d, e=5):
            return a, b, c, d, e

        checked = Tool("f", function)
        checked.check({"a": 1, "b": 2, "d": 4})
        self.assertEqual(checked.call(a=1, b=2, d=4), (1, 2, 3, 4, 5))
        for arguments, reason, path in [
            ({"a": 1, "b": 2}, "missing_argument", 'args["d"]'),
            ({}, "missing_argument", 'args["a"]'),
            ({"a": 1, "b": 2, "d": 4, "rest": 5}, "unknown_argument", 'args["rest"]'),
            ({"a": 1, "b": 2, "d": 4, 7: 5}, "unknown_argument", "args[7]"),
        ]:
            with self.assertRaises(CallError) as caught:
                checked.check(arguments)
            self.assertEqual((caught.exception.reason, caught.exception.path), (reason, path))

        open_ended = Tool("g", lambda x, **more: more)
        open_ended.check({"x": 1, "y": 2})
        with self.assertRaises(CallError):
            open_ended.check({"y": 2})

    def test_the_decorator(self):
        @tool
        def plain():
            return 1

        self.assertEqual(plain(), 1)
        for wrong in (3, len):
            with self.assertRaises(TypeError):
                tool(wrong)
        with self.assertRaises(TypeError):
            tool(name="")(plain)

        class Module:
            __name__ = "m"

        module = Module()
        module.a = module.b = plain
        self.assertEqual(list(collect([module])), ["plain"])
        with self.assertRaisesRegex(registry.NoTools, "^unittest has no function with @tool$"):
            collect([module, unittest])
        module.c = tool(name="plain")(lambda: 2)
        with self.assertRaises(registry.DuplicateTool):
            collect([module])


def nested(depth):
    """Tuples in tuples, with what nobody knows in the innermost."""
    value = ExtType(99, b"")
    for _ in range(depth):
        value = ExtType(2, packb([value]))
    return value


def calls(known=None):
    borrowed = Borrowed()
    maintenance = Maintenance(None, borrowed, 60_000, lambda tokens: None)
    return Calls(Service(known or collect([tools]), None, borrowed, maintenance, 256, 0))


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError


class Trouble(enum.Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value):
        raise KeyboardInterrupt


class Validated(pydantic.BaseModel):
    n: int

    @pydantic.field_validator("n")
    @classmethod
    def check(cls, value):
        raise SystemExit(value)


@dataclasses.dataclass
class Troubled:
    what: str

    def __post_init__(self):
        match self.what:
            case "sleep":
                time.sleep(20)
            case "unspeakable":
                raise Unspeakable
            case "exit":
                sys.exit(3)
            case "own":
                raise GeneratorExit


class Conversions(unittest.TestCase):
    """The user's code that makes arguments is treated as that of a tool."""

    def error(self, annotation, value, stream=False):
        def function(x):
            pass

        function.__annotations__["x"] = annotation
        self.lane = lane = calls({"f": Tool("f", function)})
        envelope = packb(["f", {"x": value}, None])
        frame = memoryview(REQUEST.pack(1, 0, 7, 0, len(envelope), 9, 0, 0, 0, 0) + envelope)
        reply = next(lane.stream(frame)) if stream else lane.answer(frame)
        return unpackb(reply.envelope)

    def test_whatever_it_raises(self):
        for annotation, value, kind in [
            (Troubled, {"what": "exit"}, "SystemExit"),
            (list[Troubled], [{"what": "own"}], "GeneratorExit"),
            (Trouble, "b", "KeyboardInterrupt"),
            (Validated, {"n": 1}, "SystemExit"),
        ]:
            for stream in (False, True):
                with self.subTest(annotation=annotation, stream=stream):
                    error = self.error(annotation, value, stream)
                    self.assertEqual((error["category"], error["reason"]), ("python_error", "raised"))
                    self.assertEqual(error["type"], kind)

    def test_an_exception_without_a_text(self):
        error = self.error(Troubled, {"what": "unspeakable"})
        self.assertEqual((error["category"], error["reason"]), ("validation", "wrong_value"))
        self.assertIn("Unspeakable: <an exception whose __str__ raised>", error["message"])

    def test_it_is_cancelled(self):
        before = signal.getsignal(SIGNAL)
        self.addCleanup(signal.signal, SIGNAL, before)

        def cancel():
            while not hasattr(self, "lane") or not self.lane.cancellation.running:
                time.sleep(0.01)
            self.lane.cancellation.cancel(9)

        with unittest.mock.patch.object(Cancellation, "__init__", listening(Cancellation.__init__)):
            thread = threading.Thread(target=cancel)
            thread.start()
            started = time.monotonic()
            error = self.error(Troubled, {"what": "sleep"})
            thread.join()
        self.assertLess(time.monotonic() - started, 10)
        self.assertEqual(error["type"], "snakepit.Cancelled")
        self.assertFalse(self.lane.cancellation.cancelling)


def listening(init):
    def wrapped(self):
        init(self)
        self.listen()

    return wrapped


class Frames(Fuzzed):
    def test_what_is_no_way_ends_the_lane(self):
        lane = calls()
        envelope = packb(["identity", {"x": 1}, None])
        frame = REQUEST.pack(1, 7, 7, 0, len(envelope), 9, 0, 0, 0, 0) + envelope
        self.assertIsNone(lane.quick(bytes(frame)))
        with self.assertRaises(ProtocolError):
            lane.answer(memoryview(frame))

    def test_a_quick_look_in_vain_leaves_nothing_behind(self):
        lane = calls()
        envelope = packb(["identity", {"x": 1}, nested(100)])
        frame = REQUEST.pack(1, 0, 7, 0, len(envelope), 9, 0, 0, 0, 0) + envelope
        expected = calls().answer(memoryview(frame)).head[24:]
        self.assertIn(b"a caller must be", expected)
        for _ in range(3):
            self.assertIsNone(lane.quick(bytes(frame)))
            self.assertEqual(lane.answer(memoryview(frame)).head[24:], expected)

    def test_the_quick_path_says_what_the_other_says_or_nothing(self):
        lane = calls()
        good = [
            packb(request)
            for request in (
                ["add", {"a": 1, "b": 2}, None],
                ["add", {"a": 1.5, "b": 2**64 - 1}, None],
                ["identity", {"x": "text"}, None],
                ["identity", {"x": b"bytes" * 100}, None],
                ["identity", {"x": [1, {"a": [None, True], "b": {}}, ["x"]]}, None],
                ["identity", {"x": {1: "a", "b": []}}, None],
                ["identity", {"x": ExtType(2, packb([1, ExtType(3, packb([1, 2]))]))}, None],
                ["identity", {"x": tensor("u8", [3], b"abc")}, None],
                ["identity", {"x": ExtType(1, bytes(10) + b"\1")}, None],
                ["identity", {"x": ExtType(4, bytes(4))}, None],
                ["identity", {"x": [1], "y": 2}, None],
                ["identity", {}, None],
                ["no_such_tool", {"x": [1]}, None],
                ["identity", {"x": [1]}, "session"],
                ["identity", {"x": [1]}, [None, "correlation"]],
                ["identity", {"x": 1}, tensor("u8", [3], b"abc")],
                ["identity", {"x": 1}, tensor("u8", [0], b"")],
                ["identity", {"x": 1}, [tensor("u8", [3], b"abc"), "correlation"]],
                ["identity", {"x": 1}, nested(100)],
                {"identity": 1, "x": 2, "c": 3},
                ExtType(2, packb(["identity", {"x": 1}, None])),
            )
        ]
        quickly = []

        def look(envelope):
            frame = REQUEST.pack(1, 0, 7, 0, len(envelope), 9, 0, 0, 0, 0) + envelope
            reply = lane.quick(bytes(frame))
            if reply is None:
                return None
            quickly.append(True)
            head = reply[4:] if isinstance(reply, bytes) else reply.head
            expected = lane.answer(memoryview(frame)).frame()
            # All but how long it took.
            self.assertEqual((head[:16], head[24:]), (expected[:16], expected[24:]), envelope)
            return head[0]

        def one(rng):
            envelope = bytearray(rng.choice(good))
            for _ in range(rng.randrange(3)):
                envelope[rng.randrange(len(envelope))] = rng.choice([0, 1, 0x93, 0xC7, 0xFF, rng.randrange(256)])
            self.input = bytes(envelope)
            look(self.input)

        for envelope in good:
            self.assertIn(look(envelope), (None, RESULT), envelope)
        self.fuzz("worker: quick calls", one)
        self.assertGreater(len(quickly), 500)


if __name__ == "__main__":
    unittest.main()
