"""One type for one annotation, whatever the size; private copies for those who write; advice for those who may not."""

import typing
import unittest

import numpy as np
import typing_extensions
from msgpack import ExtType, packb

from beam import REQUEST, buffer, tensor
from snakepit import tool
from snakepit._native import Borrowed
from snakepit.memory.maintenance import Maintenance
from snakepit.runtime.calls import Calls, Service
from snakepit.support.errors import CallError
from snakepit.tools.registry import collect
from snakepit.tools.signature import Tool

SIZES = (0, 1, 100, 16_383, 16_384, 100_000)
UserId = typing.NewType("UserId", bytes)


class Request(typing.TypedDict, total=False):
    body: bytes
    parts: list[bytes]
    view: memoryview
    inner: "Request"
    anything: typing.Any


class Module:
    """Tools, as a module has them."""

    __name__ = "adapted"

    def __init__(self, **tools):
        self.__dict__.update(tools)


class Served:
    """The calls of a lane that serves some functions: small bytes in the envelope, large ones beside it."""

    def __init__(self, *functions):
        module = Module(**{function.__name__: function for function in functions})
        borrowed = Borrowed()
        maintenance = Maintenance(None, borrowed, 60_000, lambda tokens: None)
        self.calls = Calls(Service(collect([module]), None, borrowed, maintenance, 16_384, 0))

    def call(self, name, arguments, buffers=()):
        envelope = packb([name, arguments, None])
        frame = REQUEST.pack(1, 0, 7, 0, len(envelope), 9, 0, len(buffers), 0, 0)
        frame += b"".join(len(data).to_bytes(8, "little") for data in buffers) + envelope
        for data in buffers:
            frame += bytes(-len(frame) % 64) + data
        reply = self.calls.quick(bytes(frame))
        if reply is not None:
            return reply[4:] if isinstance(reply, bytes) else reply.head
        # As a lane reads it: memory that can be written to, and views that cannot.
        return self.calls.answer(memoryview(bytearray(frame)).toreadonly()).head


def sent(data):
    """As the BEAM sends it: in the envelope, or beside it."""
    return (data, []) if len(data) < 16_384 else (buffer(0), [data])


def given(annotation, wrap=lambda x: x, size=None):
    """The types of the bytes that a tool gets for each size."""
    seen = []

    def look(value):
        if isinstance(value, (list, tuple, set)):
            for item in value:
                look(item)
        elif isinstance(value, dict):
            look(list(value.values()))
        elif value is not None and type(value) not in (int, str):
            seen.append((type(value).__name__, len(value), getattr(value, "readonly", None)))

    @tool
    def f(x):
        look(x)

    if annotation is not None:
        f.__annotations__["x"] = annotation
    served = Served(f)
    for n in SIZES:
        value, buffers = sent(b"a" * n)
        head = served.call("f", {"x": wrap(value)}, buffers)
        assert head[0] == 1, head
    assert [length for _, length, _ in seen] == list(SIZES), seen
    kinds = {(name, readonly) for name, _, readonly in seen}
    assert len(kinds) == 1, kinds
    return kinds.pop()


VIEW = ("memoryview", True)
BYTES = ("bytes", None)
BYTEARRAY = ("bytearray", None)


class Types(unittest.TestCase):
    def test_one_type_at_all_sizes(self):
        for annotation, kind in [
            (None, VIEW),
            (typing.Any, VIEW),
            (object, VIEW),
            (memoryview, VIEW),
            (typing_extensions.Buffer, VIEW),
            (bytes, BYTES),
            ("bytes", BYTES),
            (bytes | None, BYTES),
            (typing.Optional[bytes], BYTES),  # noqa: UP045
            (typing.Annotated[bytes, "body"], BYTES),
            (UserId, BYTES),
            (str | bytes, BYTES),
            (bytes | int, BYTES),
            (bytearray, BYTEARRAY),
            (bytearray | None, BYTEARRAY),
            (bytes | memoryview, VIEW),
            (bytes | bytearray | memoryview, VIEW),
            (bytes | bytearray, BYTES),
            (list[bytes] | bytes, BYTES),
        ]:
            with self.subTest(annotation=annotation):
                self.assertEqual(given(annotation), kind)

    def test_inside_of_containers(self):
        def in_list(x):
            return [1, x]

        def in_dict(x):
            return {"body": x}

        def in_tuple(x):
            return ExtType(2, packb([1, x]))

        def in_set(x):
            return ExtType(3, packb([x]))

        def deep(x):
            return {"inner": {"parts": [x]}}

        for annotation, wrap, kind in [
            (None, in_list, VIEW),
            (None, in_dict, VIEW),
            (None, in_tuple, VIEW),
            (None, in_set, BYTES),
            (None, lambda x: ExtType(3, packb([ExtType(2, packb([1, x]))])), BYTES),
            (list, in_list, VIEW),
            (list[typing.Any], in_list, VIEW),
            (list[bytes | int], in_list, BYTES),
            (typing.Sequence[bytes | int], in_list, BYTES),
            (typing.Iterable[bytes | int], in_list, BYTES),
            (list[bytearray | int], in_list, BYTEARRAY),
            (dict[str, bytes], in_dict, BYTES),
            (typing.Mapping[str, bytes], in_dict, BYTES),
            (dict[str, memoryview], in_dict, VIEW),
            (dict, in_dict, VIEW),
            (tuple[int, bytes], in_tuple, BYTES),
            (tuple[bytes | int, ...], in_tuple, BYTES),
            (tuple[int, typing.Any], in_tuple, VIEW),
            (set[bytes], in_set, BYTES),
            (dict[str, dict[str, list[bytes]]], deep, BYTES),
            (dict[str, dict[str, list]], deep, VIEW),
            (list[list[bytes]], lambda x: [[x]], BYTES),
            (list[bytes] | None, lambda x: [x], BYTES),
            (Request, in_dict, BYTES),
            (Request, lambda x: {"view": x}, VIEW),
            (Request, lambda x: {"anything": x}, VIEW),
            (Request, deep, BYTES),
            (Request | None, deep, BYTES),
            (list[Request], lambda x: [{"body": x}], BYTES),
        ]:
            with self.subTest(annotation=annotation, wrap=wrap(b"")):
                self.assertEqual(given(annotation, wrap), kind)

    def test_views_in_a_set_that_is_annotated_so(self):
        self.assertEqual(given(set[memoryview], lambda x: ExtType(3, packb([x]))), VIEW)

    def test_members_of_a_set_are_found(self):
        @tool
        def f(x):
            return [b"a" * 20_000 in x, b"b" in x, (1, b"c" * 20_000) in x]

        members = ExtType(3, packb([buffer(0), b"b", ExtType(2, packb([1, buffer(1)]))]))
        head = Served(f).call("f", {"x": members}, [b"a" * 20_000, b"c" * 20_000])
        self.assertEqual((head[0], head[-4:]), (1, packb([True, True, True])))

    def test_other_arguments_and_defaults(self):
        @tool
        def f(x: int, y: bytes = b"default", **more: bytes):
            return [type(y).__name__, *[type(value).__name__ for value in more.values()]]

        served = Served(f)
        for n in (1, 20_000):
            value, buffers = sent(b"a" * n)
            self.assertTrue(served.call("f", {"x": 1, "z": value}, buffers).endswith(packb(["bytes", "bytes"])))

    def test_text_for_bytes_and_bytes_for_text(self):
        for annotation, value, words in [
            (bytes, "a", "expected bytes, got str: send Snakepit.bytes/1 of the binary"),
            (bytes | None, "a", "expected bytes | None, got str: send Snakepit.bytes/1 of the binary"),
            (memoryview, "a", "expected bytes, got str: send Snakepit.bytes/1 of the binary"),
            (bytearray, "a", "expected bytes, got str: send Snakepit.bytes/1 of the binary"),
            (typing_extensions.Buffer, "a", "or an array, got str: send Snakepit.bytes/1 of the binary"),
            (list[bytes], ["a"], "expected bytes, got str: send Snakepit.bytes/1 of the binary"),
            (str, b"a", "expected str, got bytes: send the binary itself, without Snakepit.bytes/1"),
            (str, memoryview(b"a"), "expected str, got bytes: send the binary itself, without Snakepit.bytes/1"),
            (int, memoryview(b"a"), "expected int, got bytes"),
        ]:

            def f(x):
                pass

            f.__annotations__["x"] = annotation
            with self.assertRaises(CallError) as caught:
                Tool("f", f).check({"x": value})
            self.assertTrue(caught.exception.message.endswith(words), caught.exception.message)
        f.__annotations__["x"] = typing_extensions.Buffer
        Tool("f", f).check({"x": np.zeros(2)})

    def test_a_copy_for_which_there_is_no_memory(self):
        def f(x: bytes):
            pass

        served = Tool("f", f)
        data = np.broadcast_to(np.zeros(1, "u1"), (1 << 62,))
        with self.assertRaises(CallError) as caught:
            served.adapt({"x": memoryview(data)})
        self.assertEqual(caught.exception.reason, "no_memory")
        self.assertIn("annotate it with memoryview", caught.exception.message)


class Writing(unittest.TestCase):
    def call(self, function, arguments, buffers=()):
        return Served(function).call(function.__name__, arguments, buffers)

    def test_a_private_copy(self):
        array = np.arange(3000, dtype="<f8")

        @tool(writable=["x"])
        def f(x, y=None):
            for item in x if isinstance(x, list) else [x]:
                item = item["a"] if isinstance(item, dict) else item
                item[0] = 7
                assert item[0] == 7
            return y is None or y.flags.writeable

        x = tensor("f64", [3000], buffer(0))
        small = tensor("f64", [2], bytes(16))
        for argument in (x, small, [x, {"a": small}], b"small", buffer(0), [b"small"]):
            data = array.tobytes()
            head = self.call(f, {"x": argument}, [data])
            self.assertEqual((head[0], data), (1, array.tobytes()), head)
        self.assertTrue(self.call(f, {"x": x, "y": small}, [array.tobytes()]).endswith(b"\xc2"))

    def test_the_types_of_copies(self):
        @tool(writable=["x", "y", "z"])
        def f(x, y: bytearray, z: list[bytes], u):
            return [type(value).__name__ for value in (x, y, z[0], u)] + [x.readonly, u.readonly]

        for data in (b"a", b"a" * 20_000):
            value, buffers = sent(data)
            head = self.call(f, {"x": value, "y": value, "z": [value], "u": value}, buffers)
            want = ["memoryview", "bytearray", "bytes", "memoryview", False, True]
            self.assertTrue(head.endswith(packb(want)), head)

    def test_what_is_no_parameter(self):
        for names, words in [
            (["z"], r"@tool\(writable=…\) of f\(x: bytes, why=1\): there is no parameter 'z'"),
            (["wy"], "there is no parameter 'wy'; did you mean why"),
            (["x"], "x is annotated with bytes, which nobody can write to: use bytearray or memoryview"),
        ]:

            @tool(writable=names)
            def f(x: bytes, why=1):
                pass

            with self.assertRaisesRegex(TypeError, words):
                collect([Module(f=f)])
        for wrong in ("x", [1], 5):
            with self.assertRaises(TypeError):
                tool(writable=wrong)(f)

    def test_a_write_that_is_refused_says_what_to_do(self):
        array = tensor("f64", [4], bytes(32))

        def assigns(x, y=1):
            x[0] = 1

        def adds(x, y=1):
            x += 1

        def writes_out(x, y=1):
            np.add(y, 1, out=x)

        def sorts(x, y=1):
            x.sort()

        def flags(x, y=1):
            x.setflags(write=True)

        def shuffles(x, y=1):
            np.random.default_rng(1).shuffle(x)

        def inside(x, y=1):
            x["a"][0][1] = 2

        def later(x, y=1):
            yield 1
            x[0] = 1

        async def asynchronous(x, y=1):
            x[0] = 1

        def elsewhere(x, y=1):
            def inner(z):
                z[0] = 1

            inner(x)

        def packs(x, y=1):
            import struct

            struct.pack_into("b", x, 0, 1)

        for function, argument, kind in [
            (assigns, array, "ValueError: assignment destination is read-only"),
            (adds, array, "ValueError: output array is read-only"),
            (writes_out, array, "ValueError: output array is read-only"),
            (sorts, array, "ValueError: sort array is read-only"),
            (flags, array, "ValueError: cannot set WRITEABLE flag"),
            (shuffles, array, "ValueError: array is read-only"),
            (inside, {"a": [array]}, "ValueError: assignment destination is read-only"),
            (later, array, "ValueError: assignment destination is read-only"),
            (asynchronous, array, "ValueError: assignment destination is read-only"),
            (elsewhere, array, "ValueError: assignment destination is read-only"),
            (assigns, b"abc", "TypeError: cannot modify read-only memory"),
            (packs, b"abc", "TypeError: argument must be read-write bytes-like object, not memoryview"),
        ]:
            with self.subTest(function=function.__name__):
                head = self.call(tool(function), {"x": argument}).decode("utf-8", "replace")
                self.assertIn(kind, head)
                advice = "; argument x is read-only: @tool(writable=['x']) gives the tool a private copy"
                self.assertIn(advice, head)

    def test_no_advice_that_would_not_help(self):
        frozen = np.zeros(2)
        frozen.setflags(write=False)

        @tool
        def own(x):
            frozen[0] = 1

        @tool
        def says_so(x):
            raise ValueError("the database is read-only")

        @tool(writable=["x"])
        def made_so(x):
            x.setflags(write=False)
            x[0] = 1

        for function, argument in [(own, 1), (says_so, "a"), (made_so, tensor("f64", [1], bytes(8)))]:
            head = self.call(function, {"x": argument})
            self.assertEqual(head[0], 2)
            self.assertIn(b"read-only", head)
            self.assertNotIn(b"writable", head)

    def test_what_views_lack_is_said(self):
        def finds(x, y=1):
            return x.startswith(b"a")

        def loads(x, y=1):
            import json

            return json.loads(x)

        def concatenates(x, y=1):
            return b"a" + x["k"] if isinstance(x, dict) else x + b"a"

        def of_its_own(x, y=1):
            return memoryview(bytes(x, "ascii")).startswith(b"a")

        advice = b"; argument x is given as a memoryview: annotate it with `bytes` to get bytes"
        for function, argument, kind in [
            (finds, b"abc", b"AttributeError: 'memoryview' object has no attribute 'startswith'"),
            (loads, b"[]", b"TypeError: the JSON object must be str, bytes or bytearray, not memoryview"),
            (concatenates, b"a", b"TypeError: unsupported operand type(s) for +: 'memoryview' and 'bytes'"),
        ]:
            head = self.call(tool(function), {"x": argument})
            self.assertIn(kind + advice, head)
        self.assertNotIn(advice, self.call(tool(of_its_own), {"x": "abc"}))


if __name__ == "__main__":
    unittest.main()
