"""MessagePack of plain values, against the package `msgpack`."""

import collections
import enum
import random
import subprocess
import sys
import textwrap
import unittest

import msgpack

from beam import PYTHONPATH
from snakepit._native import pack, unpack

SIZES = [0, 1, 5, 15, 16, 31, 32, 40, 255, 256, 300]
INTS = [bound + d for n in (5, 7, 8, 15, 16, 31, 32, 63) for bound in (1 << n, -(1 << n)) for d in (-1, 0, 1)]
INTS = [n for n in INTS if n >= -(1 << 63)] + [0, (1 << 64) - 1]


def a_str(rng):
    letters = rng.choice(["ab", "äß", "日本", "😀a\0"])
    return "".join(rng.choices(letters, k=rng.choice(SIZES)))


def a_value(rng, depth=0):
    kind = rng.randrange(7 if depth > 4 else 10)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        return rng.choice(INTS)
    if kind == 3:
        return rng.choice([0.0, -0.0, 1.5, float("inf"), -1e300, rng.random()])
    if kind in (4, 5):
        return a_str(rng)
    if kind == 6:
        return rng.randbytes(rng.choice(SIZES))
    n = rng.choice([0, 1, 2, 15, 16]) if depth < 3 else rng.randrange(3)
    if kind == 7:
        return [a_value(rng, depth + 1) for _ in range(n)]
    if kind == 8:
        return tuple(a_value(rng, depth + 1) for _ in range(n))
    return {rng.choice([a_str(rng), rng.choice(INTS)]): a_value(rng, depth + 1) for _ in range(n)}


def shown(value):
    """Tells `1` from `1.0` and `True`, and `0.0` from `-0.0`."""
    return repr(value)


class Color(enum.IntEnum):
    RED = 300


class Word(str):
    __slots__ = ()

    def __str__(self):
        return "another"


class Messages(unittest.TestCase):
    def assert_same(self, value):
        packed = pack(value)
        self.assertEqual(packed, msgpack.packb(value))
        self.assertEqual(shown(unpack(packed)), shown(msgpack.unpackb(packed, strict_map_key=False)))

    def test_random_values(self):
        rng = random.Random(1)
        for _ in range(3000):
            self.assert_same(a_value(rng))

    def test_each_size(self):
        for n in [*SIZES, 65_535, 65_536, 70_000]:
            for value in ["x" * n, b"x" * n, [0] * n, (None,) * n, {i: i for i in range(n)}]:
                with self.subTest(n=n, kind=type(value)):
                    self.assert_same(value)
        for n in INTS:
            self.assert_same([n, {n: n}])
        self.assertEqual(repr(unpack(msgpack.packb(1.5, use_single_float=True))), "1.5")
        self.assertEqual(repr(unpack(pack(float("nan")))), "nan")

    def test_other_ways_to_write_a_value(self):
        # Longer heads than needed.
        for data in [b"\xcd\0\1", b"\xd3" + bytes(8), b"\xdb\0\0\0\1a", b"\xdd\0\0\0\1\1", b"\xdf\0\0\0\1\1\1"]:
            self.assertEqual(shown(unpack(data)), shown(msgpack.unpackb(data, strict_map_key=False)))
        self.assertEqual(unpack(b"\x82\1\5\1\6"), {1: 6})

    def test_subclasses_are_what_they_are_made_of(self):
        ordered = collections.OrderedDict([("a", 1), ("b", 2)])
        ordered.move_to_end("a")
        pair = collections.namedtuple("pair", "a b")
        for value in [
            Color.RED,
            Word("word"),
            {Word("key"): Color.RED},
            ordered,
            pair(1, "x"),
            type("L", (list,), {})([1]),
        ]:
            with self.subTest(repr(value)):
                self.assertEqual(pack(value), msgpack.packb(value))
        self.assertEqual(pack({Color.RED: 1}), pack({300: 1}))
        self.assertEqual(pack(collections.defaultdict(list, a=[1])), pack({"a": [1]}))

    def test_what_no_message_can_have(self):
        cycle = []
        cycle.append(cycle)
        deep = 0
        for _ in range(129):
            deep = [deep]
        for value, error, said in [
            ({1, 2}, TypeError, "set"),
            (1j, TypeError, "complex"),
            (bytearray(b"x"), TypeError, "bytearray"),
            ([{"a": object()}], TypeError, "object"),
            (msgpack.Timestamp(1), TypeError, "msgpack.ext.Timestamp"),
            (Messages, TypeError, "type"),
            ({b"k": 1}, TypeError, "keys .* str or int.* bytes"),
            ({None: 1}, TypeError, "keys .* NoneType"),
            ({True: 1}, TypeError, "keys .* bool"),
            ({1.5: 1}, TypeError, "keys .* float"),
            ({(1,): 1}, TypeError, "keys .* tuple"),
            (1 << 64, ValueError, "64 bits"),
            (-(1 << 63) - 1, ValueError, "64 bits"),
            (1 << 10_000, ValueError, "64 bits"),
            ({1 << 64: 1}, ValueError, "64 bits"),
            ("\ud800", UnicodeEncodeError, "surrogates"),
            ({"a": ["x\udfff"]}, UnicodeEncodeError, "surrogates"),
            ({"\ud800": 1}, UnicodeEncodeError, "surrogates"),
            (cycle, ValueError, "deeper than 128"),
            (deep, ValueError, "deeper than 128"),
        ]:
            with self.subTest(repr(value)[:60]):
                self.assertRaisesRegex(error, said, pack, value)
        self.assertEqual(unpack(pack(deep[0])), deep[0])

    def test_a_container_that_changes_meanwhile(self):
        class Changes(dict):
            """Python runs when it is read."""

            def keys(self):
                self.change()
                return super().keys()

            def __iter__(self):
                self.change()
                return super().__iter__()

        for container, change in [
            ([0, 1, 2], lambda outer: outer.clear()),
            ([0, 1, 2], lambda outer: outer.append(1)),
            ({"a": 0, "b": 1, "c": 2}, lambda outer: outer.clear()),
            ({"a": 0, "b": 1, "c": 2}, lambda outer: outer.update(dict.fromkeys(range(1000)))),
            ({"a": 0, "b": 1, "c": 2}, lambda outer: outer.pop("c")),
        ]:
            with self.subTest(container):
                inner = Changes(x=1)
                inner.change = lambda container=container, change=change: change(container)
                container["a" if isinstance(container, dict) else 0] = inner
                self.assertRaisesRegex(ValueError, "changed while it was read", pack, container)
        fails = Changes(x=1)
        fails.change = lambda: 1 // 0
        self.assertRaises(ZeroDivisionError, pack, [fails])

    def test_malformed_messages(self):
        rng = random.Random(2)
        for _ in range(400):
            packed = pack([a_value(rng, 2) for _ in range(rng.randrange(1, 4))])
            for _ in range(20):
                self.assertRaises(ValueError, unpack, packed[: rng.randrange(len(packed))])
                self.assertRaises(ValueError, unpack, packed + rng.randbytes(rng.randrange(1, 3)))
                broken = bytearray(packed)
                for _ in range(rng.randrange(1, 4)):
                    broken[rng.randrange(len(broken))] = rng.randrange(256)
                self.read(bytes(broken))
        for first in range(256):
            for rest in [b"", b"\xff" * 4, b"\xff" * 40, bytes(40), rng.randbytes(40)]:
                self.read(bytes([first]) + rest)

    def read(self, data):
        """What both can read is the same value; everything else is one kind of error."""
        try:
            value = unpack(data)
        except ValueError:
            return
        self.assertEqual(shown(value), shown(msgpack.unpackb(data, strict_map_key=False)))

    def test_what_is_refused_is_named(self):
        deep = b"\x91" * 129 + b"\xc0"
        for data, said in [
            (b"", "cut short"),
            (b"\x92\x01", "cut short"),
            (b"\xdd\xff\xff\xff\xff", "cut short"),
            (b"\xdf\xff\xff\xff\xff", "cut short"),
            (b"\xc6\xff\xff\xff\xff", "cut short"),
            (b"\x01\x01", "after the end"),
            (b"\xa1\xff", "not UTF-8"),
            (b"\xc1", "reserved"),
            (deep, "deeper than 128"),
            (b"\x81\xc0\x01", "keys in a message must be str or int"),
            (b"\x81\x90\x01", "keys in a message must be str or int"),
            (msgpack.packb(msgpack.ExtType(7, b"x")), "extension, this one has 7"),
            (msgpack.packb([msgpack.Timestamp(1)]), "extension, this one has -1"),
        ]:
            with self.subTest(data[:10]):
                self.assertRaisesRegex(ValueError, said, unpack, data)
        self.assertEqual(unpack(deep[1:]), msgpack.unpackb(deep[1:]))
        self.assertRaises(TypeError, unpack, "text")

    def test_memory_that_cannot_be_had_is_an_error(self):
        script = """
        import resource
        from snakepit._native import pack, unpack

        large, many = "x" * (200 << 20), [0] * 1_000_000
        wide = b"\\xdd" + len(many).to_bytes(4, "big") + b"\\x90" * len(many)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
        for f, value in [(pack, large), (pack, [large[:1], {"a": large}]), (unpack, wide)]:
            try:
                f(value)
            except MemoryError:
                print("refused")
        assert unpack(pack(many)) == many
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env={"PYTHONPATH": PYTHONPATH},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("refused\n" * 3, "", 0))


if __name__ == "__main__":
    unittest.main()
