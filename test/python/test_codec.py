"""Values cross exactly, or are refused with the place where they sit."""

import collections
import datetime
import decimal
import enum
import fractions
import gc
import math
import random
import unittest
import zoneinfo

import numpy as np
from msgpack import ExtType, Timestamp, packb, unpackb

from snakepit import _native
from snakepit.codec.decode import Decoder
from snakepit.codec.encode import Encoder
from snakepit.support.errors import CallError

LIMIT = 256


# They remember what they have seen, as a lane's do.
ENCODERS, DECODER = {}, Decoder()


def cross(value, limit=LIMIT):
    """A value through both halves of the codec, as an argument of the next call would go; twice, with one outcome."""
    encoder = ENCODERS.setdefault(limit, Encoder(limit))
    crossed = cross_once(encoder, DECODER, value)
    assert same(crossed, cross_once(encoder, DECODER, value))
    return crossed


def cross_once(encoder, decoder, value):
    envelope = encoder.encode(value)
    taken = encoder.take_buffers()
    buffers = [memoryview(bytes(view)) for view in taken.views()] if taken else []
    # What the BEAM does: the value's bytes become part of a request.
    request = b"\x93\xa1c\x81\xa1x" + envelope + b"\xc0"
    command, arguments, session, _ = decoder.request(request, buffers)
    assert (command, session) == ("c", None)
    return arguments["x"]


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype.newbyteorder("=") == b.dtype and a.shape == b.shape and bool(
            np.ascontiguousarray(a).astype(b.dtype).tobytes() == b.tobytes()
        )  # fmt: skip
    if isinstance(a, (bytes, bytearray, memoryview)):
        return isinstance(b, (bytes, memoryview)) and bytes(a) == bytes(b)
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (set, frozenset)):
        return type(b) is set and set(a) == b and sorted(map(repr, a)) == sorted(map(repr, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    if isinstance(a, decimal.Decimal):
        return type(b) is decimal.Decimal and str(a) == str(b)
    return type(a) is type(b) and repr(a) == repr(b)


DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16", ">f8", ">i2", ">c8"]


def random_array(rng):
    shape = tuple(rng.choice([0, 1, 2, 3, 5]) for _ in range(rng.randrange(5)))
    array = np.arange(math.prod(shape)).reshape(shape).astype(rng.choice(DTYPES))
    how = rng.randrange(4)
    if how == 1:
        array = np.asfortranarray(array)
    elif how == 2:
        array = np.asarray(array[tuple(slice(None, None, rng.choice([-1, 1, 2])) for _ in shape)])
    elif how == 3:
        array = array.T
    return array


def random_leaf(rng, hashable):
    kinds = 11 if hashable else 14
    match rng.randrange(kinds):
        case 0:
            return rng.choice([None, True, False])
        case 1:
            return rng.choice([0, -1, 127, 128, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**40, -(10**300)])
        case 2:
            return rng.choice([0.5, -0.0, math.inf, -math.inf, 1e308, math.nan if not hashable else 2.5])
        case 3 | 4:
            return "".join(rng.choices("aé€😀\0\n", k=rng.choice([0, 3, 40, LIMIT, 700])))
        case 5:
            return rng.randbytes(rng.choice([0, 5, 31, LIMIT - 1])) if not hashable else "b"
        case 6:
            return datetime.date(rng.randrange(1, 10000), rng.randrange(1, 13), 3)
        case 7:
            return datetime.time(rng.randrange(24), 59, 59, rng.randrange(10**6))
        case 8:
            return datetime.datetime(2024, 2, 29, 23, 59, 59, rng.randrange(10**6))
        case 9:
            zone = rng.choice(
                [
                    datetime.UTC,
                    zoneinfo.ZoneInfo("Europe/Berlin"),
                    zoneinfo.ZoneInfo("America/New_York"),
                    datetime.timezone(datetime.timedelta(hours=-3, minutes=-30)),
                    datetime.timezone(datetime.timedelta(seconds=4711)),
                    datetime.timezone(datetime.timedelta(0), "Zulu"),
                ]
            )
            return datetime.datetime(2024, rng.randrange(1, 13), 27, 2, 30, tzinfo=zone)
        case 10:
            return decimal.Decimal(
                rng.choice(["1.50", "-0", "1E+400", "NaN", "-Infinity", "0E-7"]) if not hashable else "2"
            )
        case 11:
            return rng.choice([bytes, bytearray, memoryview])(rng.randbytes(rng.choice([0, LIMIT, 1000])))
        case _:
            return random_array(rng)


def random_value(rng, depth, hashable=False):
    if depth == 0 or rng.random() < 0.3:
        return random_leaf(rng, hashable)
    size = rng.randrange(5)
    kind = rng.randrange(2 if hashable else 5)
    if kind == 0:
        return tuple(random_value(rng, depth - 1, hashable) for _ in range(size))
    if kind == 1 and hashable:
        return random_leaf(rng, True)
    if kind == 1:
        return set(map(str, range(size))) | {random_value(rng, 1, True)}
    if kind == 2:
        return [random_value(rng, depth - 1) for _ in range(size)]
    keys = [rng.choice([rng.randrange(-5, 2**64), "k" * rng.randrange(400), "é"]) for _ in range(size)]
    pairs = {key: random_value(rng, depth - 1) for key in keys}
    return pairs if kind == 3 else collections.OrderedDict(pairs)


FINE = datetime.timezone(datetime.timedelta(microseconds=5))


class Crossing(unittest.TestCase):
    def test_random_values_come_back(self):
        rng = random.Random(7)
        for number in range(1500):
            value = random_value(rng, rng.randrange(5))
            self.assertTrue(same(value, cross(value)), f"{number}: {value!r}")

    def test_every_dtype_every_layout(self):
        base = np.arange(24)
        for name in DTYPES:
            cube = base.astype(name).reshape(2, 3, 4)
            for array in (
                cube,
                cube.T,
                cube[::-1, :, ::2],
                np.asfortranarray(cube),
                cube[0, 0, 0],
                cube[:, :0],
                np.array(3, name),
            ):
                for limit in (1, 1 << 20):
                    array = np.asarray(array)
                    back = cross(array, limit)
                    self.assertTrue(same(array, back), (name, array.shape, limit))
                    self.assertFalse(back.flags.writeable)

    def test_bfloat16(self):
        ml_dtypes = __import__("ml_dtypes") if _has("ml_dtypes") else self.skipTest("no ml_dtypes")
        array = np.arange(10).astype(ml_dtypes.bfloat16).reshape(2, 5)
        for limit in (1, 1 << 20):
            back = cross(array, limit)
            self.assertEqual(back.dtype, array.dtype)
            self.assertEqual(back.tobytes(), array.tobytes())

    def test_numpy_scalars_become_what_they_equal(self):
        for value in (
            np.float16(0.5),
            np.float32(0.1),
            np.float64(2),
            np.int8(-3),
            np.uint64(2**64 - 1),
            np.bool_(True),
            np.str_("é"),
        ):
            self.assertEqual(repr(cross([value])), repr([value.item()]))

    def test_dict_subclasses(self):
        counted = collections.defaultdict(list, a=[1])
        self.assertEqual(cross({"x": counted}), {"x": {"a": [1]}})
        self.assertEqual(cross(collections.Counter("aab")), {"a": 2, "b": 1})

    def test_what_offers_an_array(self):
        class Offers:
            def __array__(self, dtype=None, copy=None):
                return np.arange(3.0)

        self.assertTrue(same(np.arange(3.0), cross({"a": Offers()})["a"]))

    def test_what_is_remembered_of_arrays_is_their_kind(self):
        encoder, decoder = Encoder(LIMIT), Decoder()
        for _ in range(2):
            # The same bytes in all: 1,024 of them.
            for array in (
                np.arange(128.0),
                np.arange(128.0).reshape(8, 16),
                np.arange(128.0).reshape(16, 8),
                np.arange(128).astype("u8"),
                np.arange(128.0).astype(">f8"),
                np.asfortranarray(np.arange(128.0).reshape(8, 16)),
            ):
                crossed = cross_once(encoder, decoder, array)
                self.assertTrue(same(array, crossed))
                self.assertFalse(crossed.flags.writeable)
                # The index of a buffer differs: it is not of the kind.
                both = cross_once(encoder, decoder, [array, array + array])
                self.assertTrue(same([array, array + array], both))

    def test_what_a_value_left_when_it_ended_the_encoding_is_gone(self):
        class Ends:
            def __array__(self, dtype=None, copy=None):
                raise SystemExit

        encoder = Encoder(LIMIT)
        own = np.arange(100.0)
        for result in (own, b"a" * 1000):
            encoder.encode(result)
            encoder.take_buffers()
            with self.assertRaises(SystemExit):
                encoder.encode([own + 1, Ends()])
            self.assertTrue(same(result, cross_once(encoder, Decoder(), result)))

    def test_a_list_that_is_half_decoded_is_nobody_elses(self):
        # The function that makes a decimal may run any code, and another thread may run meanwhile.
        seen = []

        def make(code, parts):
            seen.append(sum(len(repr(found)) for found in gc.get_objects() if type(found) is list and len(found) == 7))
            return parts

        native = _native.Decoder(make, None, lambda failure, path: ValueError(failure), repr)
        decimals = [ExtType(11, packb("1.5"))] * 7
        _, arguments, _, _ = native.request(packb(["c", {"x": decimals}, None]))
        self.assertEqual((arguments, len(seen)), ({"x": ["1.5"] * 7}, 7))
        self.assertTrue(gc.is_tracked(arguments["x"]))

    def test_more_kinds_of_arrays_than_are_remembered(self):
        encoder, decoder = Encoder(LIMIT), Decoder()
        for n in [*range(300, 900), *range(300, 400)]:
            # Each has an element type of its own, which is equal to the others.
            array = np.full(n, n % 251, np.dtype("u1", metadata={"n": n}))
            self.assertTrue(same(np.full(n, n % 251, "u1"), cross_once(encoder, decoder, array)))
        self.assertLessEqual(encoder.native.remembered(), 64)
        self.assertLessEqual(decoder.remembered(), 256)

    def test_depth(self):
        deep = 0
        for _ in range(128):
            deep = [deep]
        self.assertEqual(cross_result(deep), deep)
        self.assert_refused([deep], "too_deep", None)

    def assert_refused(self, value, reason, path):
        with self.assertRaises(CallError) as caught:
            encoder.encode(value)
        self.assertEqual((caught.exception.category, caught.exception.reason), ("python_error", reason), value)
        if path is not None:
            self.assertEqual(caught.exception.path, path)
        # It serves on.
        self.assertEqual(encoder.encode((1, {"a": (2,)})), Encoder(LIMIT).encode((1, {"a": (2,)})))

    def test_values_whose_methods_raise_are_refused_where_they_are(self):
        def raising(error):
            def method(*_):
                raise error

            return method

        class Unspeakable(Exception):
            __str__ = raising(ValueError("no words"))

        class Key(float):
            __repr__ = raising(ValueError("no words"))

        class Asks(type):
            __getattr__ = raising(ValueError("no attribute"))

        zone = type("Zone", (datetime.tzinfo,), {"utcoffset": raising(ValueError("nowhere"))})()
        fields = type("Fields", (), {"__class__": property(raising(ValueError("no class")))})()
        for value, words in [
            (type("Silent", (), {"__array__": raising(Unspeakable())})(), "<an exception whose __str__ raised>"),
            (Asks("Asked", (), {})(), "cannot be read: ValueError: no attribute"),
            (fields, "cannot be read: ValueError: no class"),
            (datetime.datetime(2024, 1, 1, tzinfo=zone), "cannot be read: ValueError: nowhere"),
            (type("Homeless", (), {"__module__": None})(), "Homeless cannot cross"),
        ]:
            with self.subTest(words=words), self.assertRaises(CallError) as caught:
                Encoder(LIMIT).encode({"a": [1, value]})
            self.assertEqual(caught.exception.path, 'result["a"][1]')
            self.assertIn(words, caught.exception.message)
        with self.assertRaises(CallError) as caught:
            Encoder(LIMIT).encode({"a": {Key(1): 2}})
        self.assertEqual((caught.exception.reason, caught.exception.path), ("unsupported_key", 'result["a"][<Key>]'))

    def test_a_module_that_is_none_has_arrays_all_the_same(self):
        kind = type("Homeless", (), {"__module__": None, "__array__": lambda self, **_: np.arange(3)})
        self.assertTrue(same(np.arange(3), cross(kind())))

    def test_a_stop_iteration_ends_no_list_early(self):
        class Level(enum.IntEnum):
            LOW = 1

        def stop(*_):
            raise StopIteration

        # A key of an odd type has all of the value copied, item by item.
        stops = type("Stops", (dict,), {"items": stop})(a=1)
        self.assertEqual(cross([stops, {Level.LOW: 2}, 3]), [{"a": 1}, {1: 2}, 3])
        with self.assertRaises(CallError):
            Encoder(LIMIT).encode([type("Stops", (dict,), {"__iter__": stop, "keys": stop})(a=1), {Level.LOW: 2}, 3])

    def test_what_has_no_suggestion(self):
        class Color(enum.IntEnum):
            RED = 1

        for value, what in ((object(), "an object"), (Color, "an enum.EnumType")):
            with self.assertRaises(CallError) as caught:
                Encoder(LIMIT).encode(value)
            self.assertEqual(caught.exception.message, f"result: {what} cannot cross")

    def test_refusals(self):
        class Text(str):
            pass

        class Color(enum.Enum):
            RED = 1

        class Level(int):
            pass

        Point = collections.namedtuple("Point", "x y")
        cycle = {"a": (1, [])}
        cycle["a"][1].append(cycle)
        wide = [[] for _ in range(3)]
        wide[2].append({"k": wide})
        kind = "unsupported_type"
        for value, reason, path in [
            (object(), kind, "result"),
            ({"items": [1, 2, 3, object()]}, kind, 'result["items"][3]'),
            ([{"a": (1, {2: Text("\ud800")})}], "not_utf8", 'result[0]["a"][1][2]'),
            ({Text("\ud800"): 1}, "not_utf8", None),
            ({Level(2**64): 1}, "unsupported_key", None),
            ([Color.RED], kind, "result[0]"),
            ((Point(1, 2),), kind, "result[0]"),
            ([1j], kind, "result[0]"),
            ([np.complex64(1)], kind, "result[0]"),
            ([np.longdouble(1)], kind, "result[0]"),
            ([np.datetime64("2024-01-01")], kind, "result[0]"),
            ([np.array([object()])], "unsupported_dtype", "result[0]"),
            ([np.array(["a"])], "unsupported_dtype", "result[0]"),
            ([np.zeros(2, "i4,f8")], "unsupported_dtype", "result[0]"),
            ([np.zeros(2, "M8[s]")], "unsupported_dtype", "result[0]"),
            ([np.zeros(2, np.longdouble)], "unsupported_dtype", "result[0]"),
            ([np.ma.masked_array([1, 2], [0, 1])], kind, "result[0]"),
            ({1.5: 0}, "unsupported_key", "result[1.5]"),
            ({"a": {math.nan: 0}}, "unsupported_key", 'result["a"][nan]'),
            ({None: 0}, "unsupported_key", "result[None]"),
            ({b"k": 0}, "unsupported_key", "result[b'k']"),
            ({True: 0}, "unsupported_key", "result[True]"),
            ({(1, 2): 0}, "unsupported_key", None),
            ({2**64: 0}, "unsupported_key", None),
            (["ok", "\ud800"], "not_utf8", "result[1]"),
            (["\ud800" * 300], "not_utf8", "result[0]"),
            ({"\udfff": 1}, "not_utf8", None),
            (cycle, "cycle", 'result["a"][1][0]'),
            (wide, "cycle", 'result[2][0]["k"]'),
            (ExtType(6, b""), kind, "result"),
            ([Timestamp(1)], kind, "result[0]"),
            ([fractions.Fraction(1, 2)], kind, "result[0]"),
            ([decimal.Decimal("sNaN")], kind, "result[0]"),
            ([datetime.time(1, tzinfo=datetime.UTC)], kind, "result[0]"),
            ([datetime.UTC], kind, "result[0]"),
            ([datetime.datetime(2024, 1, 1, tzinfo=FINE)], kind, "result[0]"),
        ]:  # fmt: skip
            with self.subTest(value=repr(value)[:60]):
                self.assert_refused(value, reason, path)


encoder = Encoder(LIMIT)


def cross_result(value):
    return unpackb(Encoder(LIMIT).encode(value))


def _has(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def request(x, buffers=()):
    return Decoder().request(packb(["c", {"x": x}, None]), buffers)


class Reading(unittest.TestCase):
    def ext(self, code, value):
        return ExtType(code, packb(value))

    def test_refusals(self):
        def tensor(*parts):
            return [self.ext(6, list(parts))]

        for value, path in [
            (tensor("f64", [2], b"x" * 15), 'args["x"][0]'),
            (tensor("f64", [2], b"x" * 17), 'args["x"][0]'),
            (tensor("f64", [-1], b""), 'args["x"][0]'),
            (tensor("f64", [True], b"x" * 8), 'args["x"][0]'),
            (tensor("f65", [1], b"x" * 8), 'args["x"][0]'),
            (tensor("u8", [1] * 65, b"x"), 'args["x"][0]'),
            (tensor("u8", [0, 2**62, 2**62], b""), 'args["x"][0]'),
            (tensor("u8", [1], "x"), 'args["x"][0]'),
            (tensor(["u8"], [1], b"x"), 'args["x"][0]'),
            ([1, self.ext(3, [1, 1.0])], 'args["x"][1]'),
            ([1, self.ext(3, [True, 1])], 'args["x"][1]'),
            ({"s": self.ext(3, [[1]])}, 'args["x"]["s"]'),
            (self.ext(2, [1, self.ext(7, [2024, 2, 30])]), 'args["x"][1]'),
            (self.ext(10, [2024, 1, 1, 0, 0, 0, 0, "Europe/Berlin", "CET", 0, 0]), 'args["x"]'),
            (self.ext(10, [2024, 1, 1, 0, 0, 0, 0, "../../etc/passwd", "X", 0, 0]), 'args["x"]'),
            (self.ext(10, [2024, 1, 1, 0, 0, 0, 0, "No/Where", "X", 0, 0]), 'args["x"]'),
            (self.ext(11, " 1_0"), 'args["x"]'),
            (self.ext(11, "1E+99999999999999999999999"), 'args["x"]'),
            (ExtType(1, b""), 'args["x"]'),
            (ExtType(1, b"\0\1"), 'args["x"]'),
            (ExtType(1, b"\2" + b"\1" * 9), 'args["x"]'),
            (ExtType(4, b"\0\0\0\0"), 'args["x"]'),
            (ExtType(77, b""), 'args["x"]'),
            ({1.5: 1}, 'args["x"][1.5]'),
            ([Timestamp(5)], 'args["x"][0]'),
        ]:
            with self.subTest(value=repr(value)[:80]):
                with self.assertRaises(CallError) as caught:
                    request(value)
                self.assertEqual((caught.exception.category, caught.exception.path), ("validation", path))

    def test_a_kind_of_tensor_that_is_known_is_checked_all_the_same(self):
        decoder = Decoder()
        tensor = ExtType(6, packb(["u64", [4, 8], ExtType(4, (1).to_bytes(4, "little"))]))
        request = packb(["c", {"x": tensor}, None])
        data = np.arange(32, dtype="u8")
        for _ in range(2):
            _, arguments, *_ = decoder.request(request, [memoryview(b"no"), memoryview(data).cast("B")])
            self.assertTrue(same(data.reshape(4, 8), arguments["x"]))
            for buffers in ([], [memoryview(bytes(256))], [memoryview(b""), memoryview(bytes(255))]):
                with self.assertRaises(CallError) as raised:
                    decoder.request(request, buffers)
                self.assertEqual(raised.exception.category, "validation")
                self.assertTrue(raised.exception.message.startswith('args["x"]: '), raised.exception.message)

    def test_nobody_makes_an_argument_writable(self):
        memory = bytearray(800)
        decoder = Decoder()
        for shape in ([100], [10, 10], [10, 10]):
            request = packb(["c", {"x": ExtType(6, packb(["f64", shape, ExtType(4, bytes(4))]))}, None])
            _, arguments, *_ = decoder.request(request, [memoryview(memory).toreadonly()])
            array = arguments["x"]
            for view in (array, array.reshape(-1), array[1:], array.base):
                if isinstance(view, np.ndarray):
                    with self.assertRaises(ValueError):
                        view.setflags(write=True)
            # Even where what comes is writable by mistake.
            _, arguments, *_ = decoder.request(request, [memoryview(memory)])
            self.assertFalse(arguments["x"].flags.writeable)

    def test_a_dtype_that_is_named_elsewhere_is_not_remembered(self):
        decoder = Decoder()
        name, data = ExtType(5, bytes(4)), ExtType(4, (1).to_bytes(4, "little"))
        request = packb(["c", {"x": ExtType(6, packb([name, [2], data]))}, None])
        for dtype in ("s64", "f64", "u64"):
            _, arguments, *_ = decoder.request(request, [memoryview(dtype.encode()), memoryview(bytes(16))])
            self.assertEqual(arguments["x"].dtype.kind, {"s": "i"}.get(dtype[0], dtype[0]))

    def test_fold_is_chosen_by_the_offset(self):
        for offset, fold in ((7200, 0), (3600, 1)):
            dst = offset - 3600
            parts = [2024, 10, 27, 2, 30, 0, 0, "Europe/Berlin", "CET", 3600, dst]
            value = request(self.ext(10, parts))[1]["x"]
            self.assertEqual((value.fold, value.utcoffset().total_seconds()), (fold, offset))

    def test_deep_extensions_are_refused_not_crashed_on(self):
        payload = packb([])
        for _ in range(500):
            payload = packb([ExtType(2, payload)])
        with self.assertRaises(CallError):
            Decoder().request(b"\x93\xa1c\x81\xa1x" + payload + b"\xc0")
        value = []
        for _ in range(129):
            value = [value]
        with self.assertRaises(CallError) as caught:
            request(value)
        self.assertEqual(caught.exception.reason, "too_deep")

    def test_random_and_mutated_bytes(self):
        rng = random.Random(3)
        decoder = Decoder()
        good = []
        for _ in range(60):
            enc = Encoder(LIMIT)
            good.append(b"\x93\xa1c\x81\xa1x" + enc.encode(random_value(rng, 4)) + b"\xc0")
        for number in range(20_000):
            if number % 3:
                data = bytearray(rng.choice(good))
                for _ in range(rng.randrange(1, 4)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                data = bytes(data[: rng.randrange(len(data) + 1)] if number % 5 == 0 else data)
            else:
                data = rng.randbytes(rng.randrange(60))
            try:
                decoder.request(data, [memoryview(b"abc")])
            except CallError as error:
                self.assertEqual(error.category, "validation")


if __name__ == "__main__":
    unittest.main()
